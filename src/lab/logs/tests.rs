//! The importers on small tables.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::answers::agree;
use super::{Form, Source, read};

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn source(&self, form: Form, text: &str) -> Source {
        Source { log: self.file("log", text), form, prompts: None, local: None, second: None, upstream: None }
    }

    /// What is wrong with a log, without the folder.
    fn refused(&self, source: &Source) -> String {
        let folder = format!("{}/", self.0.path().display());
        read(source).unwrap_err().to_string().replace(&folder, "")
    }
}

const ROUTELLM: &str = "domain,weak_correct_small,strong_correct_large,contaminated,prompt\n\
                        law,False,True,0,\"Who?\nA. x\"\nlaw,1,1,1,Seen before\nart,1,0,0,What?\n";

#[test]
fn routellm_rows_are_read_and_the_contaminated_left_out() {
    let files = Files::new();
    let log = read(&files.source(Form::RouteLlm, ROUTELLM)).unwrap();
    assert_eq!((log.rows.len(), log.left_out), (2, 1));
    assert_eq!((log.local.as_str(), log.upstream.as_str()), ("small", "large"));
    let first = &log.rows[0];
    assert_eq!((first.prompt.as_str(), first.domain.as_str()), ("Who?\nA. x", "law"));
    assert_eq!((first.local, first.upstream, first.cost), (0.0, 1.0, 1.0));
    assert_eq!(log.models, [("small".to_owned(), 0.5), ("large".to_owned(), 0.5)]);
}

#[test]
fn a_gzip_file_reads_like_a_plain_one() {
    let files = Files::new();
    let plain = files.source(Form::RouteLlm, ROUTELLM);
    let packed = files.0.path().join("log.csv.gz");
    let mut encoder = GzEncoder::new(std::fs::File::create(&packed).unwrap(), Compression::default());
    encoder.write_all(ROUTELLM.as_bytes()).unwrap();
    encoder.finish().unwrap();
    let packed = Source { log: packed, ..plain.clone() };
    assert_eq!(read(&packed).unwrap(), read(&plain).unwrap());
}

#[test]
fn a_bad_cell_is_refused_with_its_line() {
    let files = Files::new();
    let source = files.source(Form::RouteLlm, &ROUTELLM.replace("art,1,0", "art,yes,0"));
    assert_eq!(files.refused(&source), "log:5: weak_correct_small \"yes\": not a number");
    let source = files.source(Form::RouteLlm, &format!("{ROUTELLM}art,1,0,0\n"));
    assert!(files.refused(&source).starts_with("log:6: not CSV: "), "{}", files.refused(&source));
}

#[test]
fn another_form_is_refused_with_the_columns_it_has() {
    let files = Files::new();
    let source = files.source(Form::RouteLlm, "id,question\n1,x\n");
    assert_eq!(files.refused(&source), "log:1: no column \"prompt\"; it has: id, question; is this another form?");
    let all_seen = files.source(Form::RouteLlm, "prompt,weak_correct,strong_correct,contaminated\nx,1,1,1\n");
    assert_eq!(files.refused(&all_seen), "log: no row to replay; 1 were left out");
    let absent = Source { log: files.0.path().join("absent"), ..source };
    assert!(files.refused(&absent).starts_with("absent: cannot read: "));
    assert!("routelm".parse::<Form>().unwrap_err().contains("known: routellm, zeroeval, mmlu-pro, llmrouter, records"));
}

const ANSWERS: &str = "id,model,correct,answer,prompt_chars\nq1,a,1,18,9\nq2,a,0,\"1,000.0\",9\nq3,a,0,,9\n\
                       q1,b,1,18.0,9\nq2,b,1,$1000,9\nq3,b,0,,9\nq1,c,1,18,9\nq2,c,1,7,9\nq4,c,1,7,9\n";

#[test]
fn answers_of_two_local_models_are_compared() {
    let files = Files::new();
    let name = |name: &str| Some(name.to_owned());
    let prompts = files.file("prompts", "id,question,answer\nq1,How many?,18\nq2,And now?,7\n");
    let source = Source {
        prompts: Some(prompts),
        local: name("a"),
        second: name("b"),
        upstream: name("c"),
        ..files.source(Form::ZeroEval, ANSWERS)
    };
    let log = read(&source).unwrap();
    assert_eq!((log.rows.len(), log.left_out), (2, 2), "q3 and q4 are not answered by both sides");
    assert_eq!(log.rows.iter().map(|row| row.agrees).collect::<Vec<_>>(), [Some(true), Some(true)]);
    assert_eq!(log.rows[1].prompt, "And now?");
    assert_eq!((log.rows[1].local, log.rows[1].upstream), (0.0, 1.0));
    assert_eq!(log.models.len(), 3);
}

