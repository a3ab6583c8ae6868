//! Models are tried, promoted, rolled back, loaded and unloaded while requests are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use weir::backend::{Backend, Call, Completion, Status};
use weir::error::{Error, Result};
use weir::request::{Delta, Finish, Part, Request, Token, Usage};

use super::admin::{Told, ask};
use super::house::{House, Reply, answer, chat, soon, upstream};
use crate::fake_upstream::{Answer, FakeUpstream};

/// Certifies a risk of .1; made for a model file that holds `abc`.
const CALIBRATION: &str = include_str!("../fixtures/calibration.json");
const POLICY: &str = "name = \"p\"\n[[rule]]\nname = \"r\"\nthen = { cascade = [\"local/small\", \"up/m\"], \
                      accept = { max_error = 0.1, calibration = \"c.json\", else_threshold = 0.5 } }\n";

/// Says always the same, or fails.
#[derive(Debug)]
struct Says(Option<&'static str>);

impl Backend for Says {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        let Some(text) = self.0 else { return Box::pin(async { Err(Error::internal("no weights")) }) };
        let token = Token { bytes: "x".into(), logprob: -0.01, margin: 5.0, entropy: 0.0, top: Vec::new(), end: false };
        let usage = Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 1 };
        let text = Part::Text { text: text.to_owned(), tokens: vec![token] };
        let parts = [text, Part::Finish(Finish::Stop), Part::End(Some(usage))];
        let deltas = stream::iter(parts.map(|part| Ok(Delta::new(0, part)))).boxed();
        Box::pin(async move { Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas }) })
    }

    fn status(&self) -> Status {
        Status { ready: true, ..Status::default() }
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}

/// A gateway with one local model of two files, and where its state lies.
struct Tried {
    house: House,
    state: TempDir,
    _fake: FakeUpstream,
}

const TENANTS: &str =
    "[[tenant]]\nname = \"a\"\nkey = { env = \"A\" }\n[[tenant]]\nname = \"b\"\nkey = { env = \"B\" }\n";

async fn open(top: &str, canary: &str, candidate: Option<&'static str>, state: TempDir) -> Tried {
    let fake = FakeUpstream::saying(Answer::json(answer("up"))).await;
    let folder = state.path().display();
    let config = format!(
        "{top}\nstate = \"{folder}\"\n[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n{canary}\n\
         [[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n{}{}",
        upstream("up", &fake, "models = [\"m\"]"),
        if top.is_empty() { "" } else { TENANTS },
    );
    let files = [("m.gguf", "abc"), ("n.gguf", "abcd"), ("c.json", CALIBRATION), ("p.toml", POLICY)];
    let stand_ins: [(&str, Arc<dyn Backend>); 3] = [
        ("local/small", Arc::new(Says(Some("old")))),
        ("local/small@canary", Arc::new(Says(candidate))),
        ("local/more", Arc::new(Says(Some("more")))),
    ];
    let house = House::open_standing_in(&config, &files, &[("A", "key-a"), ("B", "key-b")], &stand_ins).await;
    Tried { house, state, _fake: fake }
}

impl Tried {
    async fn new() -> Tried {
        open("", "", Some("new"), tempfile::tempdir().unwrap()).await
    }

    async fn operate(&self, what: &str, body: Value) -> Told {
        ask(&self.house, "POST", &format!("/admin/models/{what}"), &body).await
    }

    /// It, which must be done.
    async fn done(&self, what: &str, body: Value) {
        let told = self.operate(what, body).await;
        assert_eq!(told.status, 200, "{what}: {}", told.body);
    }

    /// A model as the admin port tells it.
    async fn model(&self, name: &str) -> Value {
        let told = ask(&self.house, "GET", "/admin/models", &Value::Null).await;
        let models = told.body["models"].as_array().unwrap().clone();
        models.into_iter().find(|model| model["name"] == name).unwrap_or(Value::Null)
    }

