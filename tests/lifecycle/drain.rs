//! SIGTERM: readiness fails, answers in flight end well or properly, and the exit code tells which.

use std::sync::Arc;

use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::process::{Asked, Place, Process, chat, client, opened, until, upstream};

/// Streams that have begun, each on a connection of its own.
async fn streams(place: &Place, text: &str, count: usize) -> Vec<Asked> {
    let open = (0..count).map(|_| async {
        let mut stream = place.ask(&client(), &chat(text, true)).await.unwrap();
        assert!(stream.read_until("\"a\"").await.unwrap());
        stream
    });
    join_all(open).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_are_finished_and_the_process_ends_with_0() {
    let gate = Arc::new(Notify::new());
    let upstream = upstream(Arc::clone(&gate)).await;
    let place = Place::with(&upstream, "");
    let mut process = place.start(&["--drain", "600"]).await;
    let open = streams(&place, "slow", 100).await;
    process.signal("TERM").await;
    until("the port to close", || async { TcpStream::connect(&place.listen).await.is_err() }).await;
    let (status, page) = place.probe("/readyz?verbose").await;
    assert!(status == 503 && page.starts_with("[-]draining\n[+]config ok: generation 1\n"), "{page}");
    assert_eq!(place.probe("/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!((place.probe("/startupz").await.0, place.probe("/livez").await.0), (200, 200));
    for text in opened(&gate, join_all(open.into_iter().map(Asked::whole))).await {
        assert!(text.as_ref().is_ok_and(|text| text.ends_with("data: [DONE]\n\n")), "{text:?}");
    }
    assert_eq!(process.ends().await, Some(0), "{}", process.log());
}

/// Both ends of an answer that was cut off.
async fn is_cut_off(stream: Asked) {
    let text = stream.whole().await.unwrap();
    assert!(text.contains("\"code\":\"shutting_down\"") && text.contains("server_error"), "{text}");
    assert!(text.ends_with("\n\n") && !text.contains("[DONE]"), "{text}");
}

async fn is_turned_away(place: &Place, process: &Process) {
    let asked = place.ask(&client(), &chat("silent", false)).await.unwrap();
    assert_eq!((asked.status.as_u16(), asked.header("retry-after")), (503, "1"), "{}", process.log());
    assert!(asked.whole().await.unwrap().contains("\"code\":\"shutting_down\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_at_the_limit_is_told_so_and_the_process_ends_with_1() {
    let gate = Arc::new(Notify::new());
    let upstream = upstream(Arc::clone(&gate)).await;
    let place = Place::with(&upstream, "");
    let mut process = place.start(&["--drain", "2"]).await;
    let (good, stuck) = (streams(&place, "slow", 10).await, streams(&place, "stuck", 10).await);
    let ended = async {
        let silent = is_turned_away(&place, &process);
        let asked = async {
            until("the last request", || async { upstream.asked().len() == 21 }).await;
            process.signal("TERM").await;
        };
        tokio::join!(silent, asked, join_all(stuck.into_iter().map(is_cut_off)));
    };
    let finished = opened(&gate, join_all(good.into_iter().map(Asked::whole)));
    let (finished, ()) = tokio::join!(finished, ended);
    assert!(finished.iter().all(|text| text.as_ref().is_ok_and(|text| text.contains("[DONE]"))), "{finished:?}");
    assert_eq!(process.ends().await, Some(1), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_grace_clients_are_answered_and_asked_to_go_and_a_second_signal_ends_at_once() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "");
    let mut process = place.start(&["--grace", "3000", "--drain", "3000"]).await;
    process.signal("TERM").await;
    until("readiness to fail", || async { place.probe("/readyz").await.0 == 503 }).await;
    for stream in [true, false] {
        let asked = place.ask(&client(), &chat("hi", stream)).await.unwrap();
        assert_eq!((asked.status.as_u16(), asked.header("connection")), (200, "close"));
        asked.whole().await.unwrap();
    }
    let stuck = streams(&place, "stuck", 1).await;
    process.signal("INT").await;
    join_all(stuck.into_iter().map(is_cut_off)).await;
    assert_eq!(process.ends().await, Some(1), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_process_waits_for_no_kept_connection() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "");
    let mut process = place.start(&["--drain", "3000"]).await;
    let (h1, h2) =
        (client(), Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<bytes::Bytes>>());
    let silent = TcpStream::connect(&place.listen).await.unwrap();
    assert_eq!(place.ask(&h1, &chat("hi", false)).await.unwrap().status, 200);
    let models = Request::get(format!("http://{}/v1/models", place.listen)).body(Full::default()).unwrap();
    assert_eq!(h2.request(models).await.unwrap().status(), 200);
    process.signal("TERM").await;
    assert_eq!(process.ends().await, Some(0), "{}", process.log());
    drop((h1, h2, silent));
}
