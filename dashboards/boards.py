"""What the five boards show: rows of panels, each with its queries, its unit and what it tells.

In braces `@` stands for the job and instance chosen at the head of a board, `@p` for the policy too, `@m` for
the model too. A query that is empty in good times falls back to 0 (`or on() vector(0)`), so that a blank panel always
means that nothing is scraped. Read by generate.py alone.
"""

RATE = "[$__rate_interval]"
NOTHING = "or on() vector(0)"
LOCAL = 'model=~"local/.*"'
AWAY = 'model!~"local/.*|none|other"'
ON_OFF = {0: ("no", "green"), 1: ("yes", "red")}


def stat(title, unit, tells, expr, **more):
    return {"kind": "stat", "title": title, "unit": unit, "tells": tells, "queries": [(expr, "")], "size": (4, 4), **more}


def lines(title, unit, tells, *queries, **more):
    return {"kind": "timeseries", "title": title, "unit": unit, "tells": tells, "queries": queries, "size": (12, 8),
            "min": 0, **more}


def shape(kind, title, unit, tells, *queries, **more):
    return {"kind": kind, "title": title, "unit": unit, "tells": tells, "queries": queries, "size": (12, 8), **more}


def quantile(share, family, by, matchers="@m"):
    sums = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({sums}) (rate({family}_bucket{{{matchers}}}{RATE})))"


def quantiles(family, matchers="@m"):
    """The median, what one in twenty and what one in a hundred waits longer for, by model."""
    return [(quantile(share, family, ["model"], matchers), f"{{{{model}}}} p{name}")
            for share, name in ((0.5, "50"), (0.95, "95"), (0.99, "99"))]


def share_served(where):
    return (f'sum(rate(weir_requests_total{{@,{where}}}{RATE})) / sum(rate(weir_requests_total{{@}}{RATE}))')


ON_BOX = 'served_by=~"local/.*"'
FAILED = 'served_by="none",outcome!="canceled"'

