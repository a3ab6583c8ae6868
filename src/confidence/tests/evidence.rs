//! What is read off texts, what is made of further calls, and what a judge makes of both.

use std::sync::Arc;

use super::calibration::calibration;
use crate::confidence::evidence::{agreement, yes_share};
use crate::confidence::{
    Evidence, Feature, Form, Inquiry, Judge, Logistic, Measure, Running, Score, Source, Term, Weighed,
};
use crate::request::Trace;

fn sure(logprob: f32) -> Running {
    Running::of(&Trace { logprobs: vec![logprob], margins: vec![1.0], entropies: vec![0.1], ended: true })
}

fn read(prompt: &str, answer: &str, feature: Feature) -> f64 {
    Evidence::of_texts(prompt, answer, false).get(feature)
}

#[test]
fn texts_tell_what_their_formulas_say() {
    let cases = [
        ("q", "a b c d a b c d", Feature::Repetition, 1.0 / 5.0),
        ("q", "a b c", Feature::Repetition, 0.0),
        ("q", "I'm sorry, but I can't help.", Feature::Refusal, 1.0),
        ("q", "No.", Feature::Refusal, 0.0),
        ("q", "one two", Feature::AnswerWords, 3f64.ln()),
        ("q", "one\ntwo", Feature::AnswerLines, 3f64.ln()),
        ("q", "42", Feature::AnswerIsNumber, 1.0),
        ("q", "(B)", Feature::AnswerIsLetter, 1.0),
        ("q", "{\"a\": 1}", Feature::AnswerIsJson, 1.0),
        ("Is it Red, or blue?", "red", Feature::AnswerInPrompt, 1.0),
        ("Is it red?", "green", Feature::AnswerInPrompt, 0.0),
        ("a b", "x", Feature::PromptWords, 3f64.ln()),
        ("a\nb", "x", Feature::PromptLines, 3f64.ln()),
        ("a1b2", "x", Feature::PromptDigits, 0.5),
        ("a,b.", "x", Feature::PromptSymbols, 0.5),
        ("AbCd", "x", Feature::PromptCapitals, 0.5),
    ];
    for (prompt, answer, feature, value) in cases {
        assert!((read(prompt, answer, feature) - value).abs() < 1e-12, "{feature} of {answer}");
    }
}

#[test]
fn an_answer_parses_unless_json_was_demanded_and_is_not_there() {
    for (answer, json, parses) in [("{\"a\":1}", true, 1.0), ("{\"a\":", true, 0.0), ("text", false, 1.0)] {
        assert_eq!(Evidence::of_texts("q", answer, json).get(Feature::Parses), parses, "{answer}");
    }
}

#[test]
fn every_feature_of_texts_is_a_number_whatever_the_texts() {
    for (prompt, answer) in [("", ""), (" \n ", "…"), ("x", "\u{0}")] {
        for feature in Feature::ALL.into_iter().filter(|feature| feature.source() == Source::Texts) {
            assert!(read(prompt, answer, feature).is_finite(), "{feature}");
        }
    }
}

#[test]
fn a_yes_is_weighed_against_a_no_in_all_their_forms() {
    let half = 0.5f64.ln();
    let all = [("Y", half), (" yes", 0.25f64.ln()), ("No", 0.25f64.ln()), ("Maybe", 0.0)];
    assert!((yes_share(all).unwrap() - 0.75).abs() < 1e-12);
    assert_eq!(yes_share([("The", 0.0)]), None);
}

#[test]
fn what_cannot_be_compared_disagrees() {
    assert_eq!(agreement(Form::Number, "7", ["it is 7", "8", "none", "7.0"]), Some(0.5));
    assert_eq!(agreement(Form::Number, "none", ["7"]), None, "an answer that has nothing to compare");
    assert_eq!(agreement(Form::Auto, "7", []), None);
}

#[test]
fn evidence_is_asked_for_only_where_it_can_change_the_verdict() {
    let term = |feature, weight| Term { feature, mean: 0.0, scale: 1.0, weight };
    let terms = vec![term(Feature::SumLogprob, 1.0), term(Feature::Agreement, 2.0)];
    let score = Score::Logistic(Logistic { bias: 0.0, terms });
    let judge = Judge::calibrated(Arc::new(calibration(score)), 0.5);
    let unknown = Evidence::default();
    for (logprob, weighed) in [(-0.0, Weighed::Accepted), (-1.0, Weighed::Open), (-2.5, Weighed::Refused)] {
        assert_eq!(judge.weigh(&sure(logprob), &unknown), weighed, "{logprob}");
    }
    let found = |share| unknown.with(Feature::Agreement, Some(share));
    assert_eq!(judge.weigh(&sure(-1.0), &found(0.75)), Weighed::Accepted);
    assert_eq!(judge.weigh(&sure(-1.0), &found(0.25)), Weighed::Refused);
    assert_eq!(judge.weigh(&sure(-1.0), &unknown.with(Feature::Agreement, None)), Weighed::Open);
}

#[test]
fn an_answer_without_a_sound_token_is_refused_whatever_is_found() {
    let judge = Judge { measure: Measure::Asked(Feature::PTrue, Arc::new(Inquiry::default())), at_least: 0.0 };
    let found = Evidence::default().with(Feature::PTrue, Some(1.0));
    assert_eq!(judge.weigh(&Running::default(), &found), Weighed::Refused);
    assert_eq!(judge.weigh(&sure(f32::NAN), &found), Weighed::Refused);
    assert_eq!(judge.weigh(&sure(-1.0), &found), Weighed::Accepted);
}

#[test]
fn an_inquiry_must_tell_how_to_get_what_is_read() {
    let inquiry = Inquiry { samples: 9, ..Inquiry::default() };
    assert!(inquiry.check(&[Feature::Agreement]).is_err());
    assert!(inquiry.check(&[Feature::SecondOpinion]).is_err());
    assert_eq!(inquiry.check(&[Feature::PTrue]), Ok(()));
    assert!(Inquiry { temperature: 0.0, ..Inquiry::default() }.check(&[]).is_err());
}

#[test]
fn evidence_tells_what_was_asked_for() {
    let found = Evidence::of_texts("q", "a", false).with(Feature::Agreement, Some(0.8));
    assert_eq!(found.to_string(), "agreement=0.8");
    assert_eq!(Evidence::of_texts("q", "a", false).to_string(), "");
}