    /// The end of the file that `local/small` runs.
    async fn file(&self) -> String {
        self.model("local/small").await["file"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }

    fn newest_change(&self) -> (String, String) {
        let change = self.house.control.changes().remove(0);
        (change.what, change.outcome)
    }
}

async fn said_to(house: &House, key: &str) -> Reply {
    let key = format!("Bearer {key}");
    let headers = [("content-type", "application/json"), ("authorization", key.as_str())];
    house.post("/v1/chat/completions", &headers, chat("local/small")).await
}

#[tokio::test]
async fn a_candidate_answers_the_tenants_and_the_share_that_it_is_given_and_is_no_name_of_its_own() {
    let with = "canary = { file = \"n.gguf\", share = 0, shadow = 0, tenants = [\"a\"] }";
    let tried = open("watch = false", with, Some("new"), tempfile::tempdir().unwrap()).await;
    let house = &tried.house;
    let served = async |key: &str| said_to(house, key).await.header("x-weir-served-by").to_owned();
    assert_eq!(served("key-a").await, "local/small@canary");
    assert_eq!(served("key-b").await, "local/small");
    let all = json!({"model": "local/small", "file": "n.gguf", "share": 1, "shadow": 0});
    tried.done("canary", all).await;
    assert_eq!(tried.newest_change(), ("model_canary".to_owned(), "applied".to_owned()));
    assert_eq!(served("key-b").await, "local/small@canary");
    let headers = [("authorization", "Bearer key-a")];
    let asked = house.post("/v1/chat/completions", &headers, chat("local/small@canary")).await;
    assert_eq!(asked.status, 404, "{}", asked.text());
    assert!(asked.message().contains("known:") && !asked.message().contains("canary,"), "{}", asked.message());
    let page = ask(house, "GET", "/metrics", &Value::Null).await.body;
    for line in [
        "weir_canary_requests_total{arm=\"canary\",model=\"local/small\",outcome=\"ok\"} 1",
        "weir_canary_evidence{model=\"local/small\",test=\"failures\"}",
        "weir_admin_changes_total{what=\"model_canary\"} 1",
        "served_by=\"local/small@canary\"",
    ] {
        assert!(page.as_str().unwrap().contains(line), "{line}\n{page}");
    }
}

#[tokio::test]
async fn an_answer_of_a_candidate_is_never_certified() {
    let tried = Tried::new().await;
    let certified = tried.house.ask("auto").await;
    assert!(certified.header("x-weir-certificate").starts_with("max_error=0.1"), "{:?}", certified.headers);
    tried.done("canary", json!({"model": "small", "file": "n.gguf", "share": 1, "shadow": 0})).await;
    let reply = tried.house.ask("auto").await;
    let told = (reply.header("x-weir-served-by"), reply.header("x-weir-certificate"));
    assert_eq!(told, ("local/small@canary", "uncertified; why=canary"));
}

#[tokio::test]
async fn what_a_promotion_would_leave_uncertified_is_told_and_must_be_accepted() {
    let tried = Tried::new().await;
    let refused = tried.operate("promote", json!({"model": "local/small"})).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    tried.done("canary", json!({"model": "local/small", "file": "n.gguf", "share": 0})).await;
    let before = tried.house.control.current().generation();
    let refused = tried.operate("promote", json!({"model": "local/small"})).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (409, &json!("uncertified")), "{}", refused.body);
    let lapse = json!({"policy": "p", "rule": "r", "slice": "facts, short", "model": "local/small"});
    assert_eq!(refused.body["uncertified"], json!([lapse]));
    assert!(refused.body["extra_spend"]["usd_per_hour"].is_number(), "{}", refused.body);
    assert_eq!((tried.house.control.current().generation(), tried.file().await), (before, "m.gguf".to_owned()));
    assert_eq!(tried.newest_change(), ("model_promote".to_owned(), "refused".to_owned()));

    tried.done("promote", json!({"model": "local/small", "accept_uncertified": true})).await;
    let model = tried.model("local/small").await;
    assert!(tried.file().await == "n.gguf" && model["canary"].is_null(), "{model}");
    let reply = tried.house.ask("auto").await;
    let told = (reply.header("x-weir-served-by"), reply.header("x-weir-certificate"));
    assert_eq!(told, ("local/small", "uncertified; why=other_model"));

    tried.done("rollback", json!({"model": "local/small"})).await;
    assert_eq!(tried.file().await, "m.gguf");
    assert!(tried.house.ask("auto").await.header("x-weir-certificate").starts_with("max_error=0.1"));
    let refused = tried.operate("rollback", json!({"model": "local/small"})).await;
    assert!(refused.status == 409 && refused.body.to_string().contains("nothing to go back to"), "{}", refused.body);
}

#[tokio::test]
async fn what_was_done_outlives_the_process_until_the_configuration_names_another_file() {
    let tried = Tried::new().await;
    tried.done("canary", json!({"model": "local/small", "file": "n.gguf", "share": 0})).await;
    tried.done("promote", json!({"model": "local/small", "accept_uncertified": true})).await;
    tried.done("load", json!({"model": "local/more", "file": "m.gguf"})).await;
    let again = tried.house.restart().await.unwrap().current();
    let files: Vec<String> = again.reports().into_iter().map(|model| model.file).collect();
    assert!(files.len() == 2 && files[0].ends_with("n.gguf") && files[1].ends_with("m.gguf"), "{files:?}");
    // Another file of the configuration's wins over what was promoted in the place of the one before.
    let config = std::fs::read_to_string(tried.house.path("weir.toml")).unwrap();
    tried.house.write("o.gguf", "abc");
    tried.house.write("weir.toml", &config.replace("m.gguf", "o.gguf"));
    tried.house.reload().await.unwrap();
    assert_eq!(tried.file().await, "o.gguf");
    let warnings = tried.house.control.generations().last().unwrap().warnings.clone();
    assert!(warnings.iter().any(|warning| warning.contains("what was done to it is dropped")), "{warnings:?}");
}

