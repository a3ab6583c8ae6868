//! Which model a name means.

use super::house::{House, answer, upstream, with_policy};
use crate::fake_upstream::{Answer, FakeUpstream};

/// Two upstreams, one of which passes any name on, and a virtual model.
async fn open() -> (House, FakeUpstream, FakeUpstream) {
    let one = FakeUpstream::saying(Answer::json(answer("one"))).await;
    let two = FakeUpstream::saying(Answer::json(answer("two"))).await;
    let (table, policy) = with_policy("\"one/small\"");
    let config = upstream("one", &one, "models = [\"small\", \"both\", \"org/deep\"]")
        + &upstream("up", &two, "models = [\"large\", \"both\", \"*\"]")
        + &table;
    (House::open_with(&config, &[("p.toml", &policy)], &[]).await, one, two)
}

#[tokio::test]
async fn a_name_finds_its_model_and_the_rest_goes_upstream_verbatim() {
    let (house, one, two) = open().await;
    let table = [
        ("one/small", "one/small", "small"),
        ("small", "one/small", "small"),
        ("auto", "one/small", "small"),
        ("org/deep", "one/org/deep", "org/deep"),
        ("up/large", "up/large", "large"),
        ("large", "up/large", "large"),
        ("up/local/large", "up/local/large", "local/large"),
        ("up/any thing", "up/any thing", "any thing"),
        ("up/both", "up/both", "both"),
    ];
    for (asked, answered, sent) in table {
        let reply = house.ask(asked).await;
        assert_eq!(reply.status, 200, "{asked}: {}", reply.text());
        assert_eq!(reply.json()["model"], answered, "{asked}");
        assert_eq!(reply.header("x-weir-served-by"), answered, "{asked}");
        let fake = if answered.starts_with("one/") { &one } else { &two };
        let body: serde_json::Value = serde_json::from_slice(&fake.asked().last().unwrap().body).unwrap();
        assert_eq!(body["model"], sent, "{asked}");
    }
}

#[tokio::test]
async fn an_unknown_or_ambiguous_name_is_a_404_that_names_the_candidates() {
    let (house, one, two) = open().await;
    let known: &[&str] = &["auto", "one/small", "one/both", "one/org/deep", "up/large", "up/…"];
    let table: [(&str, &[&str]); 6] = [
        ("gpt-9", known),
        ("one/gone", known),
        ("local/small", known),
        ("up/", known),
        ("/small", known),
        ("both", &["one/both", "up/both"]),
    ];
    for (asked, candidates) in table {
        let reply = house.ask(asked).await;
        let error = &reply.json()["error"];
        assert_eq!(reply.status, 404, "{asked}");
        assert_eq!((&error["code"], &error["param"]), (&"model_not_found".into(), &"model".into()), "{asked}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("\"{asked}\"")), "{message}");
        assert!(candidates.iter().all(|name| message.contains(name)), "{message}");
    }
    assert!(!house.ask("both").await.message().contains("one/small"));
    assert!(one.asked().is_empty() && two.asked().is_empty());
}

#[tokio::test]
async fn the_models_are_listed_and_found_by_raw_and_by_encoded_id() {
    let (house, ..) = open().await;
    let list = house.get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["auto", "one/both", "one/org/deep", "one/small", "up/both", "up/large"]);
    for path in ["/v1/models/one/org/deep", "/v1/models/one%2Forg%2Fdeep", "/v1/models/one%2forg/deep"] {
        let entry = house.get(path).await.json();
        assert_eq!((&entry["id"], &entry["owned_by"]), (&"one/org/deep".into(), &"one".into()), "{path}");
    }
    assert_eq!(house.get("/v1/models/auto").await.json()["owned_by"], "weir");
    let unknown = house.get("/v1/models/one%2Fgone").await;
    assert_eq!((unknown.status.as_u16(), unknown.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
}

#[tokio::test]
async fn every_name_that_answers_a_chat_has_an_entry_under_its_full_name() {
    let (house, _one, _two) = open().await;
    let table = [
        ("auto", "auto"),
        ("small", "one/small"),
        ("one/small", "one/small"),
        ("org/deep", "one/org/deep"),
        ("large", "up/large"),
        ("up/local/large", "up/local/large"),
        ("up/anything", "up/anything"),
    ];
    for (asked, full) in table {
        assert_eq!(house.ask(asked).await.status, 200, "{asked}");
        let entry = house.get(&format!("/v1/models/{asked}")).await;
        assert_eq!((entry.status.as_u16(), entry.json()["id"].as_str()), (200, Some(full)), "{asked}");
    }
    for asked in ["both", "up/", "gone"] {
        let entry = house.get(&format!("/v1/models/{asked}")).await;
        assert_eq!((entry.status, entry.message()), (house.ask(asked).await.status, house.ask(asked).await.message()));
    }
}

#[tokio::test]
async fn without_a_virtual_model_auto_is_the_first_upstreams_model() {
    let fake = FakeUpstream::saying(Answer::json(answer("one"))).await;
    let house = House::open(&upstream("one", &fake, "models = [\"small\"]")).await;
    assert_eq!(house.ask("auto").await.json()["model"], "one/small");
}

#[tokio::test]
async fn a_virtual_model_may_have_the_short_name_of_a_model_and_wins() {
    let fake = FakeUpstream::saying(Answer::json(answer("one"))).await;
    let table = "[[virtual]]\nname = \"small\"\npolicy = \"p.toml\"\n";
    let config = upstream("one", &fake, "models = [\"small\", \"large\"]") + table;
    let (_, policy) = with_policy("\"one/large\"");
    let house = House::open_with(&config, &[("p.toml", &policy)], &[]).await;
    assert_eq!(house.ask("small").await.header("x-weir-served-by"), "one/large");
    assert_eq!(house.ask("one/small").await.header("x-weir-served-by"), "one/small");
}
