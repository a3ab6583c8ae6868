//! Connections over pipes, under paused time: silent clients, idle ones, slow ones, too many.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time;

use super::{Front, IDLE_TIMEOUT, Running, connection};
use crate::account::Record;
use crate::control::{self, Control, Options};
use crate::gateway::Gateway;
use crate::gateway::tests::open;
use crate::observe::Metrics;

/// What serves with an upstream where nobody listens.
pub(super) async fn running() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("weir.toml");
    let upstream = "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n";
    std::fs::write(&config, upstream).unwrap();
    running_by(Options { config: Some(config), ..Options::default() }).await
}

/// What serves by these.
pub(super) async fn running_by(options: Options) -> Running {
    let checked = control::read(&options).unwrap();
    let control = Arc::new(Control::open(options, checked).await.unwrap());
    let metrics = Arc::new(Metrics::open(None).unwrap());
    let gateway = Arc::new(Gateway::new(Arc::clone(&control), Arc::clone(&metrics) as Arc<dyn Record>));
    Running { gateway, control, metrics }
}

/// A client's end of a connection that is served until the set is dropped.
fn connect(front: &Front) -> (DuplexStream, JoinSet<()>) {
    let (client, server) = duplex(1 << 16);
    let (front, mut serving) = (front.clone(), JoinSet::new());
    serving.spawn(async move { connection(server, &front, std::future::pending()).await });
    (client, serving)
}

async fn front() -> Front {
    let front = Front::new(open("").await.0);
    time::pause();
    front
}

/// Fails a test in which the connection is never given up.
async fn ends(mut serving: JoinSet<()>) {
    time::timeout(10 * IDLE_TIMEOUT, serving.join_next()).await.expect("still open").unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_stops_in_its_first_line_is_closed() {
    let front = front().await;
    for first in
        ["", "P", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /v1/mod", "GET / HTTP/1.1\r\n"]
    {
        let (mut client, serving) = connect(&front);
        client.write_all(first.as_bytes()).await.unwrap();
        ends(serving).await;
    }
}

#[tokio::test]
async fn h2_that_answers_pings_and_asks_nothing_more_is_closed() {
    let front = front().await;
    let (client, serving) = connect(&front);
    let io = TokioIo::new(client);
    let (mut sender, client) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut clients = JoinSet::new();
    clients.spawn(async move { client.await.unwrap() });
    let request = Request::get("http://weir/v1/models").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
    ends(serving).await;
    clients.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_takes_long_does_not_make_its_connection_idle() {
    let front = front().await;
    let (mut client, _serving) = connect(&front);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 159\r\nx-request-id: own-1\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..150 {
        client.write_all(b" ").await.unwrap();
        time::sleep(IDLE_TIMEOUT / 8).await;
    }
    client.write_all(b"{\"model\":").await.unwrap();
    let mut answer = [0; 256];
    let count = client.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("x-request-id: own-1"), "{answer}");
}

#[tokio::test]
async fn a_request_that_is_shed_is_answered_with_its_id() {
    let front = Front::of(open("").await.0, 1);
    time::pause();
    let head = |id: &str| {
        let length = if id == "first" { "content-length: 9" } else { "content-length: 0" };
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{length}\r\nx-request-id: {id}\r\n\r\n")
    };
    let (mut first, _serving) = connect(&front);
    first.write_all(head("first").as_bytes()).await.unwrap();
    time::sleep(Duration::from_secs(1)).await;
    let (mut second, _serving) = connect(&front);
    second.write_all(head("second").as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let count = second.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    for part in ["HTTP/1.1 429", "x-request-id: second", "x-weir-origin: gateway", "retry-after: 1"] {
        assert!(answer.contains(part), "{answer}");
    }
}
