//! What a cascade may say of value, of pins and of stages, and what is refused on its line.

use std::sync::Arc;
use std::time::Duration;

use super::{ModelId, Names, PLACE, Policy, chat, names, then};
use crate::confidence::gap::{About, Example, Per, Predictor};
use crate::confidence::{Accept, Feature, Features, Judge};
use crate::plan::{HoldBack, Pin, PinTo, Plan, Stage};
use crate::policy::Facts;

fn about(sha256: Option<&str>) -> About {
    About {
        local: "local/small".into(),
        local_sha256: sha256.map(|digits| digits.repeat(32)),
        upstream: "up/mini".into(),
        rows: 1,
        date: "2026-11-24".into(),
    }
}

/// `v.json` reads answers of the file that `small` runs, `other.json` of another, `p.json` prompts
/// only, `bad.json` cannot be read; `any/m` has no price.
fn named() -> Names {
    let example = Example { prompt: "x".into(), features: Features::of(|_| 0.0), gap: 1.0 };
    let answers =
        |sha256| Predictor::of_answers(about(Some(sha256)), std::slice::from_ref(&example), &[Feature::SumLogprob]);
    let read = [
        ("v.json", answers("ab")),
        ("other.json", answers("cd")),
        ("p.json", Predictor::of_prompts(about(None), [("x", 1.0)])),
    ];
    let mut predictors: std::collections::BTreeMap<_, _> =
        read.into_iter().map(|(name, it)| (name.to_owned(), Ok(Arc::new(it)))).collect();
    predictors.insert("bad.json".to_owned(), Err("bad.json is no predictor of gaps: version 1".to_owned()));
    let files = [(ModelId::new("local/small"), "AB".repeat(32))].into();
    Names { predictors, files, unpriced: [ModelId::new("any/m")].into(), ..names() }
}

fn compile(plan: &str) -> Result<Policy, Vec<String>> {
    Policy::compile(PLACE, &then(plan), &named()).map_err(|all| all.iter().map(ToString::to_string).collect())
}

fn decided(plan: &str) -> (Vec<Stage>, Option<Pin>) {
    let policy = compile(plan).unwrap_or_else(|problems| panic!("{plan}: {problems:?}"));
    match policy.decide(&chat(&["x"]), &Facts::default()).plan {
        Plan::Cascade { stages, pin, .. } => (stages, pin),
        other => panic!("no cascade: {other:?}"),
    }
}

fn accept(stage: &Stage) -> &Accept {
    &stage.gate.as_ref().unwrap().accept
}

const SCORE: &str = "accept = { score = \"min_logprob\", at_least = -1 }";

#[test]
fn a_gate_by_value_has_the_budget_of_its_policy() {
    for (per, wanted) in [("", Per::All), (", per = \"all\"", Per::All), (", per = \"tenant\"", Per::Tenant)] {
        let plan = format!(
            "{{ cascade = [\"small\", \"up/mini\"], accept = {{ value = \"v.json\", usd_per_hour = 0.5{per} }} }}"
        );
        let (stages, _) = decided(&plan);
        let Accept::Value(value) = accept(&stages[0]) else { panic!("{stages:?}") };
        let pacing = &value.pacing;
        assert_eq!((&*pacing.policy, pacing.usd_per_hour, pacing.per), ("p", 0.5, wanted));
    }
}

#[test]
fn stages_are_passed_over_by_what_they_or_the_rule_say() {
    let (stages, _) = decided(&format!(
        "{{ cascade = [\"small\", \"up/mini\"], {SCORE}, skip_local = {{ scorer = \"p.json\", above = 0.3 }} }}"
    ));
    assert_eq!(stages.iter().map(|it| it.skip.as_ref().map(|skip| skip.above)).collect::<Vec<_>>(), [Some(0.3), None]);
    let (stages, _) = decided(&format!(
        "{{ cascade = [{{ model = \"small\", skip_local = {{ scorer = \"v.json\", above = 0 }} }}, \"local/large\", \"up/mini\"], {SCORE} }}"
    ));
    let skips: Vec<Option<f64>> = stages.iter().map(|it| it.skip.as_ref().map(|skip| skip.above)).collect();
    assert_eq!(skips, [Some(0.0), None, None]);
}

