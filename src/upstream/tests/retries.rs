//! Retries, their limits, time-outs and the breaker.

use super::*;
use crate::upstream::failure::{Asked, Failure};

fn failing(status: u16, head: &str) -> Reply {
    Reply::whole(status, head, r#"{"error":{"message":"later"}}"#)
}

/// Moves the clock without waiting.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_passing_failure_is_tried_again() {
    for status in [408, 409, 429, 500, 502, 503, 504, 529] {
        let mut fake = Fake::start([failing(status, ""), failing(status, ""), Reply::json(ANSWER)]).await;
        let (raw, _) = all(upstream(&[&fake]).start(call(chat())).await.unwrap()).await;
        assert_eq!(raw, [ANSWER], "{status}");
        let first = fake.seen().await.body;
        assert_eq!((fake.seen().await.body, fake.seen().await.body), (first.clone(), first), "each try sends the same");
    }
}

#[tokio::test]
async fn a_lasting_failure_is_not_tried_again() {
    let spent = Reply::whole(429, "", r#"{"error":{"message":"pay","code":"insufficient_quota"}}"#);
    for reply in [failing(400, ""), failing(401, ""), failing(404, ""), failing(501, ""), spent] {
        let fake = Fake::start([reply]).await;
        upstream(&[&fake]).start(call(chat())).await.unwrap_err();
        assert_eq!(fake.unseen(), 1);
    }
}

#[tokio::test]
async fn tries_are_counted() {
    let fake = Fake::start([failing(503, "")]).await;
    let upstream = Upstream::new(Config { retries: 3, breaker_failures: 99, ..config(&[&fake]) }).unwrap();
    let error = upstream.start(call(chat())).await.unwrap_err();
    assert_eq!(error.detail().passed.as_ref().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fake.unseen(), 4);
}

#[tokio::test]
async fn retries_end_with_the_budget() {
    let fake = Fake::start([failing(503, "")]).await;
    let upstream = Upstream::new(Config { retries: 2, breaker_failures: 9_999, ..config(&[&fake]) }).unwrap();
    for _ in 0..50 {
        upstream.start(call(chat())).await.unwrap_err();
    }
    assert_eq!(fake.unseen(), 50 + 10 + 50 / 5);
}

#[tokio::test]
async fn a_short_wait_is_honoured_and_a_long_one_is_told() {
    let fake = Fake::start([failing(429, "retry-after-ms: 2\r\n"), Reply::json(ANSWER)]).await;
    upstream(&[&fake]).start(call(chat())).await.unwrap();
    assert_eq!(fake.unseen(), 2);

    for status in [429, 503] {
        let fake = Fake::start([failing(status, "retry-after: 3600\r\n")]).await;
        let error = upstream(&[&fake]).start(call(chat())).await.unwrap_err();
        assert_eq!(error.detail().retry, Retry::After(Duration::from_secs(3600)));
        assert_eq!(error.detail().passed.as_ref().unwrap().headers["retry-after"], "3600");
        assert_eq!(fake.unseen(), 1);
    }
}

#[test]
fn the_wait_is_the_one_asked_for() {
    let config = config(&[]);
    let failure = |seconds: &str| {
        let headers = [(http::header::RETRY_AFTER, seconds.parse().unwrap())].into_iter().collect();
        let asked = Asked::new("up".into(), &ApiKey::None, None);
        Failure::status(&asked, StatusCode::SERVICE_UNAVAILABLE, &headers, Bytes::new())
    };
    assert_eq!(failure("4").wait(&config, 0, false), Some(Duration::from_secs(4)));
    assert_eq!(failure("11").wait(&config, 0, false), None);
    assert_eq!(failure("11").wait(&config, 0, true), Some(Duration::ZERO), "another endpoint need not wait");
}

#[tokio::test]
async fn a_failed_endpoint_gives_way_to_the_next() {
    let bad = Fake::start([failing(503, "retry-after: 3600\r\n")]).await;
    let good = Fake::start([Reply::json(ANSWER)]).await;
    let upstream = Upstream::new(Config { breaker_failures: 99, ..config(&[&bad, &good]) }).unwrap();
    for _ in 0..4 {
        upstream.start(call(chat())).await.unwrap();
    }
    assert_eq!((bad.unseen(), good.unseen()), (2, 4), "they begin in turn");
}

#[tokio::test]
async fn an_endpoint_that_is_out_of_order_does_not_spare_the_wait_for_another() {
    let down = Fake::start([failing(500, "")]).await;
    let busy = Fake::start([Reply::json(ANSWER), failing(503, "retry-after: 3600\r\n")]).await;
    let breaker_cool_down = Duration::from_secs(3600);
    let upstream = Upstream::new(Config { breaker_failures: 1, breaker_cool_down, ..config(&[&down, &busy]) }).unwrap();
    upstream.start(call(chat())).await.unwrap();
    assert_eq!((down.unseen(), busy.unseen()), (1, 1));
    let error = upstream.start(call(chat())).await.unwrap_err();
    assert_eq!(error.detail().retry, Retry::After(Duration::from_secs(3600)));
    assert_eq!((down.unseen(), busy.unseen()), (1, 2), "it is not asked again before it wants to be");
}

#[tokio::test]
async fn an_answer_that_fails_before_its_first_delta_counts_for_the_breaker() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\n";
    let told = "data: {\"error\":{\"message\":\"no\"}}\n\n";
    for (reply, breaker) in [
        (Reply::raw(&[head], Then::Hang), Breaker::Open),
        (Reply::raw(&[head, ": ping\n\n"], Then::Close), Breaker::Open),
        (Reply::stream(&["data: nonsense\n\n"]), Breaker::Open),
        (Reply::stream(&[told]), Breaker::Closed),
        (Reply::cut(&["data: {}\n\n"]), Breaker::Closed),
    ] {
        let first_byte_timeout = Duration::from_millis(50);
        let fake = Fake::start([reply.clone()]).await;
        let patient = Config { breaker_failures: 1, first_byte_timeout, ..config(&[&fake]) };
        let upstream = Upstream::new(Config { idle_timeout: first_byte_timeout, ..patient }).unwrap();
        let begun = upstream.start(streaming()).await;
        assert_eq!(upstream.status().breaker, breaker, "{reply:?}: {begun:?}");
        assert_eq!(fake.unseen(), 1);
    }
}

