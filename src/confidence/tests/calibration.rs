//! What a calibration file promises.

use serde_json::{Value, json};

use crate::confidence::{
    Basis, Calibration, Certificate, Feature, Isotonic, Key, Logistic, Platt, Quality, Raw, Risk, Score, Step, Term,
    Transform,
};

pub(super) fn calibration(score: Score) -> Calibration {
    let is_probability = score.is_probability();
    Calibration {
        version: 1,
        name: "facts-small".into(),
        model: "local/small".into(),
        model_sha256: "0123456789abcdef".repeat(4),
        slice: "facts".into(),
        basis: Basis::Gold,
        grader: None,
        score,
        inquiry: None,
        key: Key {
            template: None,
            sampler: Key::GREEDY.into(),
            constraint: None,
            max_tokens: Some(64),
            hold_back: None,
        },
        fitted_rows: 300,
        quality: Quality {
            rows: 310,
            auroc: Some(0.8125),
            ece: is_probability.then_some(0.03),
            brier: is_probability.then_some(0.17),
        },
        date: "2026-11-24".into(),
        attempts: 2,
        early: None,
        labels: None,
        certificates: vec![Certificate {
            error: None,
            kind: Risk::Selective,
            alpha: 0.1,
            delta: 0.1,
            threshold: if is_probability { 0.1 + 0.2 } else { -1.0 / 3.0 },
            rows: 310,
            kept: 120,
            wrong: 5,
            attempt: 2,
        }],
    }
}

fn scores() -> [Score; 4] {
    let term = |feature, weight| Term { feature, mean: -0.1, scale: 1.0 / 7.0, weight };
    let step = |from, probability| Step { from, probability };
    [
        Score::Feature(Raw { feature: Feature::SumLogprob }),
        Score::Logistic(Logistic {
            bias: -0.3,
            terms: vec![term(Feature::MinLogprob, 1.1), term(Feature::MaxEntropy, -0.7)],
        }),
        Score::Platt(Platt { feature: Feature::MinLogprob, transform: Transform::OneSided, weight: 0.7, bias: -1.9 }),
        Score::Isotonic(Isotonic { feature: Feature::Margin, steps: vec![step(0.1, 0.0), step(1.7, 2.0 / 3.0)] }),
    ]
}

#[test]
fn what_is_rendered_parses_to_the_same_value() {
    for score in scores() {
        let calibration = calibration(score);
        let text = calibration.render().unwrap();
        assert_eq!(Calibration::parse(text.as_bytes()), Ok(calibration));
    }
}

#[test]
fn the_file_says_in_plain_words_what_it_holds() {
    let [.., platt, _] = scores();
    let file: Value = serde_json::from_str(&calibration(platt).render().unwrap()).unwrap();
    let score =
        json!({"kind": "platt", "feature": "min_logprob", "transform": "one-sided", "weight": 0.7, "bias": -1.9});
    assert_eq!(file["score"], score);
    assert_eq!((&file["basis"], &file["certificates"][0]["kind"]), (&json!("gold"), &json!("selective")));
}

/// The file of a score after a change at a JSON pointer.
fn changed(score: Score, pointer: &str, value: Value) -> Result<Calibration, String> {
    let mut file = serde_json::to_value(calibration(score)).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match file.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        object => object[key] = value,
    }
    Calibration::parse(file.to_string().as_bytes())
}

