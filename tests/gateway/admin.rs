//! The admin port over a gateway that runs: who may call, what it shows, reload and roll back.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::house::{House, answer, upstream, with_policy};
use crate::fake_upstream::{Answer, FakeUpstream};

/// An answer of the admin port.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub body: Value,
}

/// Asks the admin port from this machine.
pub async fn ask(house: &House, method: &str, path: &str, body: &Value) -> Told {
    ask_with(house.admin, method, path, body, &[]).await
}

/// The same, with headers.
pub async fn ask_with(admin: SocketAddr, method: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> Told {
    let mut client = TcpStream::connect(admin).await.unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str(&format!("host: {admin}\r\n"));
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
        head.push_str("content-type: application/json\r\n");
    }
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    client.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Told { status, body: serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())) }
}

/// A gateway whose `auto` is one policy, `p.toml`.
async fn house(top: &str, env: &[(&str, &str)]) -> (House, FakeUpstream) {
    let fake = FakeUpstream::saying(Answer::json(answer("hi"))).await;
    let (table, policy) = with_policy("\"up/m\"");
    let config = format!("{top}\n{}{table}", upstream("up", &fake, "models = [\"m\", \"n\"]"));
    (House::open_with(&config, &[("p.toml", &policy)], env).await, fake)
}

async fn served_by(house: &House) -> String {
    house.ask("auto").await.header("x-weir-served-by").to_owned()
}

#[tokio::test]
async fn with_a_token_all_but_probes_and_metrics_wants_it() {
    let (house, _fake) = house("admin_token = { env = \"TOKEN\" }", &[("TOKEN", "hush-hush")]).await;
    let bearer = |token: &str| [("authorization".to_owned(), format!("Bearer {token}"))];
    for (page, open) in
        [("/livez", true), ("/readyz", true), ("/metrics", true), ("/admin/status", false), ("/admin/audits", false)]
    {
        assert_eq!(ask(&house, "GET", page, &Value::Null).await.status, if open { 200 } else { 401 }, "{page}");
    }
    for (token, status) in [("hush-hush", 200), ("hush-hus", 401), ("hush-hush-", 401), ("HUSH-HUSH", 401)] {
        let headers = bearer(token);
        let headers = [(headers[0].0.as_str(), headers[0].1.as_str()), ("x-weir-actor", "alice")];
        let told = ask_with(house.admin, "POST", "/admin/reload", &Value::Null, &headers).await;
        assert_eq!(told.status, status, "{token}: {told:?}");
        assert!(!told.body.to_string().contains("hush"), "{told:?}");
    }
    // A token is not sent by browsers of their own accord: the name it is reached by is free.
    let headers = [("authorization", "Bearer hush-hush"), ("host", "weir.example"), ("origin", "https://weir.example")];
    assert_eq!(ask_with(house.admin, "POST", "/admin/reload", &Value::Null, &headers).await.status, 200);
}

#[tokio::test]
async fn without_a_token_another_sites_page_and_a_rebound_name_change_nothing() {
    let (house, _fake) = house("", &[]).await;
    house.write("p.toml", &with_policy("\"up/n\"").1);
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "cross-site")],
        &[("host", "evil.example")],
        &[("host", "evil.example"), ("origin", "http://evil.example")],
    ] {
        let told = ask_with(house.admin, "POST", "/admin/reload", &Value::Null, headers).await;
        assert_eq!(told.status, 403, "{headers:?} {told:?}");
    }
    // A form can send this without asking first.
    let form = [("content-type", "text/plain")];
    assert_eq!(ask_with(house.admin, "POST", "/admin/rollback", &json!({"generation": 1}), &form).await.status, 415);
    assert_eq!((house.control.current().generation(), served_by(&house).await.as_str()), (1, "up/m"));
    assert_eq!(ask(&house, "POST", "/admin/reload", &Value::Null).await.status, 200);
    assert_eq!(served_by(&house).await, "up/n");
}

#[tokio::test]
async fn a_reload_tells_what_it_changed_or_everything_that_is_wrong() {
    let (house, _fake) = house("", &[]).await;
    let same = ask(&house, "POST", "/admin/reload", &Value::Null).await;
    assert_eq!((same.status, &same.body["generation"], &same.body["new"]), (200, &json!(1), &json!(false)));
    house.write("p.toml", &with_policy("\"up/n\"").1);
    let applied = ask(&house, "POST", "/admin/reload", &Value::Null).await.body;
    assert_eq!((&applied["generation"], &applied["new"]), (&json!(2), &json!(true)));
    assert_eq!(applied["changed"], json!([{"file": house.path("p.toml"), "how": "changed"}]));
    house.write("p.toml", "name = \"p\"\n[[rule]]\nname = \"x\"\nthen = { serve = \"up/gone\" }\nnonsense = 1\n");
    let refused = ask(&house, "POST", "/admin/reload", &Value::Null).await;
    let places: Vec<&str> =
        refused.body["problems"].as_array().unwrap().iter().map(|it| it["place"].as_str().unwrap()).collect();
    assert_eq!(refused.status, 422);
    assert!(places.iter().all(|place| place.contains("p.toml:")) && !places.is_empty(), "{refused:?}");
    let status = ask(&house, "GET", "/admin/status", &Value::Null).await.body;
    assert_eq!(status["last_refusal"]["problems"], refused.body["problems"]);
    assert_eq!((&status["generation"]["number"], &status["files"]["are_what_runs"]), (&json!(2), &json!(false)));
    assert!(status["generation"]["who"].as_str().unwrap().starts_with("loopback 127.0.0.1:"), "{status}");
    assert_eq!(status["virtual"], json!([{"name": "auto", "policy": "p"}]));
    assert_eq!(served_by(&house).await, "up/n");
}

