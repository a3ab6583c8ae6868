//! What every answer tells about itself: response headers, and the last comment of a stream.
//!
//! Promises: values are printable ASCII whatever names hold; money is a plain decimal without
//! exponent; what is not known yet is absent, not wrong. Told by the Meter, written by `gateway`.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::attempt::{Ending, Leg};
use super::tab::State;
use crate::request::ModelId;

const RULE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What every answer tells about itself, in headers and in a stream's last comment.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// The full name of the model that serves.
    pub served_by: Option<ModelId>,
    /// `NAME@GENERATION; rule=PERCENT-ENCODED`, and `; pinned` where that is so.
    pub policy: Option<String>,
    /// `min_logprob=-1.2, mean_logprob=-0.2, …`, rendered, of the local answer served or judged last.
    pub confidence: Option<String>,
    /// What stands behind the answer kept on the box, or why nothing does; rendered.
    pub certificate: Option<String>,
    /// Dollars, all attempts summed; `None` where a price is unknown or an attempt still runs.
    pub cost_usd: Option<f64>,
    /// Why the answer is not what the plan wanted.
    pub degraded: Option<&'static str>,
    /// `wanted` where feedback on the answer enters an audit.
    pub audit: Option<&'static str>,
    /// The trace in which the request is recorded.
    pub trace_id: Option<u128>,
}

impl Story {
    /// Sets the headers `x-weir-served-by`, `-policy`, `-confidence`, `-certificate`, `-cost-usd`,
    /// `-degraded`, `-audit` and `-trace-id`, as far as they are known.
    pub fn tell(self, headers: &mut HeaderMap) {
        let told = [
            ("x-weir-served-by", self.served_by.as_ref().map(|model| printable(model.as_str()))),
            ("x-weir-policy", self.policy),
            ("x-weir-confidence", self.confidence),
            ("x-weir-certificate", self.certificate),
            ("x-weir-cost-usd", self.cost_usd.map(render_usd)),
            ("x-weir-degraded", self.degraded.map(str::to_owned)),
            ("x-weir-audit", self.audit.map(str::to_owned)),
            ("x-weir-trace-id", self.trace_id.map(|id| format!("{id:032x}"))),
        ];
        for (name, value) in told {
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// `cost-usd=… confidence=…`, for the comment before a stream's `[DONE]`; what is unknown is
    /// left out.
    pub fn comment(&self) -> String {
        let cost = self.cost_usd.map(|cost| format!("cost-usd={}", render_usd(cost)));
        let confidence = self.confidence.as_ref().map(|confidence| format!("confidence={confidence}"));
        cost.into_iter().chain(confidence).collect::<Vec<_>>().join(" ")
    }
}

/// Tells what the tab knows now.
pub(super) fn tell(state: &State) -> Story {
    let running = state.legs.iter().any(|leg| matches!(leg.ending, Ending::Running));
    let policy = state.decided.as_ref().map(|decided| {
        let rule = utf8_percent_encode(&decided.rule, RULE);
        let pinned = if state.pinned { "; pinned" } else { "" };
        format!("{}@{}; rule={rule}{pinned}", printable(&decided.policy), decided.generation)
    });
    Story {
        served_by: state.served_by().cloned(),
        policy,
        confidence: state.legs.iter().rev().find_map(confidence),
        certificate: state.standing().map(|standing| standing.to_string()),
        cost_usd: if running { None } else { state.cost_usd() },
        degraded: state.degraded,
        audit: state.audit.filter(|drawn| drawn.wanted).map(|_| "wanted"),
        trace_id: state.tracing.traced.as_ref().map(|traced| traced.context.trace_id),
    }
}

/// The scores of a local answer, and what further calls said of it.
fn confidence(leg: &Leg) -> Option<String> {
    let scores = leg.least_sure()?.to_string();
    let evidence = leg.evidence.map(|evidence| evidence.to_string()).filter(|told| !told.is_empty());
    Some(evidence.map_or_else(|| scores.clone(), |evidence| format!("{scores}, {evidence}")))
}

fn printable(name: &str) -> String {
    utf8_percent_encode(name, CONTROLS).to_string()
}

/// Dollars as a plain decimal of at most 12 decimals, without trailing zeros.
fn render_usd(dollars: f64) -> String {
    // Whole picodollars: exact where the float is, and much cheaper than {:.12}.
    let picodollars = (dollars * 1e12).round() as u64;
    let text = format!("{}.{:012}", picodollars / 1_000_000_000_000, picodollars % 1_000_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(story: Story) -> HeaderMap {
        let mut headers = HeaderMap::new();
        story.tell(&mut headers);
        headers
    }

    #[test]
    fn money_is_a_plain_decimal() {
        let cases = [(0.0, "0"), (1.0, "1"), (0.000_012_5, "0.0000125"), (1e-12, "0.000000000001"), (10.0, "10")];
        for (dollars, text) in cases {
            assert_eq!(render_usd(dollars), text);
        }
    }

    #[test]
    fn unknown_things_are_left_out() {
        assert!(told(Story::default()).is_empty());
        assert_eq!(Story::default().comment(), "");
        let story = Story { cost_usd: Some(0.25), confidence: Some("margin=1".into()), ..Story::default() };
        assert_eq!(story.comment(), "cost-usd=0.25 confidence=margin=1");
    }

    #[test]
    fn what_stands_behind_an_answer_is_a_header() {
        let story = Story { certificate: Some("uncertified; why=n".into()), ..Story::default() };
        assert_eq!(told(story)["x-weir-certificate"], "uncertified; why=n");
    }

    #[test]
    fn any_name_becomes_a_header() {
        let story = Story { served_by: Some(ModelId::new("up/mödel\r\nx: y")), ..Story::default() };
        assert_eq!(told(story)["x-weir-served-by"], "up/m%C3%B6del%0D%0Ax: y");
    }
}
