//! Every metric family: its name, its help and its labels, once.
//!
//! The names are a promise: boards and alerts rely on them. Labels come from the configuration or
//! from closed enums, never from a client's text; a name that is neither is `other`.

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// The name, unit and all.
    pub name: &'static str,
    /// One sentence for a person.
    pub help: &'static str,
    /// The labels, in order.
    pub labels: &'static [&'static str],
}

/// The label of a model that the configuration does not know.
pub(super) const OTHER: &str = "other";
/// The label where no model served.
pub(super) const NONE: &str = "none";

macro_rules! families {
    ($($id:ident: $name:literal, [$($label:literal),*], $help:literal;)+) => {
        $(pub(super) const $id: Family = Family { name: $name, help: $help, labels: &[$($label),*] };)+

        /// Every family, for the test that boards query nothing else.
        pub const ALL: &[Family] = &[$($id),+];
    };
}

families! {
    REQUESTS: "weir_requests_total", ["model", "served_by", "outcome"],
        "Requests by model asked for, model that served (or none) and outcome (ok, canceled or the error's kind).";
    TOKENS: "weir_tokens_total", ["model", "kind"],
        "Tokens of all attempts: prompt, cached (of the prompt), completion, wasted (generated and thrown away).";
    COST: "weir_cost_usd_total", ["model"],
        "Dollars spent on all attempts, where the price is known.";
    AVOIDED: "weir_avoided_cost_usd_total", ["policy"],
        "Dollars that the dearest stage of each cascade would have cost, less what was spent.";
    WASTED: "weir_wasted_cost_usd_total", ["model"],
        "Dollars spent on attempts of which nothing was served; part of weir_cost_usd_total.";
    UNPRICED: "weir_unpriced_requests_total", ["model"],
        "Requests whose cost is unknown, by the first model without a price.";
    CASCADE: "weir_cascade_total", ["policy", "stage", "outcome", "reason"],
        "Stages of cascades (by model) that were accepted, escalated or failed with no stage after them, and why; \
         and the calls made for evidence on an answer.";
    CONFIDENCE: "weir_confidence", ["model", "score"],
        "Scores of local answers: log-probabilities are at most 0, margins at least 0.";
    TTFT: "weir_ttft_seconds", ["model"],
        "Time from a request's first byte to the first part of its answer that the client may see.";
    ITL: "weir_itl_seconds", ["model"],
        "Time between parts of an answer served.";
    E2E: "weir_e2e_seconds", ["model"],
        "Time from a request's first byte to the end of its answer.";
    OVERHEAD: "weir_overhead_seconds", [],
        "Weir's own share of the time to an answer's head: without waiting for the client or for a backend.";
    UPSTREAM_ERRORS: "weir_upstream_errors_total", ["upstream", "kind"],
        "Failed attempts at upstreams by kind of error.";
    QUEUE_DEPTH: "weir_queue_depth", ["model"],
        "Requests waiting for a slot.";
    SLOTS: "weir_slots", ["model", "state"],
        "Slots by state: busy, free (where their number is limited).";
    KV_USED: "weir_kv_used_ratio", ["model"],
        "Share of a local model's KV cache in use: 0 to 1.";
    MODEL_MEMORY: "weir_model_memory_bytes", ["model", "kind"],
        "Bytes of a local model in memory: weights (models of one file share them), kv. 0 while it is unloaded.";
    MODEL_STATE: "weir_model_state", ["model", "state"],
        "1 for the state a local model is in: loading, warm, canary, draining, unloaded.";
    MODEL_LOADS: "weir_model_loads_total", ["model", "outcome"],
        "Loads of a local model: ok, failed.";
    ENGINE_BATCH: "weir_engine_batch_tokens", ["model"],
        "Tokens that a local model computes in one step, prompts and answers together.";
    ENGINE_TOKENS: "weir_engine_tokens_total", ["model", "kind"],
        "Tokens that a local model computed: prefill (of prompts, what was cached not), decode (of answers).";
    CANARY_REQUESTS: "weir_canary_requests_total", ["model", "arm", "outcome"],
        "Requests since a trial began, by who answered (current, canary) and outcome (ok, failed).";
    CANARY_AGREEMENT: "weir_canary_agreement_ratio", ["model"],
        "Share of compared answers in which a candidate says what its model says: 0 to 1.";
    CANARY_EVIDENCE: "weir_canary_evidence", ["model", "test"],
        "Evidence that a candidate is unfit, by test (failures, disagreement, slower, less_sure): 1 at first.";
    BREAKER: "weir_breaker", ["model", "state"],
        "1 for the state a breaker is in: closed, open, half_open.";
    PACER_LAMBDA: "weir_pacer_lambda", ["policy", "tenant"],
        "Quality that a dollar must bring for an answer to be escalated by value: 0 while the budget is not spent.";
    PACER_SPENT: "weir_pacer_spent_usd_total", ["policy", "tenant"],
        "Dollars that requests of this process spent of budgets held at a rate; tenant all: one budget for all.";
    BUDGET_SPENT: "weir_budget_spent_usd", ["policy", "tenant"],
        "Dollars spent of a budget held at a rate since it began, kept over restarts; falls where too much was counted.";
    BUDGET_LEFT: "weir_budget_left_usd", ["policy", "tenant"],
        "Dollars that a budget held at a rate has saved up; below 0: spent ahead of the rate.";
    CERTIFICATE_STATE: "weir_certificate_state", ["policy", "rule", "slice", "state"],
        "1 for the state a promise is in: certified, uncertified, alarmed, unmonitored.";
    CERTIFICATE_ALPHA: "weir_certificate_alpha", ["policy", "rule", "slice"],
        "The most that the risk may be by the promise that a rule asks for.";
    FEEDBACK: "weir_feedback_total", ["verdict"],
        "What clients said of answers: correct, wrong, scored (0 to 1). Only what was asked for enters audits.";
    AUDIT_KEPT: "weir_audit_kept_total", ["slice"],
        "Answers kept under a certificate that is audited.";
    AUDITS: "weir_audits_total", ["slice", "outcome"],
        "Kept answers drawn to be audited: graded, or skipped for budget, outage, ungradable, silent (no feedback).";
    AUDIT_LOSSES: "weir_audit_losses_total", ["slice", "rate"],
        "Losses of graded answers, summed. rate says of what: errors, or disagreement with the grader.";
    AUDIT_BOUND: "weir_audit_bound_ratio", ["slice", "rate"],
        "The rate above which the promise counts as broken: of errors, or of disagreement with the grader.";
    AUDIT_WEALTH: "weir_audit_wealth", ["slice"],
        "Evidence against the promise: 1 at first, an alarm at 1/(1 - confidence).";
    AUDIT_ALARM: "weir_audit_alarm", ["slice"],
        "1 where audits found the promise broken: the slice is uncertified until it is calibrated anew.";
    AUDIT_UNMONITORED: "weir_audit_unmonitored", ["slice"],
        "1 where more than 5 % of the day's audits got no grade: the slice is uncertified until the day (UTC) ends.";
    AUDIT_COST: "weir_audit_cost_usd_total", ["slice"],
        "Dollars spent on audits; part of weir_cost_usd_total.";
    CAPTURE_DROPPED: "weir_capture_dropped_total", [],
        "Lines that the capture log could not take: its queue was full, or its disk.";
    SPANS: "weir_spans_total", ["outcome"],
        "Spans of traces: exported, or dropped since the collector or the queue did not take them.";
    CONNECTIONS: "weir_connections", ["port"],
        "Open connections by port: data, admin.";
    DRAINING: "weir_draining", [],
        "1 while the process drains.";
    START_TIME: "weir_process_start_time_seconds", [],
        "When the process started, in seconds since 1970.";
    RELOADS: "weir_reloads_total", ["outcome"],
        "Reloads of the configuration: applied, refused, unchanged (no file had changed).";
    CHANGES: "weir_admin_changes_total", ["what"],
        "Changes of what runs, and attempts at them, by what was to be changed (reload, rollback, a model's operation).";
    GENERATION: "weir_generation", [],
        "The generation of the configuration in force.";
    BUILD: "weir_build_info", ["version"],
        "Always 1.";
}