#[tokio::test]
async fn a_roll_back_is_a_new_generation_of_the_earlier_files_and_leaves_the_disk_alone() {
    let (house, _fake) = house("", &[]).await;
    house.write("p.toml", &with_policy("\"up/n\"").1);
    house.reload().await.unwrap();
    let told = ask(&house, "POST", "/admin/rollback", &json!({"generation": 1})).await;
    assert_eq!((told.status, &told.body["generation"]), (200, &json!(3)), "{told:?}");
    assert!(told.body["note"].as_str().unwrap().contains("the files on the disk are as they were"));
    assert_eq!(served_by(&house).await, "up/m");
    let one = ask(&house, "GET", "/admin/generations/3", &Value::Null).await.body;
    assert_eq!((&one["cause"], &one["rolled_back_to"]), (&json!("rollback"), &json!(1)));
    let diff = one["diff"].as_str().unwrap();
    assert!(diff.contains("-then = { serve = \"up/n\" }\n+then = { serve = \"up/m\" }"), "{diff}");
    let again = ask(&house, "POST", "/admin/rollback", &json!({"generation": 1})).await.body;
    assert_eq!((&again["generation"], &again["new"]), (&json!(3), &json!(false)));
    assert_eq!(house.reload().await, Ok(4), "the disk is applied again");
    assert_eq!(served_by(&house).await, "up/n");
    let all = ask(&house, "GET", "/admin/generations", &Value::Null).await.body;
    let numbers: Vec<u64> =
        all["generations"].as_array().unwrap().iter().map(|it| it["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
    for (generation, status) in [(json!(77), 404), (json!("one"), 400)] {
        let told = ask(&house, "POST", "/admin/rollback", &json!({"generation": generation})).await;
        assert_eq!(told.status, status, "{told:?}");
    }
    assert_eq!(ask(&house, "GET", "/admin/generations/9", &Value::Null).await.status, 404);
}

#[tokio::test]
async fn no_key_is_in_any_answer() {
    let config = "admin_token = { file = \"admin.key\" }\n[[tenant]]\nname = \"t\"\nkey = { file = \"t.key\" }";
    let fake = FakeUpstream::saying(Answer::json(answer("hi"))).await;
    let up = upstream("up", &fake, "models = [\"m\"]\napi_key = { env = \"UP_KEY\" }");
    let sk = format!("sk-{}", "a1".repeat(16));
    let files = [("admin.key", "hush-admin\n"), ("t.key", "hush-tenant\n")];
    let house = House::open_with(&format!("{config}\n{up}# {sk}\n"), &files, &[("UP_KEY", "hush-up")]).await;
    house.write("t.key", "hush-other\n");
    house.write("weir.toml", &format!("{config}\n{up}# {sk}z\n# more\n"));
    let headers = [("authorization", "Bearer hush-admin")];
    let mut shown = String::new();
    for (method, page) in [
        ("POST", "/admin/reload"),
        ("GET", "/admin/status"),
        ("GET", "/admin/generations"),
        ("GET", "/admin/generations/1"),
        ("GET", "/admin/generations/2"),
    ] {
        let told = ask_with(house.admin, method, page, &Value::Null, &headers).await;
        assert_eq!(told.status, 200, "{page} {told:?}");
        shown.push_str(&told.body.to_string());
    }
    house.write("weir.toml", &format!("{config}\n{up}retries = \"{sk}\"\n"));
    shown.push_str(&ask_with(house.admin, "POST", "/admin/reload", &Value::Null, &headers).await.body.to_string());
    assert!(shown.contains("t.key") && shown.contains("\"key\"") && shown.contains("+# more"), "{shown}");
    assert!(!shown.contains("hush") && !shown.contains("a1a1"), "{shown}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let (house, _fake) = house("", &[]).await;
    let told = ask(&house, "POST", "/admin/rollback", &json!({"generation": "x".repeat(2 << 20)})).await;
    assert_eq!(told.status, 413, "{told:?}");
}

#[tokio::test]
async fn a_reload_never_opens_the_door_that_the_start_has_closed() {
    let (house, _fake) =
        house("admin = \"0.0.0.0:8081\"\nadmin_token = { env = \"TOKEN\" }", &[("TOKEN", "hush")]).await;
    let text = std::fs::read_to_string(house.path("weir.toml")).unwrap();
    let open = text.replace("admin = \"0.0.0.0:8081\"\nadmin_token = { env = \"TOKEN\" }", "");
    assert_ne!(open, text);
    house.write("weir.toml", &open);
    let problems = house.reload().await.unwrap_err();
    assert!(problems.len() == 1 && problems[0].message.contains("admin_token"), "{problems:?}");
}