#[test]
fn a_stage_may_have_a_gate_of_its_own() {
    let own = "{ model = \"small\", accept = { score = \"margin\", at_least = 2 }, hold_back = 8 }";
    let judge = |feature, threshold| Accept::Threshold(Judge::at_least(feature, threshold));
    let (stages, _) = decided(&format!("{{ cascade = [{own}, \"local/large\", \"up/mini\"], {SCORE} }}"));
    assert_eq!(accept(&stages[0]), &judge(Feature::Margin, 2.0));
    assert_eq!(accept(&stages[1]), &judge(Feature::MinLogprob, -1.0));
    let held: Vec<_> = stages.iter().map(|stage| stage.gate.as_ref().map(|gate| gate.hold_back)).collect();
    assert_eq!(held, [Some(HoldBack::Tokens(8)), Some(HoldBack::All), None]);
    let (stages, _) = decided(&format!("{{ cascade = [{own}, {{ model = \"up/mini\" }}] }}"));
    assert_eq!(stages.len(), 2);
}

#[test]
fn a_conversation_is_pinned_as_the_rule_says() {
    let pin =
        |text: &str| decided(&format!("{{ cascade = [\"small\", \"up/mini\"], {SCORE}, pin = {text} }}")).1.unwrap();
    let usual = Pin { to: PinTo::Upstream, header: "x-session-id".into(), time_to_live: Duration::from_secs(3600) };
    assert_eq!(pin("\"upstream\""), usual);
    assert_eq!(pin("{}"), usual);
    assert_eq!(pin("\"tier\""), Pin { to: PinTo::Tier, ..usual.clone() });
    let own = pin("{ to = \"tier\", header = \"X-Team\", time_to_live = \"5m\" }");
    let wanted = Pin { to: PinTo::Tier, header: "x-team".into(), time_to_live: Duration::from_secs(300) };
    assert_eq!(own, wanted);
    assert_eq!(decided(&format!("{{ cascade = [\"small\", \"up/mini\"], {SCORE} }}")).1, None);
}