/// Names of spans' attributes. `gen_ai.*`, `error.*`, `server.*` and `service.*` are those of the
/// OpenTelemetry semantic conventions for generative AI; `weir.*` is what these have no word for.
pub mod attribute {
    macro_rules! attributes {
        ($($id:ident: $name:literal, $help:literal;)+) => {
            $(pub(in crate::observe) const $id: &str = $name;)+

            /// Every attribute and what it means.
            pub const ALL: &[(&str, &str)] = &[$(($name, $help)),+];
        };
    }

    attributes! {
        OPERATION: "gen_ai.operation.name", "`chat`, `text_completion` or `embeddings`";
        PROVIDER: "gen_ai.provider.name", "`llama.cpp` on the box; the provider whose address the upstream has, else the upstream's name";
        REQUEST_MODEL: "gen_ai.request.model", "the model asked for: by the client, or of the backend";
        RESPONSE_MODEL: "gen_ai.response.model", "full name of the model that served";
        MAX_TOKENS: "gen_ai.request.max_tokens", "as the client gave it";
        TEMPERATURE: "gen_ai.request.temperature", "as the client gave it";
        TOP_P: "gen_ai.request.top_p", "as the client gave it";
        TOP_K: "gen_ai.request.top_k", "as the client gave it";
        SEED: "gen_ai.request.seed", "as the client gave it";
        FREQUENCY_PENALTY: "gen_ai.request.frequency_penalty", "as the client gave it";
        PRESENCE_PENALTY: "gen_ai.request.presence_penalty", "as the client gave it";
        CHOICES: "gen_ai.request.choice.count", "how many answers, where more than one";
        STREAM: "gen_ai.request.stream", "whether the client asked for a stream";
        OUTPUT_TYPE: "gen_ai.output.type", "`text` or `json`, of chats";
        INPUT_TOKENS: "gen_ai.usage.input_tokens", "tokens of the prompt";
        CACHED_TOKENS: "gen_ai.usage.cache_read.input_tokens", "of these, from a cache";
        OUTPUT_TOKENS: "gen_ai.usage.output_tokens", "tokens generated";
        FINISH_REASONS: "gen_ai.response.finish_reasons", "why a local answer ended";
        FIRST_CHUNK: "gen_ai.response.time_to_first_chunk", "seconds to the first part of the answer";
        INPUT_MESSAGES: "gen_ai.input.messages", "the prompt, with `content = true` only";
        OUTPUT_MESSAGES: "gen_ai.output.messages", "the answer, with `content = true` only";
        SERVER_ADDRESS: "server.address", "host of an upstream that has one address";
        SERVER_PORT: "server.port", "and its port";
        ERROR_TYPE: "error.type", "the kind of the error, as in `weir_requests_total`";
        SERVICE_NAME: "service.name", "`service` of `[telemetry]`";
        SERVICE_VERSION: "service.version", "version of Weir";
        SERVICE_INSTANCE: "service.instance.id", "a new UUID for each process";
        REQUEST_ID: "weir.request.id", "`x-request-id`";
        TENANT: "weir.tenant", "who pays";
        POLICY: "weir.policy", "the policy that decided";
        RULE: "weir.rule", "its rule";
        GENERATION: "weir.generation", "generation of the configuration";
        PLAN: "weir.plan", "`direct`, `cascade` or `reject`";
        OUTCOME: "weir.outcome", "`ok`, `canceled` or the error's kind; of an attempt `served`, `discarded`, `failed`, `canceled`; of an audit `graded` or why it was skipped";
        ORIGIN: "weir.error.origin", "`client`, `gateway`, `local` or `upstream`";
        COST: "weir.cost_usd", "dollars, absent where a price is unknown";
        AVOIDED: "weir.avoided_cost_usd", "dollars that the dearest stage would have cost more";
        WASTED: "weir.wasted_cost_usd", "dollars of work that was thrown away";
        CERTIFICATE: "weir.certificate", "as in `x-weir-certificate`";
        CONFIDENCE: "weir.confidence", "the scores, as in `x-weir-confidence`";
        EVIDENCE: "weir.evidence", "what further calls said of an answer";
        OVERHEAD: "weir.overhead", "seconds of Weir's own to the answer's head";
        PINNED: "weir.pinned", "whether the conversation stayed with its stage";
        DEGRADED: "weir.degraded", "as in `x-weir-degraded`";
        MODEL: "weir.model", "full name of the model of an attempt";
        STAGE: "weir.stage", "its place in the plan, from 0";
        REASON: "weir.reason", "why it was served or not, as in `weir_cascade_total`";
        ESTIMATED: "weir.usage.estimated", "true where the tokens are an estimate";
        ACCEPTED: "weir.gate.accepted", "whether the gate kept the answer";
        SLICE: "weir.slice", "the slice of the certificate that is audited";
        LOSS: "weir.audit.loss", "0 where the promise was kept, 1 where not";
        PROPENSITY: "weir.audit.propensity", "the probability with which the answer was drawn";
        WEALTH: "weir.audit.wealth", "evidence against the promise";
    }
}
