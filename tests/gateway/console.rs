//! What the console at `/` of the admin port reads: its own files, the last minutes, a decision tried.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir::backend::{Backend, Call, Completion, Status};
use weir::error::Result;
use weir::request::{Delta, Finish, Part, Request, Token, Usage};

use super::admin::ask;
use super::house::{House, answer, upstream};
use crate::fake_upstream::{Answer, FakeUpstream};

const MODELS: &str = "[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n\
                      [[price]]\nmodel = \"up/*\"\ninput = 100000\noutput = 100000\n";
const POLICY: &str = "name = \"p\"\n[[rule]]\nname = \"tools go up\"\nwhen = 'request.tools > 0'\nthen = { serve = \"up/m\" }\n\
                      [[rule]]\nname = \"small first\"\nthen = { cascade = [\"local/small\", \"up/m\"], accept = { score = \"min_logprob\", at_least = -1.0 } }\n";

/// A local model that doubts what holds the word `hard`.
#[derive(Debug)]
struct Doubtful;

impl Backend for Doubtful {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        let hard = String::from_utf8_lossy(&call.request.body.bytes).contains("hard");
        let logprob = if hard { -2.0 } else { -0.25 };
        let token =
            Token { bytes: bytes::Bytes::new(), logprob, margin: 1.0, entropy: 0.1, top: Vec::new(), end: true };
        let usage = Usage { prompt_tokens: 10, cached_tokens: 0, completion_tokens: 5 };
        let parts = [
            Part::Text { text: "words".into(), tokens: vec![token] },
            Part::Finish(Finish::Stop),
            Part::End(Some(usage)),
        ];
        let deltas = stream::iter(parts.map(|part| Ok(Delta::new(0, part)))).boxed();
        Box::pin(async move { Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas }) })
    }

    fn status(&self) -> Status {
        Status { ready: true, slots: 4, slots_busy: 1, kv_used_ratio: 0.25, ..Status::default() }
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}

async fn house() -> (House, FakeUpstream) {
    let fake = FakeUpstream::saying(Answer::json(answer("hi"))).await;
    let config = format!("{MODELS}{}", upstream("up", &fake, "models = [\"m\"]"));
    let stand_ins: [(&str, Arc<dyn Backend>); 1] = [("local/small", Arc::new(Doubtful))];
    (House::open_standing_in(&config, &[("m.gguf", "abc"), ("p.toml", POLICY)], &[], &stand_ins).await, fake)
}

async fn chat(house: &House, text: &str) {
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
    assert_eq!(house.chat(&body.to_string()).await.status, 200);
}

