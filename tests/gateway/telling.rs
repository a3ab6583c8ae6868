//! Who pays, what an answer tells about itself, and what the metrics say afterwards.

use super::house::{House, answer, chat, events, streamed, upstream};
use crate::fake_upstream::{Answer, FakeUpstream};

const PRICE: &str = "[[price]]\nmodel = \"up/m\"\ninput = 0.4\ncached_input = 0.1\noutput = 1.6\n";

async fn saying_hello() -> FakeUpstream {
    FakeUpstream::start(|asked| {
        let said = events("hello");
        let pieces: Vec<&str> = said.iter().map(String::as_str).collect();
        let stream = String::from_utf8_lossy(&asked.body).contains("\"stream\":true");
        if stream { Answer::events(&pieces) } else { Answer::json(answer("hello")) }
    })
    .await
}

#[tokio::test]
async fn tenants_are_known_by_their_keys_and_nobody_else_is_served() {
    let fake = saying_hello().await;
    let config = upstream("up", &fake, "models = [\"m\"]\napi_key = { env = \"UP_KEY\" }")
        + "[[tenant]]\nname = \"one\"\nkey = { env = \"ONE\" }\n[[tenant]]\nname = \"two\"\nkey = { file = \"two.key\" }\n";
    let env = [("UP_KEY", "sk-up"), ("ONE", "k-one")];
    let house = House::open_with(&config, &[("two.key", "k-two\n")], &env).await;
    for key in ["", "Bearer wrong", "Basic k-one", "Bearer k-on"] {
        let headers: Vec<(&str, &str)> =
            [("authorization", key)].into_iter().filter(|(_, key)| !key.is_empty()).collect();
        let reply = house.post("/v1/chat/completions", &headers, chat("up/m")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"]["code"].as_str()),
            (401, Some("invalid_api_key")),
            "{key}"
        );
        assert_eq!(reply.header("www-authenticate"), "Bearer");
    }
    assert_eq!(house.get("/v1/models").await.status, 401);
    assert!(fake.asked().is_empty());
    for (key, tenant) in [("Bearer k-one", "one"), ("bearer k-two", "two")] {
        let before = house.receipts(0).await.len();
        assert_eq!(house.post("/v1/chat/completions", &[("authorization", key)], chat("up/m")).await.status, 200);
        assert_eq!(house.receipts(before + 1).await[before].tenant.as_str(), tenant);
    }
    for asked in fake.asked() {
        assert_eq!(asked.headers["authorization"], "Bearer sk-up");
        assert!(!format!("{asked:?}").contains("k-one") && !format!("{asked:?}").contains("k-two"));
    }
}

