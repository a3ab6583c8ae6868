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
        "Stages of cascades (by model) that were accepted, escalated or failed with no stage after them, and why.";
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
    FEEDBACK: "weir_feedback_total", ["verdict"],
        "What clients said of answers: correct, wrong, scored (0 to 1). Volunteered: it certifies nothing.";
    CAPTURE_DROPPED: "weir_capture_dropped_total", [],
        "Lines that the capture log could not take: its queue was full, or its disk.";
    RELOADS: "weir_reloads_total", ["outcome"],
        "Reloads of the configuration: applied, refused.";
    GENERATION: "weir_generation", [],
        "The generation of the configuration in force.";
    BUILD: "weir_build_info", ["version"],
        "Always 1.";
}