/// The head and the body of a GET.
async fn get(house: &House, path: &str, more: &str) -> (String, String) {
    let mut client = TcpStream::connect(house.admin).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{more}\r\n", house.admin);
    client.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_page_asks_nobody_but_this_port_and_all_its_files_are_there() {
    let (house, _fake) = house().await;
    let (head, page) = get(&house, "/", "").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    let mut files = vec!["/".to_owned()];
    while let Some(path) = files.pop() {
        let (head, text) = get(&house, &path, "").await;
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(!text.replace("http://www.w3.org/2000/svg", "").contains("://"), "{path} names another host");
        let named = text.split(['"', '\'']).filter_map(|word| {
            let own = word.strip_prefix("./").map(|name| format!("/console/{name}"));
            own.or_else(|| word.starts_with("/console/").then(|| word.to_owned()))
        });
        files.extend(named);
    }
    assert!(page.contains("<main"), "{page}");
    assert!(get(&house, "/console/none.js", "").await.0.starts_with("http/1.1 404"));
}

#[tokio::test]
async fn a_file_that_the_browser_has_is_not_sent_again() {
    let (house, _fake) = house().await;
    let (head, text) = get(&house, "/console/main.js", "").await;
    assert!(!text.is_empty());
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let (head, text) = get(&house, "/console/main.js", &format!("if-none-match: {tag}\r\n")).await;
    assert!(head.starts_with("http/1.1 304") && text.is_empty(), "{head}");
    let (head, _) = get(&house, "/console/main.js", "if-none-match: \"other\"\r\n").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn recent_tells_what_went_which_way_and_how_models_are() {
    let (house, _fake) = house().await;
    chat(&house, "easy").await;
    chat(&house, "hard").await;
    house.receipts(2).await;
    let told = ask(&house, "GET", "/admin/recent", &Value::Null).await.body;
    assert_eq!((&told["totals"]["local"], &told["totals"]["escalated"]), (&json!(1), &json!(1)), "{told}");
    assert_eq!((&told["totals"]["spent_usd"], &told["totals"]["avoided_usd"]), (&json!(1.5), &json!(1.5)));
    let rows: Vec<&Value> = told["decisions"].as_array().unwrap().iter().map(|it| &it["outcome"]).collect();
    assert_eq!(rows, ["local", "escalated"]);
    let gate = &told["gates"][0];
    assert_eq!((&gate["judged_kept"], &gate["judged_escalated"]), (&json!(1), &json!(1)), "{gate}");
    let small = told["models"].as_array().unwrap().iter().find(|it| it["model"] == "local/small").unwrap();
    assert_eq!((&small["slots"], &small["kv_used_ratio"]), (&json!(4), &json!(0.25)), "{small}");
    assert_eq!((&told["generation"], &told["unready"]), (&json!(1), &Value::Null));
    let later = ask(&house, "GET", "/admin/recent?after=1", &Value::Null).await.body;
    assert_eq!(later["decisions"].as_array().unwrap().len(), 1, "{later}");
}

#[tokio::test]
async fn a_prompt_is_tried_without_asking_anybody() {
    let (house, fake) = house().await;
    let told = ask(&house, "POST", "/admin/try", &json!({"model": "auto", "text": "hello", "tools": 2})).await;
    assert_eq!((told.status, &told.body["rule"]), (200, &json!("tools go up")), "{told:?}");
    assert_eq!(told.body["rules"][0]["read"], json!([{"name": "request.tools", "value": 2}]));
    let told = ask(&house, "POST", "/admin/try", &json!({"model": "auto", "text": "hello"})).await;
    assert_eq!(told.body["rule"], "small first");
    assert_eq!(told.body["then"]["stages"][0]["keep"], "min_logprob >= -1");
    let recent = ask(&house, "GET", "/admin/recent", &Value::Null).await.body;
    assert_eq!((recent["decisions"].as_array().unwrap().len(), fake.asked().len()), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_tried_says_why() {
    let (house, _fake) = house().await;
    let refused = [
        (json!({"model": "auto", "prompt": "hello"}), 400, "unknown field `prompt`"),
        (json!({"model": "nobody", "text": "hello"}), 404, "the model \"nobody\" does not exist here"),
        (json!({"model": "auto"}), 400, "needs \"text\" or \"messages\""),
    ];
    for (example, status, message) in refused {
        let told = ask(&house, "POST", "/admin/try", &example).await;
        assert_eq!(told.status, status, "{told:?}");
        assert!(told.body["error"]["message"].as_str().unwrap().contains(message), "{told:?}");
    }
}

#[tokio::test]
async fn policies_are_shown_as_the_generation_in_force_read_them() {
    let (house, _fake) = house().await;
    let told = ask(&house, "GET", "/admin/policies", &Value::Null).await.body;
    let policy = &told["policies"][0];
    assert_eq!((&policy["model"], &policy["policy"], &policy["text"]), (&json!("auto"), &json!("p"), &json!(POLICY)));
    assert_eq!((&policy["rules"][0]["when"], &policy["rules"][1]["when"]), (&json!("request.tools > 0"), &Value::Null));
    let changed = POLICY.replace("small first", "small before all");
    house.write("p.toml", &changed);
    assert_eq!(ask(&house, "GET", "/admin/policies", &Value::Null).await.body["policies"][0]["text"], POLICY);
    house.reload().await.unwrap();
    let told = ask(&house, "GET", "/admin/policies", &Value::Null).await.body;
    assert_eq!((&told["generation"], &told["policies"][0]["text"]), (&json!(2), &json!(changed)));
}