#[tokio::test]
async fn a_clients_key_goes_only_to_an_upstream_that_takes_it() {
    let fake = saying_hello().await;
    let config = upstream("own", &fake, "models = [\"m\"]\napi_key = { client = true }")
        + &upstream("free", &fake, "models = [\"m\"]");
    let house = House::open(&config).await;
    let key = [("authorization", "Bearer sk-client")];
    assert_eq!(house.post("/v1/chat/completions", &key, chat("own/m")).await.status, 200);
    assert_eq!(house.post("/v1/chat/completions", &key, chat("free/m")).await.status, 200);
    let asked = fake.asked();
    assert_eq!(asked[0].headers["authorization"], "Bearer sk-client");
    assert!(!asked[1].headers.contains_key("authorization"));
    let without = house.ask("own/m").await;
    assert_eq!((without.status.as_u16(), without.header("x-weir-origin")), (401, "client"));
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn an_answer_tells_its_story() {
    let fake = saying_hello().await;
    let house = House::open(&(upstream("up", &fake, "models = [\"m\", \"free\"]") + PRICE)).await;
    let reply = house.ask("m").await;
    let story = ["x-weir-served-by", "x-weir-policy", "x-weir-cost-usd", "x-weir-confidence", "x-weir-degraded"];
    // 10 tokens at 0.4 and 5 at 1.6 dollars a million.
    assert_eq!(story.map(|name| reply.header(name)), ["up/m", "direct@1; rule=named", "0.000012", "", ""]);
    assert_eq!(house.ask("up/free").await.header("x-weir-cost-usd"), "");
    let stream = house.chat(&streamed("up/m")).await;
    assert_eq!(stream.header("x-weir-cost-usd"), "");
    assert!(stream.text().ends_with(": weir cost-usd=0.000012\n\ndata: [DONE]\n\n"), "{}", stream.text());
    let receipts = house.receipts(3).await;
    assert_eq!(receipts[2].cost_usd, receipts[0].cost_usd);
}

#[tokio::test]
async fn a_requests_id_is_kept_passed_on_and_made_where_there_is_none() {
    let fake = saying_hello().await;
    let house = House::open(&upstream("up", &fake, "models = [\"m\"]")).await;
    let own = [("x-request-id", "ticket 7/"), ("content-type", "application/json")];
    assert_eq!(house.post("/v1/chat/completions", &own, chat("up/m")).await.header("x-request-id"), "ticket 7/");
    assert_eq!(fake.asked()[0].headers["x-client-request-id"], "ticket 7/");
    let long = "x".repeat(129);
    for id in ["", long.as_str()] {
        let made = house.post("/v1/chat/completions", &[("x-request-id", id)], chat("up/m")).await;
        assert!(made.header("x-request-id").starts_with("req_"), "{id}");
    }
    let ids: Vec<String> = house.receipts(3).await.iter().map(|receipt| receipt.id.to_string()).collect();
    assert_eq!(ids[0], "ticket 7/");
    assert_ne!(ids[1], ids[2]);
}

#[tokio::test]
async fn headers_that_the_operator_named_reach_the_policy() {
    let fake = saying_hello().await;
    let policy = "name = \"p\"\n[[rule]]\nname = \"team\"\nwhen = 'request.headers[\"x-team\"] == \"red\"'\nthen = { serve = \"up/red\" }\n\
                  [[rule]]\nname = \"rest\"\nthen = { serve = \"up/m\" }\n";
    let config = "policy_headers = [\"X-Team\"]\n".to_owned()
        + &upstream("up", &fake, "models = [\"m\", \"red\"]")
        + "[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";
    let house = House::open_with(&config, &[("p.toml", policy)], &[]).await;
    let red = house.post("/v1/chat/completions", &[("x-team", "red")], chat("auto")).await;
    assert_eq!((red.header("x-weir-served-by"), red.header("x-weir-policy")), ("up/red", "p@1; rule=team"));
    assert_eq!(house.ask("auto").await.header("x-weir-served-by"), "up/m");
}

/// The value of a series.
fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn the_metrics_hold_what_happened_under_bounded_labels() {
    let fake = saying_hello().await;
    let config = upstream("up", &fake, "models = [\"m\"]") + &upstream("wild", &fake, "models = [\"*\"]") + PRICE;
    let house = House::open(&config).await;
    house.ask("m").await;
    house.chat(&streamed("up/m")).await;
    for junk in 0..100 {
        house.ask(&format!("junk-{junk}")).await;
        house.ask(&format!("wild/junk-{junk}")).await;
    }
    house.receipts(202).await;
    let metrics = house.rendered();
    assert!(!metrics.contains("junk"), "{metrics}");
    let table = [
        ("weir_requests_total{model=\"m\",outcome=\"ok\",served_by=\"up/m\"}", 1.0),
        ("weir_requests_total{model=\"up/m\",outcome=\"ok\",served_by=\"up/m\"}", 1.0),
        ("weir_requests_total{model=\"other\",outcome=\"not_found\",served_by=\"none\"}", 100.0),
        ("weir_requests_total{model=\"other\",outcome=\"ok\",served_by=\"wild/*\"}", 100.0),
        ("weir_tokens_total{kind=\"prompt\",model=\"up/m\"}", 20.0),
        ("weir_tokens_total{kind=\"completion\",model=\"up/m\"}", 10.0),
        ("weir_cost_usd_total{model=\"up/m\"}", 0.000024),
        ("weir_wasted_cost_usd_total{model=\"up/m\"}", 0.0),
        ("weir_unpriced_requests_total{model=\"wild/*\"}", 100.0),
        ("weir_ttft_seconds_count{model=\"up/m\"}", 2.0),
        ("weir_e2e_seconds_count{model=\"up/m\"}", 2.0),
        ("weir_overhead_seconds_count", 202.0),
        ("weir_queue_depth{model=\"up/m\"}", 0.0),
        ("weir_slots{model=\"up/m\",state=\"busy\"}", 0.0),
        ("weir_generation", 1.0),
    ];
    for (series, expected) in table {
        let found = value(&metrics, series).unwrap_or_else(|| panic!("{series} is not in\n{metrics}"));
        assert!((found - expected).abs() < 1e-9, "{series}: {found}, want {expected}");
    }
    assert!(metrics.contains("weir_overhead_seconds_bucket{le=\"0.00002\"}"), "{metrics}");
}

#[tokio::test]
async fn an_upstreams_errors_are_counted_by_kind() {
    let fake = FakeUpstream::saying(Answer::json("{}").status(429)).await;
    let house = House::open(&upstream("up", &fake, "models = [\"m\"]")).await;
    house.ask("up/m").await;
    house.receipts(1).await;
    let metrics = house.rendered();
    assert_eq!(value(&metrics, "weir_upstream_errors_total{kind=\"rate_limited\",upstream=\"up\"}"), Some(1.0));
    assert_eq!(
        value(&metrics, "weir_requests_total{model=\"up/m\",outcome=\"rate_limited\",served_by=\"none\"}"),
        Some(1.0)
    );
}
