//! What records and the calibrations made of them promise.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::{Made, Settings, Wanted, calibrate};
use crate::confidence::certify::{Promise, Risk};
use crate::confidence::{Calibration, Feature, Score};
use crate::lab::records::Records;

fn settings(score: Wanted) -> Settings {
    Settings {
        name: "facts".into(),
        model: "local/small".into(),
        slice: "facts".into(),
        score,
        max_tokens: Some(24),
        date: "2026-11-24".into(),
        promise: None,
        early: None,
        attempts: 0,
    }
}

/// What comes of a wish for a certificate that the share of wrong answers kept is at most `alpha`.
fn promised(text: &str, alpha: f64, attempts: u32) -> Result<Made, String> {
    let promise = Some(Promise::check(Risk::Selective, alpha, 0.1).unwrap());
    calibrate(&parsed(text), &Settings { promise, attempts, ..settings(Wanted::Platt(Feature::SumLogprob)) })
}

fn record(id: usize, right: bool, logprobs: &[f32]) -> Value {
    let top: Vec<[f32; 2]> = logprobs.iter().map(|logprob| [*logprob, logprob - 0.5]).collect();
    json!({
        "model": "local/small", "id": format!("row-{id}"), "form": "free", "file": "ab".repeat(32), "right": right,
        "finish": if id.is_multiple_of(5) { "length" } else { "stop" }, "logprobs": logprobs, "top_logprobs": top,
    })
}

/// Answers of which the surer are right more often.
fn lines(rows: usize) -> String {
    let mut random = StdRng::seed_from_u64(3);
    let mut line = |id| {
        let unsure = random.random::<f32>() * 2.0;
        let logprobs: Vec<f32> = vec![-unsure / (1 + id % 4) as f32; 1 + id % 4];
        record(id, random.random::<f32>() * 4.0 > unsure * unsure, &logprobs).to_string() + "\n"
    };
    (0..rows).map(&mut line).collect()
}

fn parsed(text: &str) -> Records {
    Records::parse(text, "local/small").unwrap()
}

#[test]
fn every_kind_of_score_gives_a_file_that_parses_and_ranks() {
    let records = parsed(&lines(600));
    for wanted in ["logistic", "platt:sum_logprob", "platt:margin", "isotonic:min_logprob", "mean_logprob"] {
        let made = calibrate(&records, &settings(wanted.parse().unwrap())).unwrap().calibration;
        assert_eq!(Calibration::parse(made.render().unwrap().as_bytes()).unwrap(), made);
        assert_eq!(made.fitted_rows + made.quality.rows, 600);
        assert_eq!((made.key.max_tokens, made.quality.ece.is_some()), (Some(64), wanted != "mean_logprob"));
        assert!(wanted == "platt:margin" || made.quality.auroc > 0.65, "{wanted}: {:?}", made.quality);
    }
}

#[test]
fn a_logistic_score_leaves_out_what_the_records_do_not_tell() {
    let made = calibrate(&parsed(&lines(600)), &settings(Wanted::Logistic)).unwrap().calibration;
    let Score::Logistic(logistic) = made.score else { panic!("another kind") };
    let features: Vec<Feature> = logistic.terms.iter().map(|term| term.feature).collect();
    assert!(features.contains(&Feature::Ended) && features.contains(&Feature::SumLogprob));
    // No entropies are told, and the margin is the same everywhere.
    for absent in [Feature::MeanEntropy, Feature::MaxEntropy, Feature::FirstEntropy] {
        assert!(!features.contains(&absent), "{absent}");
    }
    let error = calibrate(&parsed(&lines(600)), &settings(Wanted::Platt(Feature::MaxEntropy))).unwrap_err();
    assert_eq!(error, "not every answer tells \"max_entropy\"; name another feature");
}

#[test]
fn too_few_answers_are_refused_with_how_many_are_missing() {
    let error = calibrate(&parsed(&lines(12)), &settings(Wanted::Platt(Feature::SumLogprob))).unwrap_err();
    assert!(error.contains("a fit needs 10: grade until there are"), "{error}");
}

