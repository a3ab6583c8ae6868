//! What records and the calibrations made of them promise.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::union::Member;
use super::{Labels, Made, Settings, Slice, Sources, Tasks, Union, Upstream, Wanted, calibrate};
use crate::confidence::bounds::{smallest_n, upper_bound};
use crate::confidence::certify::{Promise, Risk, Row};
use crate::confidence::{Basis, Calibration, Certificate, Feature, Score};
use crate::lab::records::Records;

const PLATT: Wanted = Wanted::Platt(Feature::SumLogprob);

fn settings(score: Wanted) -> Settings {
    Settings {
        model: "local/small".into(),
        score,
        labels: Labels::Gold,
        max_tokens: Some(24),
        date: "2026-11-24".into(),
        promise: None,
        together: false,
        mix: Vec::new(),
        early: None,
    }
}

fn promising(risk: Risk, alpha: f64) -> Settings {
    Settings { promise: Some(Promise::check(risk, alpha, 0.1).unwrap()), ..settings(PLATT) }
}

fn slice(name: &str, tasks: &[&str], attempts: u32) -> Slice {
    let tasks = tasks.iter().map(|task| (*task).to_owned()).collect();
    Slice { name: name.into(), calibration: name.into(), tasks, attempts }
}

/// Sources of these records alone.
fn alone(text: &str) -> Sources {
    Sources { records: parsed(text), tasks: Tasks::default(), upstream: Upstream::default() }
}

/// One slice of everything.
fn of_all(sources: &Sources, settings: &Settings, attempts: u32) -> Result<Made, String> {
    calibrate(sources, &[slice("facts", &[], attempts)], settings).0.remove(0)
}

/// What comes of a wish for a certificate that the share of wrong answers kept is at most `alpha`.
fn promised(text: &str, alpha: f64, attempts: u32) -> Result<Made, String> {
    of_all(&alone(text), &promising(Risk::Selective, alpha), attempts)
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
    let sources = alone(&lines(600));
    for wanted in ["logistic", "platt:sum_logprob", "platt:margin", "isotonic:min_logprob", "mean_logprob"] {
        let made = of_all(&sources, &settings(wanted.parse().unwrap()), 0).unwrap().calibration;
        assert_eq!(Calibration::parse(made.render().unwrap().as_bytes()).unwrap(), made);
        assert_eq!(made.fitted_rows + made.quality.rows, 600);
        assert_eq!((made.key.max_tokens, made.quality.ece.is_some()), (Some(64), wanted != "mean_logprob"));
        assert!(wanted == "platt:margin" || made.quality.auroc.unwrap() > 0.65, "{wanted}: {:?}", made.quality);
    }
}

#[test]
fn a_logistic_score_leaves_out_what_the_records_do_not_tell() {
    let made = of_all(&alone(&lines(600)), &settings(Wanted::Logistic), 0).unwrap().calibration;
    let Score::Logistic(logistic) = made.score else { panic!("another kind") };
    let features: Vec<Feature> = logistic.terms.iter().map(|term| term.feature).collect();
    assert!(features.contains(&Feature::Ended) && features.contains(&Feature::SumLogprob));
    // No entropies are told, and the margin is the same everywhere.
    for absent in [Feature::MeanEntropy, Feature::MaxEntropy, Feature::FirstEntropy] {
        assert!(!features.contains(&absent), "{absent}");
    }
    let error = of_all(&alone(&lines(600)), &settings(Wanted::Platt(Feature::MaxEntropy)), 0).unwrap_err();
    assert_eq!(error, "not every answer tells \"max_entropy\"; name another feature");
}

