//! A running binary on addresses of its own, its files in a folder of its own, and a client that tries
//! nothing twice.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::fake_upstream::{Answer, FakeUpstream, Piece};

/// Where a process listens and what it reads; several processes may share it one after the other.
pub(super) struct Place {
    pub(super) folder: TempDir,
    pub(super) listen: String,
    pub(super) admin: String,
}

/// A running process; killed when dropped.
pub(super) struct Process {
    pub(super) child: Child,
    log: PathBuf,
}

pub(super) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(120), work).await.expect("what had to happen did not")
}

/// Asks again and again until it is so.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let so = async {
        while !ask().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(120), so).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Place {
    /// A folder with this configuration, on two addresses on which nobody listens.
    pub(super) fn new(config: &str) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap(), listen: free_address(), admin: free_address() };
        place.write("weir.toml", config);
        place
    }

    /// The same with an upstream of the model `up/m`.
    pub(super) fn with(upstream: &FakeUpstream, config: &str) -> Place {
        Place::new(&format!("{config}\n{}", up(upstream)))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// `weir serve` here, to be started.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("serve").arg("--config").arg(self.path("weir.toml"));
        command.args(["--listen", &self.listen, "--admin", &self.admin]).args(args).env_clear();
        command
    }

    /// Starts it, and waits until it is ready.
    pub(super) async fn start(&self, args: &[&str]) -> Process {
        let process = Process::spawn(self.command(args), self.folder.path());
        self.ready().await;
        process
    }

    pub(super) async fn ready(&self) {
        until("readiness", || async { self.probe("/readyz").await.0 == 200 }).await;
    }

    /// The status and the text of a page of the admin port; 0 where nobody listens.
    pub(super) async fn probe(&self, page: &str) -> (u16, String) {
        let request = Request::get(format!("http://{}{page}", self.admin)).body(Full::default()).unwrap();
        let Ok(response) = client().request(request).await else { return (0, String::new()) };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Asks the model for a chat; the head of its answer.
    pub(super) async fn ask(&self, client: &Http, body: &str) -> Result<Asked, String> {
        self.post(client, "/v1/chat/completions", body).await
    }

    pub(super) async fn post(&self, client: &Http, path: &str, body: &str) -> Result<Asked, String> {
        let request = Request::post(format!("http://{}{path}", self.listen)).header("content-type", "application/json");
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        Ok(Asked { status: head.status, headers: head.headers, body, read: String::new() })
    }
}

/// The table of an upstream that is not asked twice.
pub(super) fn up(upstream: &FakeUpstream) -> String {
    format!("[[upstream]]\nname = \"up\"\nendpoints = [\"{}\"]\nmodels = [\"m\"]\nretries = 0\n", upstream.url())
}

impl Process {
    /// Starts a command whose log goes to this folder.
    pub(super) fn spawn(mut command: Command, folder: &Path) -> Process {
        let log = folder.join(format!("log-{:032x}", rand::random::<u128>()));
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).kill_on_drop(true);
        Process { child: command.spawn().unwrap(), log }
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(super) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().await;
        assert!(sent.unwrap().success());
    }

    /// Its exit code, once it has ended; `None`: by a signal.
    pub(super) async fn ends(&mut self) -> Option<i32> {
        let Ok(status) = timeout(Duration::from_secs(120), self.child.wait()).await else {
            panic!("it did not end: {}", self.log())
        };
        status.unwrap().code()
    }
}

pub(super) type Http = Client<HttpConnector, Full<Bytes>>;

/// A client that keeps connections, and tells where one was closed under a request.
pub(super) fn client() -> Http {
    Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http()
}

/// An answer whose body is read bit by bit.
pub(super) struct Asked {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    pub(super) read: String,
}

impl Asked {
    /// Reads on until the text has come; `false`: the answer ended before.
    pub(super) async fn read_until(&mut self, text: &str) -> Result<bool, String> {
        while !self.read.contains(text) {
            match soon(self.body.frame()).await {
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.read.push_str(std::str::from_utf8(&bytes).unwrap());
                }
                Some(Err(error)) => return Err(format!("{error:?} after {}", self.read)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// All of it.
    pub(super) async fn whole(mut self) -> Result<String, String> {
        self.read_until("\0").await?;
        Ok(self.read)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A chat with the model `up/m`.
pub(super) fn chat(text: &str, stream: bool) -> String {
    format!(r#"{{"model":"up/m","stream":{stream},"messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

const FIRST: &str = "data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const LAST: &str =
    "data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const WHOLE: &str = r#"{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#;
const DONE: &str = "data: [DONE]\n\n";

/// Says what it is asked for: `slow` streams wait for the gate, `stuck` ones for ever, `silent` never begin.
pub(super) async fn upstream(gate: Arc<tokio::sync::Notify>) -> FakeUpstream {
    FakeUpstream::start(move |asked| {
        let text = String::from_utf8_lossy(&asked.body);
        if text.contains("silent") {
            return Answer::silent();
        }
        if !text.contains("\"stream\":true") {
            return Answer::json(WHOLE);
        }
        if text.contains("slow") {
            return Answer::events(&[FIRST]).then(Piece::Wait(Arc::clone(&gate))).and(&[LAST, DONE]);
        }
        if text.contains("stuck") {
            return Answer::events(&[FIRST]).then(Piece::Hang);
        }
        Answer::events(&[FIRST, LAST, DONE])
    })
    .await
}

/// Lets the slow streams go on, those that come to the gate later too, until the work is done.
pub(super) async fn opened<T>(gate: &tokio::sync::Notify, work: impl Future<Output = T>) -> T {
    let open = async {
        loop {
            gate.notify_waiters();
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! { done = work => done, () = open => unreachable!() }
}