#[tokio::test]
async fn a_model_is_loaded_and_unloaded_and_one_of_the_configuration_is_not() {
    let tried = Tried::new().await;
    tried.done("load", json!({"model": "local/more", "file": "m.gguf"})).await;
    assert_eq!(tried.house.ask("more").await.status, 200);
    let again = tried.operate("load", json!({"model": "local/more", "file": "n.gguf"})).await;
    assert_eq!(again.status, 409, "{}", again.body);
    tried.done("unload", json!({"model": "local/more"})).await;
    assert_eq!(tried.house.ask("more").await.status, 404);
    let refused = tried.operate("unload", json!({"model": "local/small"})).await;
    assert!(refused.status == 409 && refused.body.to_string().contains("[[model]]"), "{}", refused.body);
    assert_eq!(tried.operate("unload", json!({"model": "local/none"})).await.status, 404);
}

#[tokio::test]
async fn what_cannot_be_loaded_or_is_badly_asked_for_changes_nothing() {
    let tried = Tried::new().await;
    // The last one has a file that is no model, and nobody who stands in for it.
    for (what, body, status) in [
        ("load", json!({"model": "local/x", "file": "gone.gguf"}), 422),
        ("canary", json!({"model": "local/small", "file": "gone.gguf"}), 422),
        ("canary", json!({"model": "local/small", "file": "n.gguf", "share": 2}), 422),
        ("canary", json!({"model": "local/small", "file": "n.gguf", "tenants": ["nobody"]}), 422),
        ("canary", json!({"model": "local/small", "file": "n.gguf", "max_slower": 1}), 422),
        ("canary", json!({"model": "local/small", "file": "m.gguf"}), 409),
        ("canary", json!({"model": "local/small", "file": "n.gguf", "shares": 0.1}), 400),
        ("canary", json!({"file": "n.gguf"}), 400),
        ("load", json!({"model": "local/x@y", "file": "n.gguf"}), 404),
        ("load", json!({"model": "local/x", "file": "n.gguf"}), 422),
    ] {
        let told = tried.operate(what, body.clone()).await;
        assert_eq!(told.status, status, "{body}: {}", told.body);
    }
    assert_eq!(tried.house.control.current().generation(), 1);
    let left: Vec<_> = std::fs::read_dir(tried.state.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["changes.jsonl"]);
    assert!(!tried.house.control.differs_from_disk());
    assert_eq!(tried.house.ask("auto").await.status, 200);
}

#[tokio::test]
async fn a_candidate_that_loses_its_trial_is_given_up_and_stays_out() {
    let with = "canary = { file = \"n.gguf\", share = 1, shadow = 0 }";
    let tried = open("", with, None, tempfile::tempdir().unwrap()).await;
    let mut asked = 0;
    while tried.house.control.current().lost_trials().is_empty() {
        let reply = tried.house.ask("local/small").await;
        assert!(reply.status == 200 && reply.text().contains("old"), "{}", reply.text());
        asked += 1;
        assert!(asked < 200, "never given up");
    }
    soon(tried.house.running.trial_lost()).await;
    tried.house.running.give_up_lost().await;
    assert_eq!(tried.newest_change(), ("canary_rolled_back".to_owned(), "applied".to_owned()));
    let model = tried.model("local/small").await;
    assert!(model["canary"].is_null() && model["refused_canary"] == "n.gguf", "{model}");
    let page = ask(&tried.house, "GET", "/metrics", &Value::Null).await.body;
    let page = page.as_str().unwrap();
    assert!(page.contains("weir_admin_changes_total{what=\"canary_rolled_back\"} 1"), "{page}");
    assert!(!page.contains("weir_canary_evidence{"), "{page}");
    // The configuration still names it; a restart does not try it again.
    assert!(tried.house.restart().await.unwrap().current().canary_statuses().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_swaps_and_five_ways_back_under_load_fail_no_request() {
    let tried = Arc::new(Tried::new().await);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..4 {
        let (tried, stop, answered) = (Arc::clone(&tried), Arc::clone(&stop), Arc::clone(&answered));
        clients.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let reply = tried.house.ask(if client % 2 == 0 { "auto" } else { "local/small" }).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let some_more = async || {
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 4 {
            tokio::task::yield_now().await;
        }
    };
    for swap in 0..20 {
        let next = if swap % 2 == 0 { "n.gguf" } else { "m.gguf" };
        tried.done("canary", json!({"model": "local/small", "file": next, "share": 0.5, "shadow": 1})).await;
        some_more().await;
        tried.done("promote", json!({"model": "local/small", "accept_uncertified": true})).await;
        assert_eq!(tried.file().await, next);
        some_more().await;
        if swap % 4 == 3 {
            tried.done("rollback", json!({"model": "local/small"})).await;
            assert_eq!(tried.file().await, "n.gguf");
            tried.done("canary", json!({"model": "local/small", "file": "m.gguf", "share": 0.5})).await;
            tried.done("promote", json!({"model": "local/small"})).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(answered.load(Ordering::SeqCst) >= 160);
}

#[tokio::test]
async fn without_a_state_folder_nothing_is_done_and_the_way_out_is_told() {
    let fake = FakeUpstream::saying(Answer::json(answer("up"))).await;
    let house = House::open(&upstream("up", &fake, "models = [\"m\"]")).await;
    let told = ask(&house, "POST", "/admin/models/load", &json!({"model": "local/x", "file": "m.gguf"})).await;
    assert!(told.status == 409 && told.body.to_string().contains("state = "), "{}", told.body);
}
