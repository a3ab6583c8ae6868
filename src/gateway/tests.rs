//! What a request gets when something goes wrong on the way, and what its receipt says then.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::{self, Instant, Interval, interval};

use super::{Gateway, REQUEST_ID, TIMEOUT_TO_HEAD, request_id};
use crate::account::{Outcome, Receipt, Record};
use crate::api::Body;
use crate::control::{self, Control, Environment, Options};
use crate::error::Kind;

/// Keeps every receipt.
#[derive(Debug, Default)]
pub(crate) struct Book(pub(crate) Mutex<Vec<Receipt>>);

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.0.lock().unwrap().push(receipt);
    }
}

/// A gateway to an upstream where nobody listens, for one tenant or for everybody.
pub(crate) async fn open(tenant: &str) -> (Arc<Gateway>, Arc<Book>) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("weir.toml");
    let upstream = "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n";
    std::fs::write(&config, format!("{upstream}{tenant}")).unwrap();
    let options = Options { config: Some(config), env: Environment::fixed([("KEY", "k")]), ..Options::default() };
    let checked = control::read(&options).unwrap();
    let control = Arc::new(Control::open(options, checked).await.unwrap());
    let book = Arc::new(Book::default());
    (Arc::new(Gateway::new(control, Arc::clone(&book) as Arc<dyn Record>)), book)
}

/// A client's body that never comes, never ends, or panics.
enum Odd {
    Silent,
    /// A byte at each tick.
    Drips(Interval),
    Panics,
}

impl http_body::Body for Odd {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Odd::Silent => Poll::Pending,
            Odd::Drips(drops) => drops.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b" "))))),
            Odd::Panics => panic!("a fault"),
        }
    }
}

async fn ask(gateway: &Gateway, method: &str, path: &str, body: Odd) -> Response<Body> {
    let request = Request::builder().method(method).uri(path).header(REQUEST_ID, "own-1");
    gateway.handle(request.body(body).unwrap()).await
}

fn id(response: &Response<Body>) -> &str {
    response.headers()[REQUEST_ID].to_str().unwrap()
}

#[tokio::test]
async fn a_panic_is_a_500_with_the_requests_id_and_its_receipt_says_internal() {
    let (gateway, book) = open("").await;
    let response = ask(&gateway, "POST", "/v1/chat/completions", Odd::Panics).await;
    assert_eq!((response.status().as_u16(), id(&response)), (500, "own-1"));
    drop(response);
    let receipt = &book.0.lock().unwrap()[0];
    assert_eq!((&*receipt.id, receipt.outcome), ("own-1", Outcome::Error(Kind::Internal)));
}

#[tokio::test]
async fn what_takes_too_long_is_a_504_with_the_requests_id_and_its_receipt_says_timeout() {
    let (gateway, book) = open("").await;
    time::pause();
    let begun = Instant::now();
    let body = Odd::Drips(interval(Duration::from_secs(10)));
    let response = ask(&gateway, "POST", "/v1/chat/completions", body).await;
    assert_eq!((response.status().as_u16(), id(&response)), (504, "own-1"));
    assert!(begun.elapsed() >= TIMEOUT_TO_HEAD);
    drop(response);
    let receipt = &book.0.lock().unwrap()[0];
    assert_eq!((&*receipt.id, receipt.outcome), ("own-1", Outcome::Error(Kind::Timeout)));
}

#[tokio::test]
async fn a_request_refused_by_its_head_has_its_id_in_the_receipt() {
    let (gateway, book) = open("[[tenant]]\nname = \"t\"\nkey = { env = \"KEY\" }\n").await;
    for (method, path, status) in
        [("POST", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/models", 401)]
    {
        let response = ask(&gateway, method, path, Odd::Silent).await;
        assert_eq!((response.status().as_u16(), id(&response)), (status, "own-1"), "{path}");
        drop(response);
        assert_eq!(&*book.0.lock().unwrap().pop().unwrap().id, "own-1", "{path}");
    }
}

#[test]
fn an_id_that_is_no_fit_is_replaced() {
    let of = |own: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, own.parse().unwrap());
        request_id(headers.get(REQUEST_ID))
    };
    assert_eq!(&*of("own-1"), "own-1");
    for odd in [String::new(), "x".repeat(129), "wehr-é".to_owned()] {
        assert!(of(&odd).starts_with("req_"), "{odd}");
    }
    assert_ne!(request_id(None), request_id(None));
}
