//! The admin port before anything runs, over a pipe.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// The status line and the body of one answer.
async fn ask(head: &str) -> (String, String) {
    let (mut client, server) = duplex(1 << 16);
    let state = Arc::new(State::default());
    let peer = "127.0.0.1:9".parse().unwrap();
    let served = async {
        connection(server, peer, &state).await;
    };
    let asked = async {
        let request = format!("{head}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(served, asked);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn probes_are_answered_before_anything_runs_and_nothing_else_is() {
    assert_eq!(ask("GET /livez HTTP/1.1").await, ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let (status, body) = ask("GET /readyz HTTP/1.1").await;
    assert!(status.contains("503") && body.starts_with("config starting"), "{status} {body}");
    let (status, body) = ask("GET /admin/audits HTTP/1.1").await;
    assert!(status.contains("503") && body.contains("starting"), "{status} {body}");
}

/// No byte of it comes, and it is longer than any body that would be read.
#[tokio::test(start_paused = true)]
async fn a_page_that_only_shows_waits_for_no_body() {
    for body in ["content-length: 2000000", "transfer-encoding: chunked"] {
        let (status, told) = ask(&format!("GET /livez HTTP/1.1\r\n{body}")).await;
        assert_eq!((status.as_str(), told.as_str()), ("HTTP/1.1 200 OK", "ok\n"), "{body}");
    }
}

#[tokio::test]
async fn a_wrong_page_or_method_says_what_is_right() {
    let (status, body) = ask("GET /admin/audits/reset HTTP/1.1").await;
    assert!(status.contains("404") && body.contains("no page /admin/audits/reset; known: /livez"), "{status} {body}");
    let (status, body) = ask("POST /livez HTTP/1.1").await;
    assert!(status.contains("405") && body.contains("want GET /livez"), "{status} {body}");
    assert!(ask("HEAD /livez HTTP/1.1").await.0.contains("200"));
}