#[test]
fn what_cannot_be_is_refused_on_its_line() {
    let two = "cascade = [\"small\", \"up/mini\"]";
    for (plan, wanted) in [
        (format!("{two}, accept = {{ value = \"v.json\" }}"), "accept: missing key \"usd_per_hour\""),
        (format!("{two}, accept = {{ value = \"v.json\", usd_per_hour = 0 }}"), "\"usd_per_hour\" must be above 0"),
        (format!("{two}, accept = {{ value = \"v.json\", usd_per_hour = 1, per = \"x\" }}"), "\"tenant\" or \"all\""),
        (
            format!("{two}, accept = {{ value = \"v.json\", usd_per_hour = 1, max_error = 0.1 }}"),
            "accept: \"max_error\" beside \"value\": who is kept by value depends on what was spent before",
        ),
        (
            format!("{two}, accept = {{ value = \"v.json\", usd_per_hour = 1 }}, hold_back = 4"),
            "\"value\" judges whole answers",
        ),
        (
            format!("{two}, accept = {{ value = \"p.json\", usd_per_hour = 1 }}"),
            "made of prompts alone and can judge no answer",
        ),
        (
            format!("{two}, accept = {{ value = \"bad.json\", usd_per_hour = 1 }}"),
            "value \"bad.json\": bad.json is no predictor",
        ),
        (format!("{two}, accept = {{ value = \"gone.json\", usd_per_hour = 1 }}"), "it has not been read"),
        (
            format!("{two}, accept = {{ value = \"other.json\", usd_per_hour = 1 }}"),
            "was made for another model file, that of local/small",
        ),
        (
            "cascade = [\"small\", \"local/large\", \"up/mini\"], accept = { value = \"v.json\", usd_per_hour = 1 }"
                .to_owned(),
            "but the cascade gates local/small, local/large; name it in one stage",
        ),
        (
            "cascade = [\"small\", \"any/m\"], accept = { value = \"v.json\", usd_per_hour = 1 }".to_owned(),
            "\"value\" weighs the price of any/m, which has none; give it a [[price]]",
        ),
        (format!("{two}, {SCORE}, skip_local = {{ scorer = \"p.json\" }}"), "skip_local: missing key \"above\""),
        (format!("{two}, {SCORE}, skip_local = {{ above = 1 }}"), "skip_local: missing key \"scorer\""),
        (format!("{two}, {SCORE}, pin = \"both\""), "\"pin\" must be \"upstream\" or \"tier\""),
        (
            format!("{two}, {SCORE}, pin = {{ header = \"x-odd\" }}"),
            "header \"x-odd\" is not named in the configuration",
        ),
        (format!("{two}, {SCORE}, pin = {{ time_to_live = \"long\" }}"), "\"time_to_live\" must be a time such as"),
        (
            "cascade = [{ model = \"small\", hold_back = 4 }, \"up/mini\"], accept = { value = \"v.json\", usd_per_hour = 1 }"
                .to_owned(),
            "what this stage goes by is known of the whole answer only",
        ),
        (
            format!("cascade = [\"small\", {{ model = \"up/mini\", hold_back = 4 }}], {SCORE}"),
            "stage 2: the last stage has no gate",
        ),
        (
            format!("cascade = [{{ model = \"small\", {SCORE} }}, \"up/mini\"], {SCORE}"),
            "every stage has an accept of its own; leave this one out",
        ),
        (format!("cascade = [{{ modl = \"small\" }}, \"up/mini\"], {SCORE}"), "stage 1: missing key \"model\""),
        (format!("cascade = [3, \"up/mini\"], {SCORE}, pin = 3"), "\"pin\" must be a table"),
    ] {
        let found = compile(&format!("{{ {plan} }}")).err().unwrap_or_else(|| panic!("{plan} compiles"));
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{plan}: {found:?}");
        assert!(found.iter().all(|problem| problem.starts_with("policies/p.toml:4: rule \"r\": then: ")), "{found:?}");
    }
}

#[test]
fn a_policy_has_one_budget() {
    let rule = |name: &str, when: &str, rate: u8| {
        format!(
            "[[rule]]\nname = \"{name}\"\n{when}then = {{ cascade = [\"small\", \"up/mini\"], accept = {{ value = \"v.json\", usd_per_hour = {rate} }} }}\n"
        )
    };
    let file = |second| format!("name = \"p\"\n{}{}", rule("a", "when = 'request.stream'\n", 1), rule("b", "", second));
    assert!(Policy::compile(PLACE, &file(1), &named()).is_ok());
    let found = Policy::compile(PLACE, &file(2), &named()).unwrap_err();
    assert_eq!(found[0].place, "policies/p.toml:8");
    assert!(found[0].message.contains("a policy has one budget, and above it is 1 usd_per_hour per all"), "{found:?}");
}

#[test]
fn a_file_names_its_predictors_before_it_compiles() {
    let source = "[[rule]]\nthen = { cascade = [{ model = \"a\", accept = { value = \"v.json\", calibration = \"c.json\" } }, \"b\", \"c\"], skip_local = { scorer = \"s.json\" } }\n";
    let all = ["a", "b", "c"].map(str::to_owned).to_vec();
    let wanted = [("s.json".to_owned(), all), ("v.json".to_owned(), vec!["a".to_owned()])];
    assert_eq!(Policy::predictors(source), wanted.into());
    assert_eq!(Policy::calibrations(source), [("c.json".to_owned(), vec!["a".to_owned()])].into());
    assert!(Policy::predictors("= =").is_empty());
}