OVERVIEW = {
    "uid": "weir-overview",
    "title": "Weir: overview and money saved",
    "tells": "Is it well, what does it answer on the box, and what does that save?",
    "by": ["policy", "model"],
    "rows": [
        ("Now", [
            stat("Requests per second", "reqps", "All requests, whatever became of them.",
                 f"sum(rate(weir_requests_total{{@}}{RATE}))"),
            stat("Answered on the box", "percentunit", "Share of all requests that a local model answered.",
                 f"{share_served(ON_BOX)} {NOTHING}"),
            stat("Answered by nobody", "percentunit",
                 "Share of all requests that got an error, the clients' own mistakes included; clients that left do not count.",
                 f"{share_served(FAILED)} {NOTHING}", steps=[(None, "green"), (0.01, "orange"), (0.05, "red")]),
            stat("Saved", "currencyUSD",
                 "Dollars that the dearest stage of each cascade would have cost, less what was spent, in the time shown.",
                 f"sum(increase(weir_avoided_cost_usd_total{{@p}}[$__range])) {NOTHING}", decimals=4),
            stat("Spent", "currencyUSD", "Dollars spent on all attempts in the time shown, where prices are known.",
                 "sum(increase(weir_cost_usd_total{@m}[$__range]))", decimals=4),
            stat("Alerts firing", "short", "Of the alerts in dashboards/alerts.yaml.",
                 f'count(ALERTS{{@,alertname=~"Weir.*",alertstate="firing"}}) {NOTHING}',
                 steps=[(None, "green"), (1, "red")]),
        ]),
        ("Where answers come from", [
            lines("Requests by who answered", "reqps", "Local models, upstreams, or nobody (an error, or a client that left).",
                  (f'sum(rate(weir_requests_total{{@,served_by=~"local/.*"}}{RATE})) {NOTHING}', "on the box"),
                  (f'sum(rate(weir_requests_total{{@,served_by!~"local/.*|none"}}{RATE})) {NOTHING}', "by an upstream"),
                  (f'sum(rate(weir_requests_total{{@,served_by="none"}}{RATE})) {NOTHING}', "by nobody"), stack=True),
            lines("Requests by outcome", "reqps", "ok, canceled (the client left), or the kind of error the client got.",
                  (f"sum by (outcome) (rate(weir_requests_total{{@}}{RATE}))", "{{outcome}}"), stack=True),
            lines("Requests by the name asked for", "reqps", "Names that the configuration does not know are other.",
                  (f"sum by (model) (rate(weir_requests_total{{@m}}{RATE}))", "{{model}}"), stack=True),
            lines("Tokens per second", "short",
                  "Of all attempts: prompt, cached (of the prompt), completion, wasted (generated and thrown away).",
                  (f"sum by (kind) (rate(weir_tokens_total{{@m}}{RATE}))", "{{kind}}")),
        ]),
        ("Money", [
            lines("Dollars per hour", "currencyUSD",
                  "Spent on all attempts; saved against the dearest stage of each cascade; wasted on attempts of which nothing "
                  "was served (part of spent); spent on audits (part of spent).",
                  (f"3600 * sum(rate(weir_cost_usd_total{{@m}}{RATE}))", "spent"),
                  (f"3600 * sum(rate(weir_avoided_cost_usd_total{{@p}}{RATE})) {NOTHING}", "saved"),
                  (f"3600 * sum(rate(weir_wasted_cost_usd_total{{@m}}{RATE}))", "wasted"),
                  (f"3600 * sum(rate(weir_audit_cost_usd_total{{@}}{RATE})) {NOTHING}", "audits")),
            lines("Saved, of what it would have cost", "percentunit",
                  "Saved / (saved + spent), by policy's savings and all models' cost.",
                  (f"sum(rate(weir_avoided_cost_usd_total{{@}}{RATE})) / (sum(rate(weir_avoided_cost_usd_total{{@}}{RATE})) + "
                   f"sum(rate(weir_cost_usd_total{{@}}{RATE}))) {NOTHING}", "saved"), max=1),
            lines("Budget left", "currencyUSD", "Of budgets that policies hold (value, usd_per_hour), with what was saved up.",
                  ("min by (policy, tenant) (weir_budget_left_usd{@p})", "{{policy}} {{tenant}}"),
                  ("max by (policy, tenant) (weir_budget_spent_usd{@p})", "{{policy}} {{tenant}} spent"), min=None),
            shape("bargauge", "Spent by model", "currencyUSD", "In the time shown.",
                  ("sort_desc(sum by (model) (increase(weir_cost_usd_total{@m}[$__range])))", "{{model}}"), min=0),
        ]),
        ("How long it takes", [
            lines("Time to the first token", "s", "From a request's first byte to the first part of its answer.",
                  *quantiles("weir_ttft_seconds")),
            lines("Time to the end of the answer", "s", "From a request's first byte; none: what nobody answered.",
                  *quantiles("weir_e2e_seconds")),
        ]),
    ],
}

