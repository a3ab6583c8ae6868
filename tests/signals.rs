//! What signals do to the process, whatever it is busy with. The binary runs without a
//! configuration, so that it asks an upstream for its models at start and on each reload.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::fake_upstream::{Answer, FakeUpstream, Piece};

const MODELS: &str = r#"{"object":"list","data":[{"id":"m"}]}"#;

/// A running binary; killed when dropped.
struct Process {
    child: Child,
    log: BufReader<ChildStderr>,
    folder: TempDir,
}

impl Process {
    fn start(upstream: &FakeUpstream) -> Process {
        Process::start_in(tempfile::tempdir().unwrap(), upstream, &[])
    }

    /// The same with more arguments; the folder lives as long as the process.
    fn start_in(folder: TempDir, upstream: &FakeUpstream, more: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(more).env_clear();
        command.env("OPENAI_API_KEY", "k").env("OPENAI_BASE_URL", upstream.url()).env("WEIR_MODELS", folder.path());
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Process { child, log, folder }
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().await;
        assert!(sent.unwrap().success());
    }

    /// Reads on until the log says so.
    async fn says(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let count = soon(self.log.read_line(&mut line)).await.unwrap();
            assert!(count > 0, "the process ended and never said {text:?}: {:?}", self.child.wait().await);
        }
    }

    /// The rest of the log and the exit code.
    async fn ends(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        soon(self.log.read_to_string(&mut rest)).await.unwrap();
        (rest, soon(self.child.wait()).await.unwrap().code())
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.expect("what had to happen did not")
}

/// Waits until the upstream was asked so often.
async fn asked(upstream: &FakeUpstream, times: usize) {
    let enough = async {
        while upstream.asked().len() < times {
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon(enough).await;
}

/// An upstream whose answer number `which`, from 0, is another one.
async fn upstream(which: usize, other: Answer) -> FakeUpstream {
    let count = AtomicUsize::new(0);
    let script = move |_: &_| {
        if count.fetch_add(1, Ordering::SeqCst) == which { other.clone() } else { Answer::json(MODELS) }
    };
    FakeUpstream::start(script).await
}

#[tokio::test]
async fn a_hang_up_while_the_process_boots_reloads_after_it() {
    let gate = Arc::new(Notify::new());
    let late = Answer::json("").then(Piece::Wait(Arc::clone(&gate))).and(&[MODELS]);
    let upstream = upstream(0, late).await;
    let mut process = Process::start(&upstream);
    asked(&upstream, 1).await;
    process.signal("HUP").await;
    gate.notify_one();
    process.says("\"what\":\"reload\"").await;
    process.signal("TERM").await;
    assert_eq!(process.ends().await.1, Some(0));
}

#[tokio::test]
async fn a_request_to_stop_does_not_wait_for_a_reload() {
    let upstream = upstream(1, Answer::silent()).await;
    let mut process = Process::start(&upstream);
    process.says("serving").await;
    process.signal("HUP").await;
    asked(&upstream, 2).await;
    process.signal("TERM").await;
    let (log, code) = process.ends().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("reload"), "{log}");
}

#[tokio::test]
async fn a_file_that_changes_is_applied_or_refused_by_itself() {
    let fake = upstream(usize::MAX, Answer::json(MODELS)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.toml");
    let table = format!("[[upstream]]\nname = \"up\"\nendpoints = [\"{}\"]\nmodels = [\"m\"]\n", fake.url());
    std::fs::write(&file, &table).unwrap();
    let mut process = Process::start_in(folder, &fake, &["--config", file.to_str().unwrap()]);
    process.says("serving").await;
    let new = process.folder.path().join("weir.toml.new");
    for (top, outcome) in [("workers = 0", "refused"), ("max_body = \"1MiB\"", "applied")] {
        std::fs::write(&new, format!("{top}\n{table}")).unwrap();
        std::fs::rename(&new, &file).unwrap();
        process
            .says(&format!(
                "\"who\":\"files\",\"generation\":{},\"outcome\":\"{outcome}\"",
                if outcome == "refused" { 1 } else { 2 }
            ))
            .await;
    }
    process.signal("TERM").await;
    assert_eq!(process.ends().await.1, Some(0));
}
