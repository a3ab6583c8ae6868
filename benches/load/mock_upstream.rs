//! An upstream that costs nothing: answers at once, so that a comparison measures what stands before it.
//!
//! `POST /v1/chat/completions` gets about 1 KB of JSON, or 32 chunks of SSE, each a write of its
//! own, when the body says `"stream": true`; `GET /v1/models` lists one model. Ends by itself
//! after `--seconds`. Started by `overhead.py`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

const CHUNKS: usize = 32;
const MODELS: &str =
    r#"{"object":"list","data":[{"id":"mock","object":"model","created":1700000000,"owned_by":"mock"}]}"#;

/// What to listen on and for how long.
#[derive(Debug, Parser)]
struct Flags {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// When to end.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// The two answers, made once.
#[derive(Clone)]
struct Answers {
    whole: Bytes,
    chunks: Vec<Bytes>,
}

fn main() -> std::io::Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(flags.workers).enable_all().build()?;
    runtime.block_on(async {
        let ended = tokio::time::timeout(Duration::from_secs(flags.seconds), serve(flags.listen)).await;
        ended.unwrap_or(Ok(()))
    })
}

async fn serve(address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let (tasks, answers) = (TaskTracker::new(), answers());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = answers.clone();
        tasks.spawn(async move {
            let service = service_fn(|request| answer(request, answers.clone()));
            // A client that leaves in the middle is the end of its connection and no more.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, answers: Answers) -> Result<Response<Body>, hyper::Error> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/models") => {
            Ok(respond(StatusCode::OK, "application/json", Bytes::from_static(MODELS.as_bytes())))
        }
        (&Method::POST, "/v1/chat/completions") => {
            let body = request.into_body().collect().await?.to_bytes();
            Ok(match serde_json::from_slice::<Asked>(&body) {
                Ok(Asked { stream: false }) => respond(StatusCode::OK, "application/json", answers.whole),
                Ok(Asked { stream: true }) => sse(answers.chunks),
                Err(error) => respond(StatusCode::BAD_REQUEST, "text/plain", Bytes::from(error.to_string())),
            })
        }
        _ => Ok(respond(StatusCode::NOT_FOUND, "text/plain", Bytes::from_static(b"no such page"))),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let length = body.len();
    let mut response = Response::new(StreamBody::new(stream::iter([Ok(Frame::data(body))]).boxed()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response.headers_mut().insert("content-length", length.into());
    response
}

/// Yields between the chunks, so that each is flushed by itself as a real stream's are.
fn sse(chunks: Vec<Bytes>) -> Response<Body> {
    let frames = stream::iter(chunks).then(|chunk| async {
        tokio::task::yield_now().await;
        Ok(Frame::data(chunk))
    });
    let mut response = Response::new(StreamBody::new(frames.boxed()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    response
}

/// The JSON answer, and the 32 events of the stream: a role, text, a finish, the usage, `[DONE]`.
fn answers() -> Answers {
    let text = "All work and no play makes a gateway dull. ".repeat(17);
    let usage = r#"{"prompt_tokens":100,"completion_tokens":150,"total_tokens":250}"#;
    let head = r#""id":"chatcmpl-mock","created":1700000000,"model":"mock""#;
    let whole = format!(
        r#"{{{head},"object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{usage}}}"#
    );
    let chunk = |choices: &str, usage: &str| {
        Bytes::from(format!(
            "data: {{{head},\"object\":\"chat.completion.chunk\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n"
        ))
    };
    let step = |delta: &str, finish: &str| {
        chunk(&format!(r#"{{"index":0,"delta":{delta},"finish_reason":{finish}}}"#), "null")
    };
    let mut chunks = vec![step(r#"{"role":"assistant","content":""}"#, "null")];
    chunks.extend((0..CHUNKS - 4).map(|_| step(r#"{"content":" gateway"}"#, "null")));
    chunks.extend([step("{}", r#""stop""#), chunk("", usage), Bytes::from_static(b"data: [DONE]\n\n")]);
    Answers { whole: Bytes::from(whole), chunks }
}
