//! What a gate is asked for in a file: what it goes by then, what is refused, what is only noted.

use std::sync::Arc;

use super::{ModelId, Names, PLACE, Policy, chat, names, then};
use crate::confidence::{Accept, AgreedError, Basis, Calibration, Feature, Judge, Score};
use crate::plan::Plan;
use crate::policy::Facts;

/// The SHA-256 of the model file that the calibration is for.
const ITS_FILE: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

fn calibration() -> Calibration {
    Calibration::parse(include_bytes!("../../../tests/fixtures/calibration.json")).unwrap()
}

/// `small` runs the calibration's file, `local/large` another; `c.json`, `up.json` (labels of an
/// upstream), `raw.json` (a score that is no probability) and `none.json` (no certificate) are read.
fn named() -> Names {
    let gold = calibration();
    let raw = Score::Feature(crate::confidence::Raw { feature: Feature::SumLogprob });
    let others = [
        ("up.json", Calibration { basis: Basis::UpstreamAgreement, grader: Some("up/maxi".into()), ..gold.clone() }),
        ("known.json", {
            let mut known =
                Calibration { basis: Basis::UpstreamAgreement, grader: Some("up/maxi".into()), ..gold.clone() };
            let error = AgreedError { agreed: 88, wrong: 0, beta: 0.03, at_most: 0.13, delta: 0.15 };
            known.certificates.iter_mut().for_each(|certificate| certificate.error = Some(error));
            known
        }),
        ("raw.json", Calibration { score: raw, ..gold.clone() }),
        ("none.json", Calibration { certificates: Vec::new(), ..gold.clone() }),
        ("c.json", gold),
    ];
    let mut calibrations: std::collections::BTreeMap<_, _> =
        others.into_iter().map(|(name, it)| (name.to_owned(), Ok(Arc::new(it)))).collect();
    calibrations.insert("bad.json".to_owned(), Err("bad.json is no calibration: version 2 is not known".to_owned()));
    let other_file = "0123456789abcdef".repeat(4);
    let files = [("local/small", ITS_FILE), ("local/large", &other_file)];
    let files = files.map(|(model, hash)| (ModelId::new(model), hash.to_owned())).into();
    Names { calibrations, files, ..names() }
}

