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
    BREAKER: "weir_breaker", ["model", "state"],
        "1 for the state a breaker is in: closed, open, half_open.";
    PACER_LAMBDA: "weir_pacer_lambda", ["policy", "tenant"],
        "Quality that a dollar must bring for an answer to be escalated by value: 0 while the budget is not spent.";
    PACER_SPENT: "weir_pacer_spent_usd_total", ["policy", "tenant"],
        "Dollars spent of budgets held at a rate, requests in flight as expected; tenant all: one budget for all.";
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
    RELOADS: "weir_reloads_total", ["outcome"],
        "Reloads of the configuration: applied, refused, unchanged (no file had changed).";
    GENERATION: "weir_generation", [],
        "The generation of the configuration in force.";
    BUILD: "weir_build_info", ["version"],
        "Always 1.";
}