#[tokio::test]
async fn the_least_busy_endpoint_is_asked() {
    let stream = || Reply::cut(&["data: {}\n\n"]).then(Then::Hang);
    let (first, second) = (Fake::start([stream()]).await, Fake::start([stream()]).await);
    let upstream = upstream(&[&first, &second]);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(upstream.start(streaming()).await.unwrap());
    }
    assert_eq!((first.unseen(), second.unseen()), (3, 3));
    held.remove(0);
    held.push(upstream.start(streaming()).await.unwrap());
    assert_eq!((first.unseen(), second.unseen()), (4, 3));
}

#[tokio::test]
async fn a_connection_closed_meanwhile_is_not_a_failure() {
    let fake = Fake::start([Reply::json(ANSWER).then(Then::Close)]).await;
    let upstream = Upstream::new(Config { retries: 0, ..config(&[&fake]) }).unwrap();
    for _ in 0..20 {
        upstream.start(call(chat())).await.unwrap();
    }
    assert_eq!((fake.accepts(), upstream.status().breaker), (20, Breaker::Closed));
}

#[tokio::test]
async fn a_request_lost_on_a_pooled_connection_is_sent_again() {
    let lost = Reply::raw(&[], Then::Close);
    let fake = Fake::start([Reply::json(ANSWER), lost, Reply::json(ANSWER)]).await;
    let upstream = Upstream::new(Config { retries: 0, ..config(&[&fake]) }).unwrap();
    upstream.start(call(chat())).await.unwrap();
    upstream.start(call(chat())).await.unwrap();
    assert_eq!((fake.unseen(), fake.accepts()), (3, 2));
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let endpoints = vec!["http://127.0.0.1:1/v1".parse().unwrap()];
    let upstream = Upstream::new(Config { endpoints, ..config(&[]) }).unwrap();
    let error = upstream.start(call(chat())).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.detail().origin, error.detail().retry),
        (Kind::Unavailable, Origin::Upstream, Retry::Elsewhere)
    );
    assert!(error.detail().message.starts_with("upstream \"up\": cannot connect: "), "{error}");
}

