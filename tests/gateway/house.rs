//! A gateway on a port of its own, its configuration in a folder of its own, and a client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use weir::account::{AuditReceipt, Receipt, Record};
use weir::backend::Backend;
use weir::control::{self, Cause, Control, Environment, Options};
use weir::error::Problem;
use weir::gateway::Gateway;
use weir::listen::{self, AdminPort, Front, Running};
use weir::observe::{Metrics, Names};
use weir::request::{ModelId, TraceContext};

use crate::fake_upstream::FakeUpstream;

/// The gateway; ends when dropped.
#[derive(Debug)]
pub struct House {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub control: Arc<Control>,
    pub metrics: Arc<Metrics>,
    pub running: Running,
    book: Arc<Book>,
    folder: TempDir,
    options: Options,
    client: Client<HttpConnector, Full<Bytes>>,
    _running: JoinSet<()>,
}

/// Every receipt, for tests and for the metrics.
#[derive(Debug)]
struct Book {
    metrics: Arc<Metrics>,
    receipts: Mutex<Vec<Receipt>>,
    audits: Mutex<Vec<AuditReceipt>>,
    changed: Notify,
}

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.metrics.record(receipt.clone());
        self.receipts.lock().unwrap().push(receipt);
        self.changed.notify_waiters();
    }

    fn audited(&self, receipt: &AuditReceipt) {
        self.metrics.audited(receipt);
        self.audits.lock().unwrap().push(receipt.clone());
        self.changed.notify_waiters();
    }

    fn captures(&self) -> bool {
        self.metrics.captures()
    }

    fn place(&self, given: Option<&TraceContext>) -> Option<TraceContext> {
        self.metrics.place(given)
    }

    fn shows(&self) -> bool {
        self.metrics.shows()
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The message of an error in OpenAI's shape.
    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// The table of an upstream that is not asked twice.
pub fn upstream(name: &str, fake: &FakeUpstream, rest: &str) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nendpoints = [\"{}\"]\nretries = 0\n{rest}\n", fake.url())
}

/// `[[virtual]]` with a policy of one rule.
pub fn with_policy(serve: &str) -> (String, String) {
    let table = "[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n".to_owned();
    (table, format!("name = \"p\"\n[[rule]]\nname = \"all\"\nthen = {{ serve = {serve} }}\n"))
}

impl House {
    /// A gateway of this configuration.
    pub async fn open(config: &str) -> House {
        House::open_with(config, &[], &[]).await
    }

    /// A gateway of this configuration, beside these files, in this environment.
    pub async fn open_with(config: &str, files: &[(&str, &str)], env: &[(&str, &str)]) -> House {
        House::open_standing_in(config, files, env, &[]).await
    }

    /// The same, with these backends in the place of local models.
    pub async fn open_standing_in(
        config: &str,
        files: &[(&str, &str)],
        env: &[(&str, &str)],
        stand_ins: &[(&str, Arc<dyn Backend>)],
    ) -> House {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "weir.toml", config);
        files.iter().for_each(|(name, text)| write(folder.path(), name, text));
        let options = Options {
            config: Some(folder.path().join("weir.toml")),
            env: Environment::fixed(env.iter().copied()),
            stand_ins: stand_ins.iter().map(|(name, it)| (ModelId::new(*name), Arc::clone(it))).collect(),
            ..Options::default()
        };
        let checked = control::read(&options).unwrap();
        let metrics = Metrics::open(checked.capture.as_ref()).unwrap().tracing(checked.telemetry.as_ref());
        let metrics = Arc::new(metrics.unwrap());
        let control = Arc::new(Control::open(options.clone(), checked).await.unwrap());
        let book = Book {
            metrics: Arc::clone(&metrics),
            receipts: Mutex::default(),
            audits: Mutex::default(),
            changed: Notify::new(),
        };
        let book = Arc::new(book);
        let gateway = Arc::new(Gateway::new(Arc::clone(&control), Arc::clone(&book) as Arc<dyn Record>));
        let front = Front::new(Arc::clone(&gateway));
        let all = Running { gateway, control: Arc::clone(&control), metrics: Arc::clone(&metrics) };
        let port = AdminPort::of(all.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        running.spawn(accept(listener, front));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap();
        running.spawn(accept_operators(listener, port));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (running, _running) = (all, running);
        let house = House { address, admin, control, metrics, running, book, folder, options, client, _running };
        house.adopt();
        house
    }

