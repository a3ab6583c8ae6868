//! HTTP/2 towards an upstream.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::*;

/// Answers a request in HTTP/2 with its own authority and the length of its body.
async fn echo(request: http::Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let authority = request.uri().authority().unwrap().to_string();
    let length = request.into_body().collect().await.unwrap().to_bytes().len();
    let body = format!(r#"{{"authority":"{authority}","length":{length}}}"#);
    Ok(Response::new(body.into()))
}

#[tokio::test]
async fn calls_share_one_connection_in_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let accepts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepts);
    let tasks = TaskTracker::new();
    tasks.clone().spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tasks.spawn(served.serve_connection(TokioIo::new(socket), service_fn(echo)));
        }
    });
    let endpoints = vec![format!("http://{authority}/v1").parse().unwrap()];
    let upstream = Upstream::new(Config { h2c: true, ..Config::new("up", endpoints) }).unwrap();
    upstream.start(call(chat())).await.unwrap();
    let running = (0..16).map(|_| upstream.start(call(chat())));
    for completion in futures::future::join_all(running).await {
        let (raw, _) = all(completion.unwrap()).await;
        assert_eq!(raw, [format!(r#"{{"authority":"{authority}","length":35}}"#)]);
    }
    assert_eq!(accepts.load(Ordering::SeqCst), 1);
}