CASCADE = {
    "uid": "weir-cascade",
    "title": "Weir: cascade and confidence",
    "tells": "What is kept on the box and why, do promises hold, what does the canary say?",
    "by": ["policy", "model", "score"],
    "rows": [
        ("Gates", [
            lines("What became of stages", "percentunit",
                  "Share of accepted, escalated and failed (no stage after it) answers, by policy.",
                  (f'sum by (policy, outcome) (rate(weir_cascade_total{{@p,outcome!="evidence"}}{RATE})) / ignoring(outcome) '
                   f'group_left sum by (policy) (rate(weir_cascade_total{{@p,outcome!="evidence"}}{RATE}))',
                   "{{policy}} {{outcome}}"), max=1),
            lines("Why answers were kept or not", "ops",
                  "By reason: certified, accepted (a plain threshold), low_confidence, other_key (asked otherwise than was "
                  "certified), alarmed, …; docs/policy.md tells all.",
                  (f"sum by (outcome, reason) (rate(weir_cascade_total{{@p}}{RATE}))", "{{outcome}}: {{reason}}"), stack=True),
            shape("table", "Stages in the time shown", "short", "By policy, stage, outcome and reason.",
                  ("sort_desc(sum by (policy, stage, outcome, reason) (increase(weir_cascade_total{@p}[$__range])))", ""),
                  size=(24, 8), decimals=0),
        ]),
        ("Confidence", [
            shape("heatmap", "Scores of local answers", "short",
                  "How many answers had which score; log-probabilities are at most 0, margins at least 0. Compare with the "
                  "threshold of the policy.",
                  (f'sum by (le) (increase(weir_confidence_bucket{{@m,score="$score"}}{RATE}))', "{{le}}")),
            lines("Score of the middle answer, and of the weakest tenth", "short", "A fall is the first sign of other traffic.",
                  (quantile(0.5, "weir_confidence", ["model"], '@m,score="$score"'), "{{model}} p50"),
                  (quantile(0.1, "weir_confidence", ["model"], '@m,score="$score"'), "{{model}} p10"), min=None),
        ]),
        ("Promises", [
            shape("table", "Certificates", "short",
                  "The state of each slice: certified, uncertified, alarmed (audits found the promise broken), unmonitored.",
                  ("max by (policy, rule, slice, state) (weir_certificate_state{@p} == 1)", ""), hide=["Value"]),
            shape("table", "Promised error", "percentunit", "Alpha of the certificate in force, by slice.",
                  ("max by (policy, rule, slice) (weir_certificate_alpha{@p})", "")),
            stat("Alarms", "short", "Slices whose promise audits found broken. Way out: a new calibration.",
                 f"sum(weir_audit_alarm{{@}}) {NOTHING}", steps=[(None, "green"), (1, "red")], size=(6, 4)),
            stat("Unmonitored slices", "short", "More than 5 % of the day's audits got no grade.",
                 f"sum(weir_audit_unmonitored{{@}}) {NOTHING}", steps=[(None, "green"), (1, "orange")], size=(6, 4)),
            stat("Kept under a promise", "ops", "Answers kept under an audited certificate.",
                 f"sum(rate(weir_audit_kept_total{{@}}{RATE})) {NOTHING}", size=(6, 4)),
            stat("Spent on audits", "currencyUSD", "In the time shown.",
                 f"sum(increase(weir_audit_cost_usd_total{{@}}[$__range])) {NOTHING}", size=(6, 4), decimals=4),
            lines("Audits by outcome", "ops", "graded, or why there was no grade: budget, outage, ungradable, silent.",
                  (f"sum by (slice, outcome) (rate(weir_audits_total{{@}}{RATE})) {NOTHING}", "{{slice}} {{outcome}}"), stack=True),
            lines("Losses found, and the rate that breaks the promise", "percentunit",
                  "Losses / graded answers in the time shown (how far to believe it: the evidence beside it).",
                  ("sum by (slice) (increase(weir_audit_losses_total{@}[$__range])) / "
                   'sum by (slice) (increase(weir_audits_total{@,outcome="graded"}[$__range]))', "{{slice}}"),
                  ("min by (slice) (weir_audit_bound_ratio{@})", "{{slice}} broken above"), max=1),
            lines("Evidence against the promise", "short",
                  "The wealth of the bet against it (an e-process): 1 at first, an alarm at 1/(1 - confidence).",
                  ("max by (slice) (weir_audit_wealth{@})", "{{slice}}"), log=10, min=None),
            lines("Feedback of clients", "ops", "What clients said of answers; only what was asked for enters audits.",
                  (f"sum by (verdict) (rate(weir_feedback_total{{@}}{RATE})) {NOTHING}", "{{verdict}}")),
        ]),
        ("Value", [
            lines("Quality a dollar must bring", "short", "Lambda of each budget: 0 while it is not spent.",
                  ("max by (policy, tenant) (weir_pacer_lambda{@p})", "{{policy}} {{tenant}}")),
            lines("Spent of budgets, per hour", "currencyUSD", "To be compared with usd_per_hour of the rule.",
                  (f"3600 * sum by (policy, tenant) (rate(weir_pacer_spent_usd_total{{@p}}{RATE}))", "{{policy}} {{tenant}}")),
        ]),
        ("Canary", [
            lines("Requests by arm", "reqps", "current is the model in force, canary the candidate.",
                  (f"sum by (model, arm, outcome) (rate(weir_canary_requests_total{{@m}}{RATE})) {NOTHING}",
                   "{{model}} {{arm}} {{outcome}}"), stack=True),
            lines("Agreement with the model in force", "percentunit", "On the shadow sample.",
                  (f"min by (model) (weir_canary_agreement_ratio{{@m}}) {NOTHING}", "{{model}}"), max=1),
            lines("Evidence against the canary", "short",
                  "By test; roll-back comes by itself when one passes its bound.",
                  (f"max by (model, test) (weir_canary_evidence{{@m}}) {NOTHING}", "{{model}} {{test}}"), log=10, min=None),
        ]),
    ],
}