#[tokio::test]
async fn a_silent_server_times_out_at_each_step() {
    let no_tls = Fake::start([Reply::raw(&[], Then::Hang)]).await;
    let address = no_tls.address.to_string().replace("http:", "https:").parse().unwrap();
    let tiny = Duration::from_millis(20);
    let tls = Config { endpoints: vec![address], connect_timeout: tiny, retries: 0, ..config(&[]) };
    let error = Upstream::new(tls).unwrap().start(call(chat())).await.unwrap_err();
    assert_eq!(error.detail().message, r#"upstream "up": cannot connect: no connection within 20ms"#);

    let silent = Fake::start([Reply::raw(&[], Then::Hang)]).await;
    let half = Fake::start([Reply::raw(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"], Then::Hang)]).await;
    for (fake, first, idle) in [(&silent, tiny, Duration::MAX), (&half, Duration::from_secs(99), tiny)] {
        let upstream = Upstream::new(Config {
            first_byte_timeout: first,
            idle_timeout: idle.min(Duration::from_secs(99)),
            ..config(&[fake])
        });
        let error = upstream.unwrap().start(call(chat())).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.detail().origin, error.detail().retry),
            (Kind::Timeout, Origin::Upstream, Retry::Elsewhere)
        );
        assert_eq!(error.detail().message, r#"upstream "up": nothing came for 20ms"#);
        assert_eq!(fake.unseen(), 1);
    }
}

#[tokio::test]
async fn the_breaker_opens_and_tries_once_after_its_cool_down() {
    let fake = Fake::start([failing(500, ""), failing(500, ""), failing(500, ""), Reply::json(ANSWER)]).await;
    let breaker_cool_down = Duration::from_secs(3600);
    let upstream =
        Upstream::new(Config { retries: 0, breaker_failures: 2, breaker_cool_down, ..config(&[&fake]) }).unwrap();
    upstream.start(call(chat())).await.unwrap_err();
    upstream.start(call(chat())).await.unwrap_err();
    assert_eq!((upstream.status().breaker, upstream.status().ready), (Breaker::Open, false));
    let error = upstream.start(call(chat())).await.unwrap_err();
    assert_eq!((error.kind(), error.detail().retry, fake.unseen()), (Kind::Unavailable, Retry::Elsewhere, 2));
    assert!(error.detail().message.contains("circuit breaker is open"), "{error}");

    pass(breaker_cool_down).await;
    assert_eq!(upstream.status().breaker, Breaker::HalfOpen);
    upstream.start(call(chat())).await.unwrap_err();
    assert_eq!(upstream.status().breaker, Breaker::Open);

    pass(breaker_cool_down).await;
    upstream.start(call(chat())).await.unwrap();
    assert_eq!((upstream.status().breaker, fake.unseen()), (Breaker::Closed, 4));
}

#[tokio::test]
async fn an_upstreams_refusals_do_not_open_the_breaker() {
    let fake = Fake::start([failing(400, "")]).await;
    let upstream = Upstream::new(Config { breaker_failures: 1, ..config(&[&fake]) }).unwrap();
    for _ in 0..3 {
        upstream.start(call(chat())).await.unwrap_err();
    }
    assert_eq!(upstream.status().breaker, Breaker::Closed);
}