#[test]
fn a_certificate_keeps_what_its_labels_allow_and_says_which_attempt_it_was() {
    let made = promised(&lines(1600), 0.3, 1).unwrap();
    assert_eq!(made.refusal, None);
    let certificate = &made.calibration.certificates[0];
    assert_eq!((certificate.attempt, made.calibration.attempts), (2, 2));
    assert_eq!(certificate.rows, made.calibration.quality.rows);
    assert!(certificate.kept >= 38 && (certificate.wrong as f64) < 0.3 * certificate.kept as f64, "{certificate:?}");
    assert_eq!(Calibration::parse(made.calibration.render().unwrap().as_bytes()).unwrap(), made.calibration);
}

#[test]
fn a_later_attempt_never_keeps_more() {
    let kept = |attempts| {
        let made = promised(&lines(1600), 0.3, attempts).unwrap();
        made.calibration.certificates.first().map_or(0, |certificate| certificate.kept)
    };
    assert!(kept(0) > 0 && kept(0) >= kept(3) && kept(3) >= kept(40));
}

#[test]
fn a_promise_that_the_labels_break_is_refused_and_the_attempt_is_spent() {
    let wrong_at_random: String = (0..800)
        .map(|id| record(id, id.is_multiple_of(2), &[-0.01 * (id % 97) as f32 - 0.01]).to_string() + "\n")
        .collect();
    let made = promised(&wrong_at_random, 0.1, 0).unwrap();
    assert!(made.refusal.is_some() && made.calibration.certificates.is_empty());
    assert_eq!(made.calibration.attempts, 1);
}

#[test]
fn labels_too_few_for_the_promise_are_refused_with_how_many_are_missing() {
    let error = promised(&lines(120), 0.02, 0).unwrap_err();
    assert!(error.contains("labels are too few to certify anything: about"), "{error}");
}

#[test]
fn the_last_answer_of_an_id_counts_and_a_line_cut_off_is_ignored() {
    let text = format!("{}\n{}\n{{\"model\": \"local/sm", record(1, false, &[-2.0]), record(1, true, &[-0.5]));
    let records = parsed(&text);
    let answer = records.answers["row-1"].graded;
    assert!(answer.right && records.answers.len() == 1);
    assert_eq!((answer.features.get(Feature::SumLogprob), answer.features.get(Feature::Margin)), (-0.5, 0.5));
}

#[test]
fn constrained_and_empty_answers_are_left_out_and_other_models_are_not_seen() {
    let mut constrained = record(1, true, &[-0.5]);
    constrained["form"] = json!("constrained");
    let mut other = record(2, true, &[-0.5]);
    other["model"] = json!("local/other");
    let text = format!("{constrained}\n{other}\n{}\n{}\n", record(3, true, &[]), record(4, true, &[-0.5]));
    let records = parsed(&text);
    assert_eq!((records.answers.len(), records.left_out), (1, 2));
    assert!(Records::parse(&text, "local/third").unwrap_err().contains("no answer of \"local/third\""));
}

#[test]
fn bad_records_are_named_by_their_line() {
    let good = record(1, true, &[-0.5]);
    let mut strange = record(2, true, &[-0.5]);
    strange["file"] = json!("cd".repeat(32));
    let mut short = record(2, true, &[-0.5, -0.1]);
    short["top_logprobs"] = json!([[-0.5, -1.0]]);
    for (line, told) in [
        ("{]".to_owned(), "line 2: "),
        (strange.to_string(), "line 2: an answer of model file cdcd"),
        (short.to_string(), "line 2: 2 logprobs need as many margins"),
    ] {
        let error = Records::parse(&format!("{good}\n{line}\n"), "local/small").unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_kind_of_score_that_is_unknown_is_refused() {
    assert_eq!("platt:min_logprob".parse(), Ok(Wanted::Platt(Feature::MinLogprob)));
    assert!("magic:min_logprob".parse::<Wanted>().unwrap_err().contains("unknown kind of score \"magic\""));
    assert!("platt:magic".parse::<Wanted>().unwrap_err().contains("unknown feature \"magic\""));
}
