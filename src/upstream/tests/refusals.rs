//! Errors that an upstream tells about keys and contexts.

use super::*;

const KEY: &str = "sk-top-secret";

fn with_key(api_key: ApiKey, fake: &Fake) -> Upstream {
    Upstream::new(Config { api_key, retries: 0, ..config(&[fake]) }).unwrap()
}

fn of_client() -> Call {
    call(Request { authorization: Some(Secret::new(format!("Bearer {KEY}"))), ..chat() })
}

#[tokio::test]
async fn a_refusal_of_the_operators_key_is_the_upstreams_fault_and_says_nothing_of_it() {
    let body = format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}"}}}}"#);
    for status in [401, 403] {
        for (key, said) in [
            (ApiKey::Value(Secret::new(KEY)), format!("upstream \"up\" refused its key (status {status})")),
            (ApiKey::None, format!("upstream \"up\" refused a call without a key (status {status}); set its api_key")),
        ] {
            let fake = Fake::start([Reply::whole(status, "", &body)]).await;
            let error = with_key(key, &fake).start(of_client()).await.unwrap_err();
            let detail = error.detail();
            assert_eq!(
                (detail.kind, detail.origin, detail.retry),
                (Kind::Unavailable, Origin::Upstream, Retry::Elsewhere)
            );
            assert_eq!((detail.code, &detail.message), (Some("upstream_unauthorized"), &said));
            assert!(detail.passed.is_none() && detail.status.is_none());
        }
    }
}

#[tokio::test]
async fn a_refusal_of_the_clients_own_key_passes_through() {
    let fake = Fake::start([Reply::whole(401, "", r#"{"error":{"message":"who are you"}}"#)]).await;
    let error = with_key(ApiKey::Client, &fake).start(of_client()).await.unwrap_err();
    assert_eq!((error.kind(), error.detail().code), (Kind::Unauthenticated, None));
    assert_eq!(error.detail().passed.as_ref().unwrap().status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_that_the_upstream_quotes_is_shown_nowhere() {
    let plain = format!(r#"{{"error":{{"message":"no quota for {KEY}","more":"{KEY}"}}}}"#);
    let escaped = plain.replace("sk-top", r"sk\u002dtop");
    let event = format!("data: {plain}\n\n");
    for key in [ApiKey::Value(Secret::new(KEY)), ApiKey::Client] {
        for (reply, stream) in [
            (Reply::whole(400, "", &plain), false),
            (Reply::whole(500, "", &escaped), false),
            (Reply::whole(429, "", &format!("<p>{KEY}</p>")), false),
            (Reply::json(&plain), false),
            (Reply::stream(&[&event]), true),
        ] {
            let fake = Fake::start([reply]).await;
            let asked = call(Request { stream, ..Arc::into_inner(of_client().request).unwrap() });
            let error = with_key(key.clone(), &fake).start(asked).await.unwrap_err();
            let passed = error.detail().passed.as_ref().map(|passed| passed.body.clone()).unwrap_or_default();
            let shown = format!("{error} {} {}", String::from_utf8_lossy(&passed), error.detail().message);
            assert!(!shown.contains(KEY) && !shown.contains("top-secret"), "{shown}");
            assert!(shown.contains("[key]") || shown.contains("status 429"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_context_that_is_too_short_sends_the_request_elsewhere() {
    let body = r#"{"error":{"message":"at most 8192 tokens","code":"context_length_exceeded","param":"messages"}}"#;
    let fake = Fake::start([Reply::whole(400, "", body)]).await;
    let error = upstream(&[&fake]).start(call(chat())).await.unwrap_err();
    let detail = error.detail();
    assert_eq!((detail.kind, detail.code), (Kind::Invalid, Some("context_length_exceeded")));
    assert_eq!((detail.retry, fake.unseen()), (Retry::Elsewhere, 1));
    assert_eq!(&detail.passed.as_ref().unwrap().body[..], body.as_bytes());
}