#[test]
fn too_few_answers_are_refused_with_how_many_are_missing() {
    let error = of_all(&alone(&lines(12)), &settings(PLATT), 0).unwrap_err();
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
fn a_slice_without_an_error_is_certified_and_one_without_a_right_answer_spends_its_attempt() {
    let all = |right: bool| {
        let text: String =
            (0..400).map(|id| record(id, right, &[-0.01 * (1 + id % 97) as f32]).to_string() + "\n").collect();
        let settings = Settings { score: Wanted::Raw(Feature::SumLogprob), ..promising(Risk::Selective, 0.1) };
        of_all(&alone(&text), &settings, 0).unwrap()
    };
    let (right, wrong) = (all(true), all(false));
    assert_eq!((right.calibration.certificates[0].wrong, right.calibration.quality.auroc), (0, None));
    assert!(wrong.refusal.is_some() && wrong.calibration.certificates.is_empty());
    assert_eq!((wrong.calibration.attempts, wrong.calibration.quality.auroc), (1, None));
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
    assert!(error.contains("of 120 graded answers, are left for the certificate"), "{error}");
    let more: usize = error.split("about ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((50..2000).contains(&more), "{error}");
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

/// Local answers with tasks `sums` and `dates` in turn, and an upstream that is right more often.
fn two_tasks(rows: usize) -> Sources {
    let mut random = StdRng::seed_from_u64(5);
    let mut text = String::new();
    for id in 0..rows {
        let unsure = random.random::<f32>() * 2.0;
        let right = random.random::<f32>() * 4.0 > unsure * unsure;
        let mut line = record(id, right, &[-unsure]);
        line["task"] = json!(if id.is_multiple_of(2) { "sums" } else { "dates" });
        line["text"] = json!(if right { "It is 7." } else { "8" });
        let above = random.random::<f32>() < 0.9;
        let said = json!({
            "model": "large/up", "id": format!("row-{id}"), "right": above, "text": if above { "7" } else { "9" },
        });
        text += &format!("{line}\n{said}\n");
    }
    Sources { records: parsed(&text), tasks: Tasks::default(), upstream: Upstream::parse(&text, "large/up").unwrap() }
}

#[test]
fn no_certificate_comes_from_fewer_labels_than_its_mathematics_needs() {
    let mut random = StdRng::seed_from_u64(9);
    let mut certified = 0;
    for _ in 0..30 {
        let (rows, attempts) = (40 + random.random_range(0..300), random.random_range(0..3));
        let (risk, alpha) = (Risk::ALL[random.random_range(0..3)], random.random_range(2..40) as f64 / 100.0);
        let sources = two_tasks(rows);
        let settings = Settings { together: random.random(), ..promising(risk, alpha) };
        let slices = [slice("sums", &["sums"], attempts), slice("dates", &["dates"], 0)];
        let (made, _) = calibrate(&sources, &slices, &settings);
        for made in made.iter().flatten().filter(|made| !made.calibration.certificates.is_empty()) {
            let one = &made.calibration.certificates[0];
            let delta = settings.promise.unwrap().at_attempt(one.attempt).delta();
            let counted = if risk == Risk::Selective { one.kept } else { one.rows } as usize;
            assert!(counted >= smallest_n(alpha, delta, one.wrong as usize), "{one:?}");
            assert!(upper_bound(one.wrong as usize, counted, delta) <= alpha, "{one:?}");
            certified += 1;
        }
    }
    assert!(certified > 3, "{certified}");
}

#[test]
fn a_slice_takes_the_answers_of_its_tasks_only() {
    let sources = two_tasks(800);
    let slices = [slice("sums", &["sums"], 0), slice("both", &["sums", "dates"], 0), slice("none", &["maps"], 0)];
    let (made, _) = calibrate(&sources, &slices, &settings(PLATT));
    let rows = |place: usize| {
        let calibration = &made[place].as_ref().unwrap().calibration;
        calibration.fitted_rows + calibration.quality.rows
    };
    assert_eq!((rows(0), rows(1)), (400, 800));
    assert!(made[2].as_ref().unwrap_err().starts_with("no answer with a label belongs to it"));
}

#[test]
fn regret_counts_only_what_the_upstream_would_have_got_right() {
    let sources = two_tasks(1200);
    let wrong = |risk| of_all(&sources, &promising(risk, 0.4), 0).unwrap().calibration.certificates[0].clone();
    let (joint, regret) = (wrong(Risk::Joint), wrong(Risk::Regret));
    assert_eq!((regret.kept, regret.rows), (joint.kept, joint.rows), "a promise this lax keeps all that it can");
    assert!(regret.wrong < joint.wrong && regret.wrong * 10 > joint.wrong * 8, "{regret:?} {joint:?}");
}

#[test]
fn agreement_compares_what_counts_and_is_named_as_such() {
    let labels = Labels::Agreement { upstream: "large/up".into(), form: None, gold_share: 0.0 };
    let made =
        of_all(&two_tasks(1200), &Settings { labels: labels.clone(), ..promising(Risk::Joint, 0.5) }, 0).unwrap();
    let calibration = made.calibration;
    assert_eq!((calibration.basis, calibration.grader.as_deref()), (Basis::UpstreamAgreement, Some("large/up")));
    // "It is 7." agrees with "7" by its number, and is neither the same text nor the same line.
    let exact =
        Labels::Agreement { upstream: "large/up".into(), form: Some(crate::confidence::Form::Exact), gold_share: 0.0 };
    let none = of_all(&two_tasks(1200), &Settings { labels: exact, ..settings(PLATT) }, 0);
    assert!(none.is_err(), "nothing agrees to the letter");
    let regret = of_all(&two_tasks(100), &Settings { labels, ..promising(Risk::Regret, 0.5) }, 0);
    assert!(regret.unwrap_err().contains("regret is about known answers"));
}

#[test]
fn known_answers_kept_back_turn_disagreement_into_an_error_rate() {
    let labels = Labels::Agreement { upstream: "large/up".into(), form: None, gold_share: 0.3 };
    let made = of_all(&two_tasks(2000), &Settings { labels, ..promising(Risk::Selective, 0.4) }, 0).unwrap();
    let certificate = &made.calibration.certificates[0];
    let error = certificate.error.unwrap();
    assert_eq!(certificate.delta, 0.05, "half of delta is for the known answers");
    assert_eq!(error.wrong, 0, "both never give the same wrong answer here");
    let beta = upper_bound(0, error.agreed as usize, 0.05 * 6.0 / std::f64::consts::PI.powi(2));
    assert!((error.beta - beta).abs() < 1e-12 && (error.at_most - 0.4 - beta).abs() < 1e-12 && error.delta <= 0.1);
    assert!(made.calibration.fitted_rows + certificate.rows + error.agreed < 2000);
    let file = made.calibration.render().unwrap();
    assert_eq!(Calibration::parse(file.as_bytes()), Ok(made.calibration), "the file keeps it");
}

#[test]
fn slices_together_never_keep_more_than_each_by_itself() {
    let sources = two_tasks(1600);
    let slices = [slice("sums", &["sums"], 0), slice("dates", &["dates"], 0), slice("none", &["maps"], 0)];
    let kept = |together| {
        let (made, _) = calibrate(&sources, &slices, &Settings { together, ..promising(Risk::Selective, 0.25) });
        let kept = made.iter().flatten().flat_map(|made| &made.calibration.certificates).map(|one| one.kept);
        kept.sum::<u64>()
    };
    assert!(kept(true) > 0 && kept(true) <= kept(false));
}

#[test]
fn the_whole_has_a_test_of_its_own_on_labels_that_no_threshold_saw() {
    let mix = vec![("sums".to_owned(), 0.8), ("dates".to_owned(), 0.2)];
    let slices = [slice("sums", &["sums"], 0), slice("dates", &["dates"], 0)];
    let union = |rows| -> Option<Union> {
        calibrate(&two_tasks(rows), &slices, &Settings { mix: mix.clone(), ..promising(Risk::Selective, 0.3) }).1
    };
    let found = union(2400).unwrap();
    // A quarter of a half of 1 200 sums is 150, and for each of those come about .25 dates.
    assert!((100..230).contains(&found.rows) && found.kept <= found.rows, "{found:?}");
    let delta = 0.1 * 6.0 / std::f64::consts::PI.powi(2);
    assert_eq!(found.at_most, upper_bound(found.wrong, found.kept, delta));
    assert!(found.at_most < 0.35, "{found:?}");
    assert_eq!(union(60), None, "nothing is certified, so there is nothing to bound");
}

#[test]
fn the_sample_of_the_whole_is_of_all_of_a_slice_though_only_a_part_of_it_is_drawn() {
    let certificate = Certificate {
        error: None,
        kind: Risk::Joint,
        alpha: 0.5,
        delta: 0.1,
        threshold: 0.0,
        rows: 400,
        kept: 400,
        wrong: 200,
        attempt: 1,
    };
    // Of the large slice the first half, one task, is all right, and the other all wrong.
    let large: Vec<Row> = (0..400).map(|place| Row { score: 1.0, loss: f64::from(u8::from(place >= 200)) }).collect();
    let small = vec![Row { score: 1.0, loss: 0.0 }; 50];
    let member = |name, rows| Member { name, share: 0.5, certificate: Some(&certificate), rows };
    let promise = Promise::check(Risk::Joint, 0.5, 0.1).unwrap();
    let union = Union::test(&[member("large", &large), member("small", &small)], promise, 1);
    assert!((80..130).contains(&union.rows), "{union:?}");
    assert!((15..36).contains(&union.wrong), "about half of the large slice's: {union:?}");
}

#[test]
fn a_question_and_its_paraphrases_stay_on_one_side_and_are_one_label_outside_the_fit() {
    let mut tasks = Tasks::default();
    let line =
        |id: usize| json!({"id": format!("row-{id}"), "task": "t", "group": format!("g{}", id / 40)}).to_string();
    tasks.read(&(0..600).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let sources = Sources { tasks, ..alone(&lines(600)) };
    let made = of_all(&sources, &settings(PLATT), 0).unwrap().calibration;
    assert_eq!((made.fitted_rows % 40, made.fitted_rows / 40 + made.quality.rows), (0, 15));
    assert_eq!(Tasks::default().read("{\"task\": 1}").unwrap_err().split(':').next(), Some("line 1"));
}

#[test]
fn the_same_prompt_is_one_label_of_a_certificate_whatever_its_case_and_white_space() {
    let mut tasks = Tasks::default();
    let line = |id: usize| {
        let prompt =
            if id.is_multiple_of(2) { format!("What is {}?", id / 2) } else { format!("what  IS {}?\n", id / 2) };
        json!({"id": format!("row-{id}"), "task": "t", "prompt": prompt}).to_string()
    };
    tasks.read(&(0..1600).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let sources = Sources { tasks, ..alone(&lines(1600)) };
    let made = of_all(&sources, &promising(Risk::Selective, 0.3), 0).unwrap().calibration;
    assert_eq!(made.fitted_rows / 2 + made.certificates[0].rows, 800);
}

#[test]
fn an_answer_without_a_label_is_left_out_and_counted() {
    let mut text = lines(600);
    let mut ungraded = record(700, true, &[-0.5]);
    ungraded.as_object_mut().unwrap().remove("right");
    text += &format!("{ungraded}\n");
    let made = of_all(&alone(&text), &settings(PLATT), 0).unwrap();
    assert_eq!((made.left_out, made.calibration.fitted_rows + made.calibration.quality.rows), (1, 600));
}
