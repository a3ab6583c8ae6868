//! A small OpenAI-compatible server for tests: answers as a script says, remembers what it was
//! asked, and counts connections and answers that nobody read to the end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// One step of an answer's body.
#[derive(Debug, Clone)]
pub enum Piece {
    Bytes(Bytes),
    /// What follows comes once this is notified.
    Wait(Arc<Notify>),
    /// Nothing more comes, and the connection stays.
    Hang,
    /// The connection breaks.
    Break,
}

/// What the server says.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    pieces: Vec<Piece>,
    whole: bool,
    silent: bool,
}

impl Answer {
    pub fn json(text: impl Into<String>) -> Answer {
        let pieces = vec![Piece::Bytes(text.into().into())];
        Answer { status: 200, headers: vec![("content-type", "application/json")], pieces, whole: true, silent: false }
    }

    /// A stream of events, each in a piece of its own, as they stand.
    pub fn events(events: &[&str]) -> Answer {
        let pieces = events.iter().map(|event| Piece::Bytes(Bytes::copy_from_slice(event.as_bytes()))).collect();
        let headers = vec![("content-type", "text/event-stream")];
        Answer { pieces, headers, whole: false, ..Answer::json("") }
    }

    /// Not even a head.
    pub fn silent() -> Answer {
        Answer { silent: true, ..Answer::json("") }
    }

    pub fn status(self, status: u16) -> Answer {
        Answer { status, ..self }
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Answer {
        self.headers.push((name, value));
        self
    }

    /// And then these events.
    pub fn and(mut self, events: &[&str]) -> Answer {
        self.pieces.extend(Answer::events(events).pieces);
        self
    }

    pub fn then(mut self, piece: Piece) -> Answer {
        self.pieces.push(piece);
        self.whole = false;
        self
    }
}

/// What has happened to the server.
#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
    left: AtomicUsize,
    changed: Notify,
}

/// Counts an answer that is dropped before its end.
struct Reading {
    seen: Arc<Seen>,
    over: bool,
}

impl Reading {
    fn ends(&mut self) {
        self.over = true;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.over {
            self.seen.left.fetch_add(1, Ordering::SeqCst);
            self.seen.changed.notify_waiters();
        }
    }
}

/// The server; ends when dropped.
#[derive(Debug)]
pub struct FakeUpstream {
    address: SocketAddr,
    seen: Arc<Seen>,
    _running: JoinSet<()>,
}

type Script = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

impl FakeUpstream {
    pub async fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> FakeUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let mut running = JoinSet::new();
        running.spawn(accept(listener, Arc::clone(&seen), Arc::new(script)));
        FakeUpstream { address, seen, _running: running }
    }

    /// One that always answers the same.
    pub async fn saying(answer: Answer) -> FakeUpstream {
        FakeUpstream::start(move |_| answer.clone()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// How many connections it has had.
    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().unwrap().clone()
    }

    /// Waits until that many answers were left before their end.
    pub async fn left(&self, count: usize) {
        loop {
            let changed = self.seen.changed.notified();
            if self.seen.left.load(Ordering::SeqCst) >= count {
                return;
            }
            changed.await;
        }
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>, script: Script) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&seen), Arc::clone(&script)));
            // A client that leaves is what some tests are about.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Seen>,
    script: Script,
) -> Result<Response<UnsyncBoxBody<Bytes, std::io::Error>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked = Asked { path: head.uri.path().to_owned(), headers: head.headers, body };
    let said = script(&asked);
    seen.asked.lock().unwrap().push(asked);
    let mut reading = Reading { seen, over: false };
    if said.silent {
        std::future::pending::<()>().await;
    }
    let body = if said.whole {
        reading.ends();
        let bytes =
            said.pieces.into_iter().find_map(|piece| if let Piece::Bytes(bytes) = piece { Some(bytes) } else { None });
        Full::new(bytes.unwrap_or_default()).map_err(|never| match never {}).boxed_unsync()
    } else {
        played(said.pieces, reading)
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(said.status).unwrap();
    for (name, value) in said.headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(response)
}

type Pieces = std::iter::Peekable<std::vec::IntoIter<Piece>>;

fn played(pieces: Vec<Piece>, reading: Reading) -> UnsyncBoxBody<Bytes, std::io::Error> {
    let next = |(mut pieces, mut reading): (Pieces, Reading)| async move {
        while let Some(Piece::Wait(gate)) = pieces.next_if(|piece| matches!(piece, Piece::Wait(_))) {
            gate.notified().await;
        }
        let item = match pieces.next() {
            Some(Piece::Bytes(bytes)) => Ok(Frame::data(bytes)),
            Some(Piece::Hang | Piece::Wait(_)) => std::future::pending().await,
            Some(Piece::Break) => {
                // What was said before gets out first.
                tokio::task::yield_now().await;
                reading.ends();
                Err(std::io::Error::other("broken on purpose"))
            }
            None => {
                reading.ends();
                return None;
            }
        };
        Some((item, (pieces, reading)))
    };
    StreamBody::new(stream::unfold((pieces.into_iter().peekable(), reading), next)).boxed_unsync()
}
