//! Records survive interruptions, halves are those of the tables, sweeps are what a hand computes.

use std::fs;

use serde_json::json;

use super::answers::{Answer, Answers, Asked, Key};
use super::constraint::{Constraints, plain};
use super::rows::{Half, read};
use super::sweep::{Outcome, Pair, by_chance, by_outcome, by_score, quantile, wilson};

fn answer(id: &str, right: bool) -> Answer {
    Answer {
        model: "local/m".into(),
        id: id.into(),
        form: Asked::Free,
        file: "f".into(),
        right,
        judge: None,
        logprobs: None,
        top_logprobs: None,
        text: "x".into(),
        finish: Some("stop".into()),
        ms: 1.0,
        usd: None,
        served_by: Some("local/m".into()),
        policy: None,
        certificate: None,
        scores: [("margin".to_owned(), 0.5)].into(),
        prompt_tokens: Some(3),
        completion_tokens: Some(1),
    }
}

fn key(id: &str) -> Key {
    answer(id, true).key()
}

#[test]
fn answers_outlive_the_run_and_a_line_cut_off_by_its_end_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/answers.jsonl");
    let answers = Answers::open(&file).unwrap();
    answers.add(answer("a", true)).unwrap();
    answers.add(answer("b", false)).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{}", &text[..40])).unwrap();

    let again = Answers::open(&file).unwrap();
    assert_eq!(again.get(&key("a")), Some(answer("a", true)));
    assert_eq!(again.get(&key("c")), None);
    again.add(answer("c", true)).unwrap();
    let third = Answers::open(&file).unwrap();
    assert_eq!((third.left_out, third.get(&key("c"))), (0, Some(answer("c", true))));

    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, whole.trim_end()).unwrap();
    Answers::open(&file).unwrap().add(answer("d", true)).unwrap();
    assert_eq!(Answers::open(&file).unwrap().get(&key("d")), Some(answer("d", true)));
}

#[test]
fn records_of_earlier_versions_are_read() {
    let line = r#"{"model":"large/m","id":"r","form":"constrained","file":"f","right":true,"text":"x","finish":"stop","ms":2.5,"usd":3e-05,"served_by":"large/m","policy":"direct@1; rule=named","scores":{},"prompt_tokens":9,"completion_tokens":2}"#;
    let read: Answer = serde_json::from_str(line).unwrap();
    assert_eq!((read.form, read.usd, read.logprobs), (Asked::Constrained, Some(3e-5), None));
}

#[test]
fn a_row_that_cannot_be_graded_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let row = |id: &str, grader: &str| {
        format!(
            "{{\"id\":\"{id}\",\"messages\":[{{\"role\":\"user\",\"content\":\"?\"}}],\"answer\":\"4\",\"grader\":\"{grader}\"}}\n"
        )
    };
    let refused = |text: String| {
        fs::write(&file, text).unwrap();
        read(&file).unwrap_err()
    };
    assert!(refused(row("a", "exact") + &row("b", "vibes")).contains("rows.jsonl:2: unknown grader \"vibes\""));
    assert!(refused(row("a", "exact") + &row("a", "exact")).contains("rows.jsonl:2: id \"a\" stands twice"));
    assert!(refused(row("a", "json")).contains("want an object"));
    fs::write(&file, row("a", "exact")).unwrap();
    assert_eq!((read(&file).unwrap()[0].task.as_str(), read(&file).unwrap()[0].question()), ("rows", "?"));
}

/// The first bytes of SHA-256 of these ids are 0x93 and 0x3c.
#[test]
fn the_halves_part_the_rows_by_the_hash_of_their_ids() {
    for (id, report) in [("shared-00001", true), ("shared-00000", false)] {
        let first = ring::digest::digest(&ring::digest::SHA256, id.as_bytes()).as_ref()[0];
        assert_eq!((Half::Report.has(id), Half::Calibrate.has(id)), (first % 2 == 1, first % 2 == 0), "{id} {report}");
        assert!(Half::All.has(id));
    }
}

fn pairs() -> Vec<Pair> {
    let one = |right: bool, usd: f64| Outcome { right, ms: 10.0, usd };
    [(true, true), (true, false), (false, true), (false, false)]
        .map(|(local, upstream)| Pair { local: one(local, 0.0), upstream: one(upstream, 1.0) })
        .into()
}

#[test]
fn a_sweep_keeps_the_surest_first_and_pays_for_what_goes_up() {
    let curve = by_score(&pairs(), "s", &[0.9, 0.8, 0.1, f64::NAN]);
    let (none, half, all) = (curve.points[0], curve.points[10], curve.points[20]);
    assert_eq!((none.kept, none.accuracy, none.usd_per_1000, none.median_ms), (0.0, 0.5, 1000.0, 20.0));
    assert_eq!((half.kept, half.accuracy, half.usd_per_1000), (0.5, 0.75, 500.0));
    assert_eq!(all.kept, 0.75, "NaN is never kept");
    assert_eq!(by_outcome(&pairs()).points[15].accuracy, 0.75);
    assert!((by_chance(&pairs()).points[10].accuracy - 0.5).abs() < 0.06);
}

#[test]
fn intervals_and_quantiles_are_those_of_the_books() {
    let (low, high) = wilson(8, 10);
    assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4, "{low} {high}");
    assert_eq!(wilson(0, 0), (0.0, 1.0));
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
    assert!(quantile(&[], 0.5).is_nan());
}

#[test]
fn a_prompt_that_names_choices_has_a_schema_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let row = |id: &str, grader: &str, content: &str| {
        let answer = if grader == "json" { json!({"a": "1"}) } else { json!("x") };
        let messages = json!([{"role": "user", "content": content}]);
        json!({"id": id, "messages": messages, "answer": answer, "grader": grader}).to_string()
    };
    let lines = [
        row("a", "choice", "Is this about card arrival or visa or mastercard? Answer with one of these only."),
        row(
            "b",
            "choice",
            "Is this about top up, visa or mastercard or transfer timing? Answer with one of these only.",
        ),
        row("c", "choice", "Is this about x, lost card or transfer timing? Answer with one of these only."),
        row("d", "number", "2+2"),
        row("e", "json", "Give an object with the keys name, time and size; nothing else"),
        row("f", "span", "When?"),
        row("g", "word", "not True is"),
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let rows = read(&file).unwrap();
    let constraints = Constraints::of(&rows).unwrap();
    let schema = |at: usize| constraints.schema(&rows[at]);
    assert_eq!(schema(1).unwrap()["enum"], json!(["top up", "visa or mastercard", "transfer timing"]));
    assert_eq!(schema(3), Some(json!({"type": "number"})));
    assert_eq!(schema(4).unwrap()["required"], json!(["name", "time", "size"]));
    assert_eq!((schema(5), schema(6).unwrap()["enum"].clone()), (None, json!(["True", "False"])));
    assert_eq!(
        (plain(&rows[0], "\"visa\""), plain(&rows[3], "4"), plain(&rows[0], "?")),
        ("visa".into(), "4".into(), "?".into())
    );
}
