//! Real processes for tests: the weir binary over a configuration of the test's own, on free ports.
//!
//! A process is ready when `start` returns and is ended by its pid when dropped. Tests that use
//! real models take turns (`alone`), because two engines on few cores fight for them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

const STEP: Duration = Duration::from_millis(100);
const STEPS: usize = 1200;

/// Held by a test for as long as it computes with real models.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address of loopback on which nobody listens now.
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Asks again and again until there is an answer; panics with `what` when none comes.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..STEPS {
        if let Some(found) = ask() {
            return found;
        }
        std::thread::sleep(STEP);
    }
    panic!("waited in vain: {what}");
}

/// A child that is ended when dropped; what it prints goes to a file.
pub(crate) struct Served {
    child: Child,
    log: PathBuf,
    folder: TempDir,
    agent: Agent,
}

impl Served {
    /// Starts the command and waits until a GET of `ready` is answered with 200.
    pub(crate) fn start(mut command: Command, folder: TempDir, ready: &str) -> Served {
        let log = folder.path().join("log");
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(300)))
            .build()
            .new_agent();
        let mut served = Served { child, log, folder, agent };
        until(ready, || {
            if let Some(status) = served.child.try_wait().unwrap() {
                panic!("{command:?} ended with {status}: {}", served.log());
            }
            served.get(ready).filter(|answer| answer.status == 200)
        });
        served
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The answer to a GET; `None` where nobody listens.
    pub(crate) fn get(&self, url: &str) -> Option<Answer> {
        let mut answer = self.agent.get(url).call().ok()?;
        let body = answer.body_mut().read_to_string().ok()?;
        Some(Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body })
    }

    fn signal(&self, name: &str) {
        let sent =
            Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of process {} ---\n{}", self.child.id(), self.log());
        }
    }
}

/// An answer read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// A header, empty if absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The text of the first choice: of the whole answer, or of a stream's chunks put together.
    pub(crate) fn text(&self) -> String {
        if !self.body.starts_with("data:") {
            return self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        }
        let chunks = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        let parsed = chunks.map(|chunk| serde_json::from_str::<Value>(chunk).unwrap());
        parsed.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

/// A running gateway.
pub(crate) struct Process {
    served: Served,
    pub(crate) base: String,
    pub(crate) admin: String,
}

impl Process {
    /// Starts weir in a folder of its own that holds these files; `weir.toml` is its configuration.
    pub(crate) fn start(files: &[(&str, &str)]) -> Process {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let (listen, admin) = (free_address(), free_address());
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("serve").arg("--config").arg(folder.path().join("weir.toml"));
        command.args(["--listen", &listen, "--admin", &admin]);
        let (base, admin) = (format!("http://{listen}"), format!("http://{admin}"));
        let served = Served::start(command, folder, &format!("{admin}/readyz"));
        Process { served, base, admin }
    }

    /// Replaces a file beside the configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.served.folder.path().join(name), text).unwrap();
    }

    /// Reads the configuration again.
    pub(crate) fn hang_up(&self) {
        self.served.signal("HUP");
    }

    /// Asks the process to drain and end.
    pub(crate) fn terminate(&self) {
        self.served.signal("TERM");
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the end of the process", || self.served.child.try_wait().unwrap())
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.served.log()
    }

    /// The status of a page of the admin port; `None` where nobody listens.
    pub(crate) fn probe(&self, page: &str) -> Option<u16> {
        self.served.get(&format!("{}{page}", self.admin)).map(|answer| answer.status)
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        self.served.get(&format!("{}/metrics", self.admin)).unwrap().body
    }

    /// The sum of the samples of a family whose line holds all of these pieces (`model="a"`).
    pub(crate) fn metric(&self, family: &str, pieces: &[&str]) -> f64 {
        let page = self.metrics();
        let own = |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let found = page.lines().filter(own).filter(|line| pieces.iter().all(|piece| line.contains(piece)));
        found.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Asks `/v1/chat/completions` and reads the answer, stream or not, to its end.
    pub(crate) fn ask(&self, body: &Value) -> Answer {
        let (status, headers, mut lines) = self.open(body);
        let mut body = String::new();
        lines.read_to_string(&mut body).unwrap();
        Answer { status, headers, body }
    }

    /// Asks and returns as soon as the head is there; dropping the rest leaves.
    pub(crate) fn open(&self, body: &Value) -> (u16, HeaderMap, impl BufRead + use<>) {
        let url = format!("{}/v1/chat/completions", self.base);
        let request = self.served.agent.post(url).header("content-type", "application/json");
        let answer = request.send(body.to_string()).unwrap();
        let (head, body) = answer.into_parts();
        (head.status.as_u16(), head.headers, BufReader::new(body.into_reader()))
    }
}