ENGINES = {
    "uid": "weir-engines",
    "title": "Weir: local engines",
    "tells": "How busy are the models inside, and is there room?",
    "by": ["model"],
    "rows": [
        ("Models", [
            shape("state-timeline", "State of models", "short", "loading, warm, canary, draining, unloaded: yes where it is in it.",
                  (f"max by (model, state) (weir_model_state{{@m,{LOCAL}}})", "{{model}} {{state}}"),
                  words={0: ("no", "transparent"), 1: ("yes", "green")}),
            lines("Memory", "bytes", "Weights and KV cache, by model.",
                  (f"sum by (model, kind) (weir_model_memory_bytes{{@m,{LOCAL}}})", "{{model}} {{kind}}"), stack=True),
            lines("Loads", "short", "Loads of models in the time shown, by outcome.",
                  (f"sum by (model, outcome) (increase(weir_model_loads_total{{@m}}[$__range]))", "{{model}} {{outcome}}")),
            lines("Waiting and turned away", "short",
                  "Requests that wait for a slot, and those turned away a second because the queue was full (429).",
                  (f"sum by (model) (weir_queue_depth{{@m,{LOCAL}}})", "{{model}} waiting"),
                  (f'sum(rate(weir_requests_total{{@,outcome="overloaded"}}{RATE})) {NOTHING}', "turned away/s")),
        ]),
        ("Work", [
            lines("Tokens the engine computed, per second", "short", "prefill: of prompts; decode: of answers.",
                  (f"sum by (model, kind) (rate(weir_engine_tokens_total{{@m}}{RATE}))", "{{model}} {{kind}}")),
            lines("Tokens of answers, per second", "short", "By kind; cached are those of a prompt that were not computed anew.",
                  (f"sum by (model, kind) (rate(weir_tokens_total{{@m,{LOCAL}}}{RATE}))", "{{model}} {{kind}}")),
            shape("heatmap", "Tokens in a batch", "short", "How large the steps of llama.cpp are.",
                  (f"sum by (le) (increase(weir_engine_batch_tokens_bucket{{@m}}{RATE}))", "{{le}}")),
            lines("Mean batch", "short", "Tokens in a step of llama.cpp.",
                  (f"sum by (model) (rate(weir_engine_batch_tokens_sum{{@m}}{RATE})) / "
                   f"sum by (model) (rate(weir_engine_batch_tokens_count{{@m}}{RATE}))", "{{model}}")),
            lines("Slots", "short", "Answers under way, and room for more.",
                  (f"sum by (model, state) (weir_slots{{@m,{LOCAL}}})", "{{model}} {{state}}"), stack=True),
            lines("KV cache in use", "percentunit", "Share of the cells of a model's context.",
                  ("max by (model) (weir_kv_used_ratio{@m})", "{{model}}"), max=1),
            lines("Prompt tokens found in the cache", "percentunit", "Cached / prompt tokens.",
                  (f'sum by (model) (rate(weir_tokens_total{{@m,{LOCAL},kind="cached"}}{RATE})) / '
                   f'sum by (model) (rate(weir_tokens_total{{@m,{LOCAL},kind="prompt"}}{RATE}))', "{{model}}"), max=1),
            lines("Tokens thrown away", "percentunit", "Of generated tokens: answers that were refused, or that clients left.",
                  (f'sum by (model) (rate(weir_tokens_total{{@m,{LOCAL},kind="wasted"}}{RATE})) / '
                   f'sum by (model) (rate(weir_tokens_total{{@m,{LOCAL},kind="completion"}}{RATE}))', "{{model}}"), max=1),
        ]),
        ("What clients see", [
            lines("Time to the first token", "s", "Of what local models answered.", *quantiles("weir_ttft_seconds", f"@m,{LOCAL}")),
            lines("Time between tokens", "s", "Between parts of an answer served.", *quantiles("weir_itl_seconds", f"@m,{LOCAL}")),
        ]),
    ],
}