#[test]
fn what_is_not_sound_is_refused_and_named() {
    let [feature, logistic, platt, isotonic] = scores();
    let cases = [
        (&feature, "/version", json!(2), "version 2 is not known"),
        (&feature, "/extra", json!(1), "unknown field `extra`"),
        (&feature, "/score/extra", json!(1), "unknown field `extra`"),
        (&feature, "/key/extra", json!(1), "unknown field `extra`"),
        (&feature, "/certificates/0/extra", json!(1), "unknown field `extra`"),
        (&feature, "/name", json!(" "), "name is empty"),
        (&feature, "/model_sha256", json!("12"), "\"12\" is not 64 hexadecimal digits"),
        (&feature, "/basis", json!("judge"), "grader must name who graded"),
        (&feature, "/grader", json!("local/large"), "grader must name who graded"),
        (&feature, "/key/max_tokens", json!(65), "key.max_tokens is no bucket"),
        (&feature, "/key/hold_back", json!(0), "key.hold_back must be at least 1"),
        (&feature, "/score/kind", json!("magic"), "unknown variant `magic`"),
        (
            &feature,
            "/score/feature",
            json!("min-logprob"),
            "unknown feature \"min-logprob\"; known: min_logprob, mean_",
        ),
        (&feature, "/score/feature", json!("max_entropy"), "\"max_entropy\" is no score by itself"),
        (&logistic, "/score/terms/1/scale", json!(0), "score.terms[1].scale 0 is not above 0"),
        (&logistic, "/score/terms/1/feature", json!("min_logprob"), "names \"min_logprob\" twice"),
        (&logistic, "/score/terms", json!([]), "score.terms is empty"),
        (&platt, "/score/feature", json!("margin"), "\"margin\" is no log-probability"),
        (&platt, "/certificates/0/threshold", json!(1.5), "certificates[0]: threshold 1.5 is no probability"),
        (&isotonic, "/score/steps/1/probability", json!(0), "must rise in both numbers"),
        (&isotonic, "/score/steps/1/from", json!(0.1), "must rise in both numbers"),
        (&isotonic, "/score/steps", json!([]), "score.steps is empty"),
        (&isotonic, "/quality/auroc", json!(1.5), "quality.auroc"),
        (&isotonic, "/certificates/0/alpha", json!(1), "certificates[0]: alpha 1 is not between 0 and 1"),
        (&isotonic, "/certificates/0/kept", json!(4), "5 wrong of 4 kept of 310 rows"),
        (&isotonic, "/certificates/0/attempt", json!(3), "attempt 3 is not among the 2 attempts"),
    ];
    for (score, pointer, value, told) in cases {
        let error = changed(score.clone(), pointer, value).unwrap_err();
        assert!(error.contains(told), "{pointer}: {error}");
    }
}

#[test]
fn how_well_a_score_ranks_is_absent_where_no_answer_was_wrong() {
    let [score, ..] = scores();
    let mut unranked = calibration(score);
    unranked.quality.auroc = None;
    let text = unranked.render().unwrap();
    assert!(!text.contains("auroc"), "{text}");
    assert_eq!(Calibration::parse(text.as_bytes()).unwrap(), unranked);
}

#[test]
fn numbers_that_are_not_finite_are_neither_written_nor_read() {
    let [_, logistic, ..] = scores();
    for bad in [f64::NAN, f64::INFINITY] {
        let mut calibration = calibration(logistic.clone());
        calibration.certificates[0].threshold = bad;
        assert!(calibration.render().unwrap_err().contains("not finite"));
    }
    let text = calibration(logistic).render().unwrap();
    for bad in ["1e999", "NaN", "null"] {
        assert!(Calibration::parse(text.replace("\"bias\": -0.3", &format!("\"bias\": {bad}")).as_bytes()).is_err());
    }
    assert!(Calibration::parse(format!("{text}x").as_bytes()).is_err());
}

#[test]
fn a_calibration_is_for_its_own_model_file_only() {
    let [feature, ..] = scores();
    let calibration = calibration(feature);
    assert!(calibration.is_for(&"0123456789ABCDEF".repeat(4)));
    assert!(!calibration.is_for(&"0123456789abcdee".repeat(4)));
}

#[test]
fn a_limit_on_tokens_falls_in_the_bucket_above_it() {
    let buckets = [0, 1, 16, 17, 64, 65, 1024, 1025].map(Key::bucket);
    assert_eq!(buckets, [16, 16, 16, 64, 64, 256, 1024, 4096]);
    assert_eq!(Key::bucket(u64::MAX), u64::MAX);
}