pub(super) fn compile(accept: &str, rest: &str) -> Result<Policy, Vec<String>> {
    let plan = format!("{{ cascade = [\"small\", \"up/mini\"], accept = {accept}{rest} }}");
    Policy::compile(PLACE, &then(&plan), &named())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

pub(super) fn accepts_by(policy: &Policy) -> Arc<Accept> {
    let Plan::Cascade { stages, .. } = policy.decide(&chat(&["x"]), &Facts::default()).plan else {
        panic!("no cascade")
    };
    stages[0].gate.as_ref().map(|gate| Arc::clone(&gate.accept)).unwrap()
}

/// What keeps the promise and who accepts without it, in words.
fn in_words(accept: &Accept) -> (String, String) {
    let Accept::Promise { granted, otherwise } = accept else { panic!("no promise: {accept:?}") };
    let granted = match granted {
        Ok(grant) => format!("{grant} from {}", grant.judge.at_least),
        Err(why) => why.name().to_owned(),
    };
    (granted, otherwise.as_ref().map_or_else(String::new, ToString::to_string))
}

#[test]
fn a_promise_is_kept_by_its_certificate_and_else_by_the_fallback_or_nobody() {
    let slice = "slice=facts%2C%20short";
    for (accept, granted, otherwise) in [
        (
            "{ max_error = 0.1, calibration = \"c.json\" }",
            &*format!("max_error=0.1 confidence=0.9 {slice} from 0.8"),
            "",
        ),
        (
            "{ max_error = 0.05, confidence = 0.95, calibration = \"c.json\", else_threshold = 0.85 }",
            &*format!("max_error=0.05 confidence=0.95 {slice} from 0.95"),
            "facts-small >= 0.85",
        ),
        (
            "{ max_error = 0.2, risk = \"joint\", calibration = \"c.json\" }",
            &*format!("max_error=0.05 risk=joint confidence=0.9 {slice} from 0.7"),
            "",
        ),
        (
            "{ max_disagreement = 0.1, calibration = \"up.json\" }",
            &*format!("max_disagreement=0.1 with=up%2Fmaxi confidence=0.9 {slice} from 0.8"),
            "",
        ),
        (
            "{ max_error = 0.01, calibration = \"c.json\", else_threshold = 0.9 }",
            "no_certificate",
            "facts-small >= 0.9",
        ),
        ("{ max_error = 0.1, risk = \"regret\", calibration = \"c.json\" }", "no_certificate", ""),
        (
            "{ max_error = 0.1, calibration = \"raw.json\", else_threshold = 0.5 }",
            &*format!("max_error=0.1 confidence=0.9 {slice} from 0.8"),
            "min_logprob >= -0.6931",
        ),
        ("{ max_error = 0.05, confidence = 0.9, else_threshold = 0.5 }", "no_calibration", "min_logprob >= -0.6931"),
        ("{ max_error = 0.05 }", "no_calibration", ""),
    ] {
        let policy = compile(accept, "").unwrap_or_else(|problems| panic!("{accept}: {problems:?}"));
        assert_eq!(in_words(&accepts_by(&policy)), (granted.to_owned(), otherwise.to_owned()), "{accept}");
    }
}

#[test]
fn a_calibrated_threshold_promises_nothing() {
    let policy = compile("{ calibration = \"c.json\", at_least = 0.8 }", "").unwrap();
    let judge = Judge::calibrated(Arc::new(calibration()), 0.8);
    assert_eq!((&*accepts_by(&policy), policy.notes()), (&Accept::Threshold(judge), &[][..]));
    assert!(compile("{ calibration = \"raw.json\", at_least = -3 }", "").is_ok());
}

#[test]
fn what_cannot_be_promised_is_refused_on_its_line() {
    for (accept, wanted) in [
        (
            "{ max_error = 0.1, calibration = \"up.json\" }",
            "max_error needs gold labels, but calibration \"facts-small\" measures the disagreement with up/maxi \
             (basis upstream-agreement); ask for max_disagreement, or calibrate on gold labels",
        ),
        ("{ max_disagreement = 0.1, calibration = \"c.json\" }", "measures errors (basis gold); ask for max_error"),
        (
            "{ max_error = 0.1, calibration = \"bad.json\" }",
            "calibration \"bad.json\": bad.json is no calibration: version 2",
        ),
        ("{ max_error = 0.1, calibration = \"gone.json\" }", "calibration \"gone.json\": it has not been read"),
        ("{ calibration = \"bad.json\", at_least = 0.5 }", "calibration \"bad.json\": bad.json is no calibration"),
        ("{ max_error = 0.1, calibration = 3 }", "\"calibration\" must be a string, not `3`"),
        ("{ max_error = 0.1, risk = \"regrets\" }", "\"risk\" must be \"selective\", \"regret\" or \"joint\""),
        ("{ max_error = 0.1, max_disagreement = 0.1 }", "unknown key \"max_disagreement\""),
        ("{ max_disagreement = 0 }", "\"max_disagreement\" must be between 0 and 1"),
        ("{ max_error = 0.1, else_threshold = 1 }", "\"else_threshold\" must be between 0 and 1"),
        ("{ calibration = \"c.json\" }", "missing key \"at_least\""),
        ("{ calibration = \"c.json\", at_least = 1.5 }", "nothing reaches 1.5: a probability is never above 1"),
        ("{ calibration = \"c.json\", at_least = 0.5, score = \"margin\" }", "unknown key \"score\""),
        ("{ at_least = 0.5 }", "missing key \"score\""),
    ] {
        let found = compile(accept, "").err().unwrap_or_else(|| panic!("{accept} compiles"));
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{accept}: {found:?}");
        assert!(
            found.iter().all(|problem| problem.starts_with("policies/p.toml:4: rule \"r\": then: accept: ")),
            "{found:?}"
        );
    }
}

#[test]
fn a_calibration_for_another_model_file_is_refused_with_both_hashes_and_the_model() {
    for (cascade, wanted) in [
        (
            "\"local/large\", \"up/mini\"",
            "calibration \"c.json\": was made for another model file: for local/small with sha256 ba7816bf8f01…, \
             but local/large runs 0123456789ab…; calibrate local/large anew",
        ),
        ("\"small\", \"local/large\", \"up/mini\"", "but the cascade gates local/small, local/large; gate one of them"),
    ] {
        let plan = format!("{{ cascade = [{cascade}], accept = {{ max_error = 0.1, calibration = \"c.json\" }} }}");
        let found = Policy::compile(PLACE, &then(&plan), &named()).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().contains(wanted), "{found:?}");
    }
}

#[test]
fn a_promise_that_nothing_keeps_is_noted_on_its_line_and_no_problem() {
    for (accept, rest, wanted) in [
        (
            "{ max_error = 0.05 }",
            "",
            "nothing certifies max_error = 0.05 (risk selective, confidence 0.9), for no calibration is named: all of it escalates",
        ),
        (
            "{ max_error = 0.01, calibration = \"c.json\", else_threshold = 0.9 }",
            "",
            "calibration \"facts-small\" certifies selective risk at most 0.05 with confidence 0.95; ",
        ),
        ("{ max_error = 0.1, calibration = \"none.json\" }", "", "certifies nothing: all of it escalates"),
        (
            "{ max_error = 0.1, calibration = \"c.json\", else_threshold = 0.9 }",
            ", hold_back = 16",
            "streams are judged after 16 tokens, as the certified answers were not: else_threshold decides, uncertified",
        ),
    ] {
        let policy = compile(accept, rest).unwrap_or_else(|problems| panic!("{accept}: {problems:?}"));
        let [note] = policy.notes() else { panic!("{accept}: {:?}", policy.notes()) };
        assert_eq!(note.place, "policies/p.toml:4");
        assert!(note.message.starts_with("rule \"r\": then: accept: ") && note.message.contains(wanted), "{note}");
    }
    assert_eq!(compile("{ max_error = 0.1, calibration = \"c.json\" }", "").unwrap().notes(), []);
}