UPSTREAMS = {
    "uid": "weir-upstreams",
    "title": "Weir: upstreams",
    "tells": "Do the models behind APIs answer, how fast, and what do they cost?",
    "by": ["model"],
    "rows": [
        ("Health", [
            lines("Requests answered", "reqps", "By the upstream's model that answered.",
                  (f'sum by (served_by) (rate(weir_requests_total{{@,served_by=~"$model",served_by!~"local/.*|none"}}{RATE})) '
                   f"{NOTHING}", "{{served_by}}"), stack=True),
            lines("Errors by kind", "ops", "Failed attempts, retries too.",
                  (f"sum by (upstream, kind) (rate(weir_upstream_errors_total{{@}}{RATE})) {NOTHING}", "{{upstream}} {{kind}}"),
                  stack=True),
            shape("state-timeline", "Breakers open", "short", "While open nothing is sent; half-open tries one request.",
                  (f'max by (model) (weir_breaker{{@m,{AWAY},state="open"}})', "{{model}}"), words=ON_OFF),
            lines("Requests under way", "short", "Being answered by upstreams.",
                  (f'sum by (model) (weir_slots{{@m,{AWAY},state="busy"}})', "{{model}}")),
        ]),
        ("How long it takes", [
            lines("Time to the first token", "s", "Of what upstreams answered, what a cascade tried before included.",
                  *quantiles("weir_ttft_seconds", f"@m,{AWAY}")),
            lines("Time between tokens", "s", "Between parts of an answer served.", *quantiles("weir_itl_seconds", f"@m,{AWAY}")),
            lines("Time to the end of the answer", "s", "From a request's first byte.",
                  *quantiles("weir_e2e_seconds", f"@m,{AWAY}")),
            lines("Tokens per second", "short", "Prompt, cached, completion; wasted is part of completion.",
                  (f"sum by (model, kind) (rate(weir_tokens_total{{@m,{AWAY}}}{RATE}))", "{{model}} {{kind}}")),
        ]),
        ("Cost", [
            lines("Dollars per hour", "currencyUSD", "By model, all attempts.",
                  (f"3600 * sum by (model) (rate(weir_cost_usd_total{{@m,{AWAY}}}{RATE}))", "{{model}}"), stack=True),
            lines("Wasted share of cost", "percentunit", "Dollars for attempts of which nothing was served / all dollars.",
                  (f"sum by (model) (rate(weir_wasted_cost_usd_total{{@m,{AWAY}}}{RATE})) / "
                   f"(sum by (model) (rate(weir_cost_usd_total{{@m,{AWAY}}}{RATE})) > 0) {NOTHING}", "{{model}}"), max=1),
            lines("Requests without a price", "reqps", "Their cost is in no figure here; add a [[price]].",
                  (f"sum by (model) (rate(weir_unpriced_requests_total{{@m}}{RATE})) {NOTHING}", "{{model}}")),
        ]),
    ],
}

