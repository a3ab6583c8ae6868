//! The receiver as a process of its own; ends with its standard input when dropped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{python, script};

pub struct Receiver {
    child: Child,
    pub grpc: String,
    pub http: String,
}

impl Receiver {
    pub fn start() -> Receiver {
        let mut command = Command::new(python());
        command.arg(script("otlp_receiver.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let address = |name: &str| format!("http://127.0.0.1:{}", ports[name]);
        Receiver { grpc: address("grpc"), http: address("http"), child }
    }

    fn get(&self, page: &str) -> String {
        ureq::get(format!("{}{page}", self.http)).call().unwrap().body_mut().read_to_string().unwrap()
    }

    /// Every span so far, by its beginning.
    pub fn spans(&self) -> Vec<Value> {
        let mut spans: Vec<Value> = serde_json::from_str(&self.get("/spans")).unwrap();
        spans.sort_by_key(|span| span["start"].as_u64());
        spans
    }

    /// All traces, drawn.
    pub fn tree(&self) -> String {
        self.get("/tree")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
