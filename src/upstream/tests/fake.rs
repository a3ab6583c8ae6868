//! A scripted HTTP/1.1 server on a loopback port: what it shall write, what it has read, and how
//! often it was connected to and left.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// What becomes of the connection after a reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Then {
    /// The next request is read.
    Keep,
    /// It is closed.
    Close,
    /// Nothing more is written.
    Hang,
}

/// One reply: pieces of bytes, each written by itself.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pieces: Vec<Vec<u8>>,
    then: Then,
}

impl Reply {
    pub(super) fn raw(pieces: &[&str], then: Then) -> Self {
        Reply { pieces: pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect(), then }
    }

    /// A whole answer; `head` holds more header lines, each with its CRLF.
    pub(super) fn whole(status: u16, head: &str, body: &str) -> Self {
        let length = body.len();
        Reply::raw(&[&format!("HTTP/1.1 {status} S\r\ncontent-length: {length}\r\n{head}\r\n{body}")], Then::Keep)
    }

    pub(super) fn json(body: &str) -> Self {
        Reply::whole(200, "content-type: application/json\r\n", body)
    }

    /// A chunked stream of these pieces, completed.
    pub(super) fn stream(pieces: &[&str]) -> Self {
        let mut reply = Reply::cut(pieces);
        reply.pieces.push(b"0\r\n\r\n".to_vec());
        reply.then = Then::Keep;
        reply
    }

    /// A chunked stream whose connection is closed after these pieces.
    pub(super) fn cut(pieces: &[&str]) -> Self {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        let chunk = |piece: &&str| format!("{:x}\r\n{piece}\r\n", piece.len()).into_bytes();
        Reply { pieces: [head].into_iter().chain(pieces.iter().map(chunk)).collect(), then: Then::Close }
    }

    pub(super) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Seen {
    /// Request line and headers, lowercase.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[derive(Debug)]
struct Script {
    replies: Mutex<VecDeque<Reply>>,
    accepts: AtomicUsize,
    seen: mpsc::UnboundedSender<Seen>,
    left: mpsc::UnboundedSender<()>,
}

/// The server; it runs as long as the test.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) address: Uri,
    script: Arc<Script>,
    seen: mpsc::UnboundedReceiver<Seen>,
    left: mpsc::UnboundedReceiver<()>,
}

impl Fake {
    /// Gives the replies in order, the last one for ever.
    pub(super) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
        let (seen_in, seen) = mpsc::unbounded_channel();
        let (left_in, left) = mpsc::unbounded_channel();
        let replies = Mutex::new(replies.into_iter().collect());
        let script = Arc::new(Script { replies, accepts: AtomicUsize::new(0), seen: seen_in, left: left_in });
        let shared = Arc::clone(&script);
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                shared.accepts.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(converse(socket, Arc::clone(&shared)));
            }
        });
        Fake { address, script, seen, left }
    }

    pub(super) fn accepts(&self) -> usize {
        self.script.accepts.load(Ordering::SeqCst)
    }

    /// The next request.
    pub(super) async fn seen(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }

    /// How many requests came that `seen` has not given.
    pub(super) fn unseen(&self) -> usize {
        self.seen.len()
    }

    /// Resolves when a client has closed its connection.
    pub(super) async fn left(&mut self) {
        self.left.recv().await.unwrap();
    }
}

async fn converse(mut socket: TcpStream, script: Arc<Script>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read(&mut socket, &mut buffer).await {
        let reply = {
            let mut replies = script.replies.lock().unwrap();
            if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
        };
        script.seen.send(seen).ok();
        let reply = reply.unwrap();
        for piece in &reply.pieces {
            if socket.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        match reply.then {
            Then::Keep => {}
            Then::Close => return,
            Then::Hang => break,
        }
    }
    while socket.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {}
    script.left.send(()).ok();
}

async fn read(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        socket.read_buf(buffer).await.ok().filter(|count| *count > 0)?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
    let mut seen = Seen { head, body: Vec::new() };
    let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < end + length {
        socket.read_buf(buffer).await.ok().filter(|count| *count > 0)?;
    }
    seen.body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(seen)
}