#[test]
fn what_known_answers_say_of_the_error_is_noted() {
    let policy = compile("{ max_disagreement = 0.1, calibration = \"known.json\" }", "").unwrap();
    let [note] = policy.notes() else { panic!("{:?}", policy.notes()) };
    let wanted =
        "of the answers kept: error at most 0.13 with confidence 0.85 (0 of 88 that agree are wrong all the same";
    assert!(note.message.contains(wanted), "{note}");
}

#[test]
fn a_file_names_its_calibrations_before_it_compiles() {
    let one = "then = { cascade = [\"small\", \"up/mini\"], accept = { max_error = 0.1, calibration = \"a.json\" } }";
    let source = format!("[[rule]]\n{one}\n[[rule]]\n{}\n[[rule]]\nthen = 3\n", one.replace("a.json", "../b.json"));
    let models = vec!["small".to_owned(), "up/mini".to_owned()];
    let named = [("../b.json".to_owned(), models.clone()), ("a.json".to_owned(), models)];
    assert_eq!(Policy::calibrations(&source), named.into());
    for nothing in ["", "rule = 3", "[[rule]]\nthen = { accept = { calibration = 3 } }", "= ="] {
        assert!(Policy::calibrations(nothing).is_empty(), "{nothing}");
    }
}

#[test]
fn a_case_can_say_what_stands_behind_an_answer() {
    let policy = compile("{ max_error = 0.1, calibration = \"c.json\" }", "").unwrap();
    let case = |request: &str, certificate: &str| {
        format!(r#"{{"name":"a","request":{{"text":"x"{request}}},"expect":{{"certificate":"{certificate}"}}}}"#)
    };
    let certified = "max_error=0.1 confidence=0.9 slice=facts%2C%20short";
    for (request, certificate) in [
        ("", certified),
        (",\"temperature\":0.7", "uncertified; why=sampler"),
        (",\"max_tokens\":9", "uncertified; why=max_tokens"),
        (",\"n\":2", "uncertified; why=n"),
        (",\"tools\":1", "uncertified; why=tools"),
        (",\"json\":true", "uncertified; why=constraint"),
    ] {
        assert_eq!(policy.check_cases("c.jsonl", &case(request, certificate)), [], "{request}");
    }
    let found = policy.check_cases("c.jsonl", &case(",\"n\":2", certified));
    assert!(found[0].message.contains("expected certificate \"max_error=0.1"), "{found:?}");
    assert!(found[0].message.ends_with("with certificate \"uncertified; why=n\""), "{found:?}");
    let plain = compile("{ score = \"margin\", at_least = 1 }", "").unwrap();
    assert_eq!(plain.check_cases("c.jsonl", &case("", "none")), []);
}

#[test]
fn what_speaks_of_another_file_than_was_promoted_lapses_and_promises_nothing_more() {
    let mut names = named();
    names.promoted.insert(ModelId::new("local/large"));
    for (accept, promised) in [
        ("{ max_error = 0.1, calibration = \"c.json\", else_threshold = 0.5 }", true),
        ("{ calibration = \"c.json\", at_least = 0.5 }", false),
    ] {
        let plan = format!("{{ cascade = [\"local/large\", \"up/mini\"], accept = {accept} }}");
        let policy = Policy::compile(PLACE, &then(&plan), &names).unwrap();
        let [lapse] = policy.lapses() else { panic!("{accept}: {:?}", policy.lapses()) };
        assert_eq!((&*lapse.rule, lapse.model.as_str()), ("r", "local/large"));
        assert_eq!(policy.grants().count(), 0, "{accept}");
        if promised {
            let [note] = policy.notes() else { panic!("{:?}", policy.notes()) };
            assert!(note.message.contains("another file was promoted than that of local/small which"), "{note}");
            assert_eq!(policy.promises()[0].state(), "uncertified");
        }
    }
    // A model that was promoted too, and runs the file that its calibration is for, has lost nothing.
    names.promoted.insert(ModelId::new("local/small"));
    let plan = "{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 0.1, calibration = \"c.json\" } }";
    let policy = Policy::compile(PLACE, &then(plan), &names).unwrap();
    assert_eq!((policy.lapses().len(), policy.grants().count()), (0, 1));
}
