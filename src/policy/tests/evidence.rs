//! Scores that are asked for: their keys, and what is wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::accept::accepts_by;
use super::{Names, PLACE, Policy, names, then};
use crate::confidence::{Accept, Feature, Form, Inquiry, Judge, Measure, Second};
use crate::error::Problem;
use crate::request::ModelId;

fn compile(accept: &str, rest: &str, names: &Names) -> Result<Policy, Vec<Problem>> {
    Policy::compile(PLACE, &then(&format!("{{ cascade = [\"small\", \"up/mini\"], accept = {accept}{rest} }}")), names)
}

#[test]
fn a_policy_says_how_evidence_is_asked_for() {
    let usual = Inquiry::default();
    let second = Some(Second { model: "local/large".into(), model_sha256: None });
    let cases = [
        ("{ score = \"p_true\", at_least = 0.6 }", Feature::PTrue, usual.clone()),
        (
            "{ score = \"agreement\", samples = 5, temperature = 0.7, compare = \"number\", at_least = 0.6 }",
            Feature::Agreement,
            Inquiry { samples: 5, temperature: 0.7, compare: Form::Number, ..usual.clone() },
        ),
        (
            "{ score = \"agreement\", second = \"local/large\", at_least = 0.6 }",
            Feature::SecondOpinion,
            Inquiry { second, ..usual },
        ),
    ];
    for (accept, feature, inquiry) in cases {
        let policy = compile(accept, ", hold_back = \"all\"", &names()).unwrap_or_else(|found| panic!("{found:?}"));
        let judge = Judge { measure: Measure::Asked(feature, Arc::new(inquiry)), at_least: 0.6 };
        assert_eq!(*accepts_by(&policy), Accept::Threshold(judge));
    }
}

#[test]
fn what_cannot_be_asked_for_is_a_problem_on_its_line() {
    let cases = [
        ("{ score = \"agreement\", at_least = 0.6 }", "", "\"agreement\" needs samples = 2 to 8, not 0"),
        ("{ score = \"agreement\", samples = 9, at_least = 0.6 }", "", "samples = 2 to 8, not 9"),
        ("{ score = \"second_opinion\", at_least = 0.6 }", "", "needs second = a local model"),
        ("{ score = \"agreement\", second = \"up/mini\", at_least = 1 }", "", "is an upstream; name a local model"),
        ("{ score = \"agreement\", second = \"local/no\", at_least = 1 }", "", "unknown model \"local/no\""),
        ("{ score = \"p_true\", at_least = 1.5 }", "", "nothing reaches 1.5"),
        ("{ score = \"p_true\", at_least = 0.5, compare = \"nmber\" }", "", "unknown form \"nmber\"; did you mean"),
        ("{ score = \"agreement\", samples = 3, temperature = 0, at_least = 1 }", "", "above 0 and at most 2, not 0"),
        (
            "{ score = \"p_true\", at_least = 0.5 }",
            ", hold_back = 16",
            "of a whole answer only; write hold_back = \"all\"",
        ),
    ];
    for (accept, rest, wanted) in cases {
        let found = compile(accept, rest, &names()).unwrap_err();
        assert_eq!(found.len(), 1, "{accept}: {found:?}");
        assert_eq!(found[0].place, "policies/p.toml:4");
        assert!(found[0].message.contains(wanted), "{accept}: {found:?}");
    }
}

#[test]
fn a_small_model_is_noted_where_it_is_asked_about_itself() {
    let accept = "{ score = \"p_true\", at_least = 0.5 }";
    let sized =
        |parameters: u64| Names { parameters: BTreeMap::from([(ModelId::new("local/small"), parameters)]), ..names() };
    let policy = compile(accept, "", &sized(500_000_000)).unwrap();
    assert!(policy.notes()[0].message.contains("p_true of local/small tells little: it has 0.5 billion"));
    assert_eq!(compile(accept, "", &sized(8_000_000_000)).unwrap().notes(), []);
}