OPERATIONS = {
    "uid": "weir-operations",
    "title": "Weir: operations",
    "tells": "What is in force, what changed, and how does the process do?",
    "by": [],
    "rows": [
        ("In force", [
            shape("table", "Version", "short", "Of each process.", ("max by (instance, version) (weir_build_info{@})", ""),
                  size=(6, 4), hide=["Value"]),
            stat("Generation", "short", "Of the configuration in force; counts from 1 at each start.",
                 "max(weir_generation{@})"),
            stat("Reloads refused", "short", "In the time shown. The reasons stand in the log.",
                 f'sum(increase(weir_reloads_total{{@,outcome="refused"}}[$__range])) {NOTHING}', decimals=0,
                 steps=[(None, "green"), (1, "red")]),
            stat("Draining", "short", "Processes that accept nothing more and finish what is under way.",
                 f"sum(weir_draining{{@}}) {NOTHING}", steps=[(None, "green"), (1, "orange")]),
            stat("Up", "short", "Processes whose last scrape was answered.", "sum(up{@})"),
            lines("Generation by process", "short", "One that stays behind has refused a reload.",
                  ("max by (instance) (weir_generation{@})", "{{instance}}")),
            lines("Reloads", "short", "In the time shown, by outcome.",
                  (f"sum by (outcome) (increase(weir_reloads_total{{@}}[$__range])) {NOTHING}", "{{outcome}}")),
            lines("Changes by the admin port", "short", "In the time shown; who did them stands in /admin/changes.",
                  (f"sum by (what) (increase(weir_admin_changes_total{{@}}[$__range])) {NOTHING}", "{{what}}")),
            lines("Connections", "short", "Open now, by port.", ("sum by (port) (weir_connections{@})", "{{port}}")),
        ]),
        ("What Weir itself costs", [
            lines("Overhead", "s", "Weir's own share of the time to an answer's head: no waiting for a client or a backend.",
                  (quantile(0.5, "weir_overhead_seconds", [], "@"), "p50"),
                  (quantile(0.99, "weir_overhead_seconds", [], "@"), "p99")),
            shape("heatmap", "Overhead, all requests", "s", "How many requests had which overhead.",
                  (f"sum by (le) (increase(weir_overhead_seconds_bucket{{@}}{RATE}))", "{{le}}")),
            lines("CPU", "short", "Cores in use.", (f"sum by (instance) (rate(process_cpu_seconds_total{{@}}{RATE}))", "{{instance}}")),
            lines("Memory", "bytes", "Resident, model files included as far as they are mapped.",
                  ("max by (instance) (process_resident_memory_bytes{@})", "{{instance}}")),
            lines("File descriptors", "percentunit", "Open / allowed.",
                  ("max by (instance) (process_open_fds{@} / process_max_fds{@})", "{{instance}}"), max=1),
            lines("Time since the start", "s", "Falls to 0 where a process began anew.",
                  ("time() - max by (instance) (weir_process_start_time_seconds{@})", "{{instance}}")),
        ]),
        ("What is told", [
            lines("Spans", "ops", "Exported, or dropped because the collector could not keep up.",
                  (f"sum by (outcome) (rate(weir_spans_total{{@}}{RATE})) {NOTHING}", "{{outcome}}")),
            lines("Capture lines dropped", "ops", "What the capture log's queue or disk could not take.",
                  (f"sum(rate(weir_capture_dropped_total{{@}}{RATE})) {NOTHING}", "dropped")),
            lines("Scrapes", "s", "How long Prometheus waits for /metrics.",
                  ("max by (instance) (scrape_duration_seconds{@})", "{{instance}}")),
        ]),
    ],
}

ALL = [OVERVIEW, CASCADE, ENGINES, UPSTREAMS, OPERATIONS]