#[test]
fn answers_agree_by_value_and_only_when_both_are_there() {
    for (one, other) in [("18", "18.0"), ("$1,000", "1000."), ("True", "true"), ("[1, 2]", "[1,2]"), ("B", "b")] {
        assert!(agree(one, other), "{one} {other}");
    }
    for (one, other) in [("18", "19"), ("", ""), (" ", ""), ("a", "b"), ("18", "")] {
        assert!(!agree(one, other), "{one} {other}");
    }
}

#[test]
fn a_model_that_the_log_lacks_is_refused_with_those_it_has() {
    let files = Files::new();
    let mut source = files.source(Form::ZeroEval, ANSWERS);
    assert_eq!(files.refused(&source), "log: name a model with --local; the log has: a, b, c");
    source.local = Some("d".to_owned());
    assert_eq!(files.refused(&source), "log: no model \"d\" in the log; it has: a, b, c");
    let twice = files.source(Form::ZeroEval, "id,model,correct,answer\nq1,a,1,1\nq1,a,1,2\n");
    assert_eq!(files.refused(&twice), "log:3: \"a\" answers \"q1\" twice");
}

#[test]
fn mmlu_pro_takes_domain_and_options_from_the_questions() {
    let files = Files::new();
    let text = "question_id,model,correct,pred\n1,a,1,B\n1,c,0,C\n";
    let prompts =
        files.file("prompts", "question_id,category,question,options_json,answer\n1,law,Who?,\"[\"\"me\"\"]\",B\n");
    let mut source = files.source(Form::MmluPro, text);
    (source.prompts, source.local, source.upstream) = (Some(prompts), Some("a".to_owned()), Some("c".to_owned()));
    let log = read(&source).unwrap();
    assert_eq!((log.rows[0].domain.as_str(), log.rows[0].prompt.as_str()), ("law", "Who?\n[\"me\"]"));
    assert_eq!(log.rows[0].agrees, None, "no second model was named");
}

#[test]
fn a_pool_of_models_gives_the_pair_and_every_mean() {
    let files = Files::new();
    let text = "task,metric,a,b,c,question\nsums,em,0,0.5,1,How?\nmaps,em,1,0.5,0,Where?\n";
    let mut source = files.source(Form::LlmRouter, text);
    (source.local, source.upstream) = (Some("a".to_owned()), Some("b".to_owned()));
    let log = read(&source).unwrap();
    assert_eq!((log.rows[0].local, log.rows[0].upstream), (0.0, 0.5));
    assert_eq!(log.models.iter().map(|(_, mean)| *mean).collect::<Vec<_>>(), [0.5, 0.5, 0.5]);
    source.second = Some("c".to_owned());
    assert!(files.refused(&source).contains("no answers"));
}

#[test]
fn records_are_json_lines_or_csv() {
    let files = Files::new();
    let json = "{\"id\":\"x\",\"prompt\":\"a\",\"domain\":\"d\",\"local\":0,\"upstream\":1,\"cost\":0.2,\"score\":-1.5,\"agrees\":true,\"more\":1}\n\n{\"prompt\":\"b\",\"local\":1,\"upstream\":0.5}\n";
    let csv = "id,prompt,domain,local,upstream,cost,score,agrees\nx,a,d,0,1,0.2,-1.5,true\n3,b,,1,0.5,,,\n";
    let from_json = read(&files.source(Form::Records, json)).unwrap();
    assert_eq!(from_json.rows[0].cost, 0.2);
    assert_eq!((from_json.rows[0].score, from_json.rows[0].agrees), (Some(-1.5), Some(true)));
    assert_eq!((from_json.rows[1].cost, from_json.rows[1].score), (1.0, None));
    assert_eq!(from_json, read(&files.source(Form::Records, csv)).unwrap());
}

#[test]
fn a_bad_record_is_refused_with_its_line() {
    let files = Files::new();
    let good = "{\"prompt\":\"b\",\"local\":1,\"upstream\":0.5}\n";
    let refused = |line: &str| files.refused(&files.source(Form::Records, &format!("{good}{line}\n")));
    assert!(refused("{\"prompt\":\"b\"}").starts_with("log:2: not a record: missing field `local`"));
    assert!(refused("{\"prompt\":").starts_with("log:2: not a record: "));
    assert_eq!(
        refused("{\"prompt\":\"b\",\"local\":1,\"upstream\":1,\"cost\":-1}"),
        "log:2: cost -1: must be finite and not below 0"
    );
    let csv = files.source(Form::Records, "prompt,local,upstream\nx,1,1\ny,one,1\n");
    assert!(files.refused(&csv).starts_with("log:3: not a record: "), "{}", files.refused(&csv));
}