    /// Builds the configuration once more, as another process would.
    pub async fn restart(&self) -> Result<Control, Vec<Problem>> {
        let options = self.options.clone();
        let checked = control::read(&options)?;
        Control::open(options, checked).await
    }

    /// Reads the configuration again; the number of the generation that runs then.
    pub async fn reload(&self) -> Result<u64, Vec<Problem>> {
        self.control.reload(Cause::Signal).await.map(|reloaded| reloaded.generation)
    }

    /// Tells the metrics the names of the configuration in force, as `listen` does.
    pub fn adopt(&self) {
        let snapshot = self.control.current();
        self.metrics.follow(snapshot.pacers());
        self.metrics.watch(snapshot.virtuals().into_iter().flat_map(|(_, policy)| policy.gates()).collect());
        self.metrics.adopt(Names::of(&snapshot));
    }

    /// Replaces a file of the configuration.
    pub fn write(&self, name: &str, text: &str) {
        write(self.folder.path(), name, text);
    }

    /// Where a file of the configuration's folder is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends a request and reads the answer to its end.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let (mut head, body) = request.into_parts();
        head.uri = format!("http://{}{}", self.address, head.uri).parse().unwrap();
        let response = self.client.request(Request::from_parts(head, body)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let mut request = Request::builder().method(Method::POST).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Asks a model `hi`.
    pub async fn ask(&self, model: &str) -> Reply {
        self.chat(&chat(model)).await
    }

    pub async fn chat(&self, body: &str) -> Reply {
        self.post("/v1/chat/completions", &[("content-type", "application/json")], body.to_owned()).await
    }

    /// Waits for that many receipts.
    pub async fn receipts(&self, count: usize) -> Vec<Receipt> {
        loop {
            let changed = self.book.changed.notified();
            let receipts = self.book.receipts.lock().unwrap().clone();
            if receipts.len() >= count {
                return receipts;
            }
            soon(changed).await;
        }
    }

    /// Waits until that many answers were audited.
    pub async fn audits(&self, count: usize) -> Vec<AuditReceipt> {
        loop {
            let changed = self.book.changed.notified();
            let audits = self.book.audits.lock().unwrap().clone();
            if audits.len() >= count {
                return audits;
            }
            soon(changed).await;
        }
    }

    pub fn rendered(&self) -> String {
        self.metrics.show_audits(&self.control.current().audit_statuses());
        self.metrics.show_promises(&self.control.current().promises());
        self.metrics.render(&self.control.current().statuses())
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

async fn accept(listener: TcpListener, front: Front) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let front = front.clone();
        connections.spawn(async move { listen::connection(stream, &front, std::future::pending()).await });
    }
}

/// The same for the admin port.
async fn accept_operators(listener: TcpListener, port: AdminPort) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = listener.accept().await.unwrap();
        let port = port.clone();
        connections.spawn(async move { port.connection(stream, peer).await });
    }
}

/// Fails a test that would hang.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("what had to happen did not")
}

/// Sends a chat over a connection of its own.
pub async fn connect(house: &House, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

/// Reads on until the text has come.
pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut piece = [0; 4096];
        let count = soon(stream.read(&mut piece)).await.unwrap();
        assert!(count > 0, "the connection ended after {text:?}");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    text
}

/// A chat that asks a model `hi`.
pub fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// The same, streamed.
pub fn streamed(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// A whole answer that says `text`, of 10 and 5 tokens.
pub fn answer(text: &str) -> String {
    format!(
        r#"{{"id":"x","object":"chat.completion","model":"m-2026","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}}}"#
    )
}

/// The same as events.
pub fn events(text: &str) -> Vec<String> {
    vec![
        format!("data: {{\"id\":\"x\",\"model\":\"m-2026\",\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"),
        "data: {\"id\":\"x\",\"model\":\"m-2026\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".to_owned(),
        "data: {\"id\":\"x\",\"model\":\"m-2026\",\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\n".to_owned(),
        "data: [DONE]\n\n".to_owned(),
    ]
}
