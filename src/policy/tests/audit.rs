//! How audits are asked for in a file, and what is refused.

use std::time::Duration;

use super::accept::{accepts_by, compile};
use crate::confidence::{Auditing, Compare, Form, Grader};
use crate::request::ModelId;

fn audit(accept: &str) -> Auditing {
    let policy = compile(accept, "").unwrap();
    accepts_by(&policy).grant().unwrap().audit.clone().unwrap()
}

fn model(name: &str, compare: Compare, usd_per_day: f64) -> Grader {
    Grader::Model { model: ModelId::new(name), compare, usd_per_day }
}

#[test]
fn what_is_not_said_is_as_usual_and_the_last_model_grades() {
    let auto = Compare::Form(Form::Auto);
    for (keys, wanted) in [
        ("allowance = 0.02", Auditing::new(0.05, model("up/mini", auto, 1.0), 0.02)),
        (
            "share = 1, by = \"up/maxi\", compare = \"judge\", usd_per_day = 0, allowance = 0",
            Auditing::new(1.0, model("up/maxi", Compare::Judge, 0.0), 0.0),
        ),
        (
            "compare = \"number\", allowance = 0.5",
            Auditing::new(0.05, model("up/mini", Compare::Form(Form::Number), 1.0), 0.5),
        ),
        ("by = \"feedback\"", Auditing::new(0.05, Grader::Feedback { within: Duration::from_secs(24 * 3600) }, 0.0)),
        (
            "by = \"feedback\", within = \"90m\", share = 0.5",
            Auditing::new(0.5, Grader::Feedback { within: Duration::from_secs(90 * 60) }, 0.0),
        ),
    ] {
        let accept = format!("{{ max_error = 0.1, calibration = \"c.json\", audit = {{ {keys} }} }}");
        assert_eq!(audit(&accept), wanted, "{keys}");
    }
}

#[test]
fn what_is_measured_must_be_what_is_promised_or_the_file_says_how_far_off_it_may_be() {
    let asked = |promise: &str, file: &str, audit: &str| {
        format!("{{ {promise} = 0.1, calibration = \"{file}\", audit = {{ {audit} }} }}")
    };
    for (accept, promised, measured) in [
        (asked("max_error", "c.json", ""), "errors is promised", "disagreement with up/mini would be measured"),
        (
            asked("max_disagreement", "up.json", "by = \"feedback\""),
            "disagreement with up/maxi is promised",
            "errors would be measured",
        ),
        (
            asked("max_disagreement", "up.json", ""),
            "disagreement with up/maxi is promised",
            "disagreement with up/mini would be measured",
        ),
    ] {
        let problems = compile(&accept, "").unwrap_err();
        let [problem] = &problems[..] else { panic!("{accept}: {problems:?}") };
        assert!(problem.starts_with("policies/p.toml:4: rule \"r\": then: accept: audit: "), "{problem}");
        assert!(problem.contains(promised) && problem.contains(measured), "{problem}");
        assert!(
            compile(&accept.replace("audit = { ", "audit = { allowance = 0.01, ").replace(", }", " }"), "").is_ok()
        );
    }
    let same = audit(&asked("max_disagreement", "up.json", "by = \"up/maxi\""));
    assert_eq!(same.allowance, 0.0);
}

#[test]
fn bad_values_are_told_with_their_line() {
    for (keys, wanted) in [
        ("share = 0, allowance = 0", "\"share\" must be above 0 and at most 1, not `0`"),
        ("share = 1.5, allowance = 0", "\"share\" must be above 0 and at most 1, not `1.5`"),
        ("allowance = 1", "\"allowance\" must be at least 0 and below 1, not `1`"),
        ("allowance = 0.95", "with it every rate is allowed"),
        ("usd_per_day = -1, allowance = 0", "\"usd_per_day\" must be 0 or more, not `-1`"),
        (
            "compare = \"numbers\", allowance = 0",
            "unknown way to compare \"numbers\"; did you mean \"number\"; known: exact",
        ),
        ("by = \"small\", allowance = 0", "local/small would grade itself"),
        ("by = \"nobody\", allowance = 0", "unknown model \"nobody\""),
        (
            "by = \"feedback\", within = \"soon\"",
            "\"within\" must be a time of 1 s or more, such as \"24h\", not `\"soon\"`",
        ),
        ("by = \"feedback\", compare = \"text\"", "\"compare\" means nothing with by = \"feedback\""),
        ("by = \"feedback\", usd_per_day = 1", "\"usd_per_day\" means nothing with by = \"feedback\""),
        ("within = \"1h\", allowance = 0", "\"within\" means nothing without by = \"feedback\""),
        ("shares = 0.1, allowance = 0", "unknown key \"shares\"; did you mean \"share\""),
    ] {
        // Also where nothing is certified.
        for file in ["c.json", "none.json"] {
            let accept = format!("{{ max_error = 0.1, calibration = \"{file}\", audit = {{ {keys} }} }}");
            let problems = compile(&accept, "").unwrap_err();
            let [problem] = &problems[..] else { panic!("{keys}: {problems:?}") };
            assert!(problem.starts_with("policies/p.toml:4: rule \"r\": then: accept: audit: "), "{problem}");
            assert!(problem.contains(wanted), "{problem}");
        }
    }
}

#[test]
fn only_a_promise_is_audited() {
    for accept in [
        "{ score = \"min_logprob\", at_least = -1, audit = {} }",
        "{ calibration = \"c.json\", at_least = 0.5, audit = {} }",
    ] {
        let problems = compile(accept, "").unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains("unknown key \"audit\""), "{problems:?}");
    }
}

#[test]
fn regret_is_what_nobody_who_grades_one_answer_measures() {
    let accept = |allowance: &str| {
        format!(
            "{{ max_error = 0.1, risk = \"regret\", calibration = \"c.json\", audit = {{ by = \"feedback\"{allowance} }} }}"
        )
    };
    let problems = compile(&accept(""), "").unwrap_err();
    assert!(problems[0].to_string().contains("regret is promised"), "{problems:?}");
    compile(&accept(", allowance = 0.2"), "").unwrap();
}
