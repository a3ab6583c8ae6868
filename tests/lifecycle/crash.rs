//! kill -9: what a client could rely on is there after a restart.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use serde_json::Value;
use tokio::process::Command;
use weir::account::Record;
use weir::backend::{Backend, Call, Completion, Status};
use weir::confidence::gap::{About, Example, Predictor};
use weir::confidence::{Feature, Features};
use weir::control::{self, Control, Environment, Options};
use weir::error::Result;
use weir::gateway::Gateway;
use weir::listen::{self, Running};
use weir::observe::Metrics;
use weir::request::{Delta, Finish, ModelId, Part, Token, Usage};

use super::process::{Place, Process, chat, client, until, up, upstream};

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_that_was_read_to_its_end_is_in_the_capture_log() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "[capture]\nfile = \"capture.jsonl\"\n");
    let mut process = place.start(&[]).await;
    let read = AtomicUsize::new(0);
    let asking = (0..8).map(|_| async {
        let (client, mut ids, mut heard) = (client(), Vec::new(), Vec::new());
        for number in 0.. {
            let Ok(asked) = place.ask(&client, &chat("hi", number % 2 == 0)).await else { break };
            let id = asked.header("x-request-id").to_owned();
            let Ok(text) = asked.whole().await else { break };
            if number % 2 == 0 && !text.contains("[DONE]") {
                break;
            }
            read.fetch_add(1, Ordering::SeqCst);
            let feedback = format!(r#"{{"request_id":"{id}","correct":true}}"#);
            ids.push(id.clone());
            let Ok(answer) = place.post(&client, "/v1/feedback", &feedback).await else { break };
            if answer.status != 200 || answer.whole().await.is_err() {
                break;
            }
            heard.push(id);
        }
        (ids, heard)
    });
    let kill = async {
        until("answers", || async { read.load(Ordering::SeqCst) >= 200 }).await;
        process.signal("KILL").await;
    };
    let (all, ()) = tokio::join!(join_all(asking), kill);
    assert_eq!(process.ends().await, None);
    // As if the last line had been torn.
    let file = place.path("capture.jsonl");
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"id\":\"torn").unwrap();
    let process = place.start(&[]).await;
    assert!(process.log().contains("torn"), "{}", process.log());
    let lines = lines(&file);
    let of =
        |place: &str| -> BTreeSet<&str> { lines.iter().filter_map(|line| line.pointer(place)?.as_str()).collect() };
    let (captured, told) = (of("/id"), of("/feedback/request_id"));
    for (ids, heard) in &all {
        let lost: Vec<_> = ids.iter().filter(|id| !captured.contains(id.as_str())).collect();
        let unheard: Vec<_> = heard.iter().filter(|id| !told.contains(id.as_str())).collect();
        assert!(lost.is_empty() && unheard.is_empty(), "{lost:?} {unheard:?}");
    }
}

/// The folder in which this binary is to serve, in the place of `weir serve`.
const SERVE_IN: &str = "WEIR_TEST_SERVE_IN";

/// A local model that is never sure.
#[derive(Debug)]
struct Unsure;

impl Backend for Unsure {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        let token = Token { bytes: "x".into(), logprob: -9.0, margin: 0.1, entropy: 3.0, top: Vec::new(), end: false };
        let usage = Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 1 };
        let text = Part::Text { text: "x".into(), tokens: vec![token] };
        let parts = [text, Part::Finish(Finish::Stop), Part::End(Some(usage))];
        let deltas = stream::iter(parts.map(|part| Ok(Delta::new(0, part)))).boxed();
        Box::pin(async move { Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas }) })
    }

    fn status(&self) -> Status {
        Status { ready: true, ..Status::default() }
    }

    fn check(&self, _: &weir::request::Request) -> Result<()> {
        Ok(())
    }
}

/// `weir serve` with a stand-in for its local model, when it is started for that; no test else.
#[test]
fn serves_with_a_stand_in() {
    let Some(folder) = std::env::var_os(SERVE_IN) else { return };
    let folder = Path::new(&folder);
    let read = |name| fs::read_to_string(folder.join(name)).unwrap();
    let stand_in: Arc<dyn Backend> = Arc::new(Unsure);
    let options = Options {
        config: Some(folder.join("weir.toml")),
        env: Environment::fixed([]),
        stand_ins: [(ModelId::new("local/small"), stand_in)].into(),
        ..Options::default()
    };
    let checked = control::read(&options).unwrap();
    let config = listen::Config {
        listen: read("listen"),
        admin: read("admin"),
        workers: 1,
        grace: Duration::ZERO,
        drain: Duration::from_secs(60),
        handover: Some(folder.join("handover")),
        socket_names: None,
    };
    let boot = move |beside: bool| -> BoxFuture<'static, std::result::Result<Running, String>> {
        Box::pin(async move {
            let metrics = Arc::new(Metrics::open(None)?);
            let options = Options { beside, ..options };
            let control = Control::open(options, checked).await.map_err(|problems| format!("{problems:?}"))?;
            let control = Arc::new(control);
            let gateway = Arc::new(Gateway::new(Arc::clone(&control), Arc::clone(&metrics) as Arc<dyn Record>));
            Ok(Running { gateway, control, metrics })
        })
    };
    listen::serve(&config, Box::new(boot)).unwrap_or_else(|error| panic!("{error}"));
}

fn paced(folder: &Path) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["lifecycle::crash::serves_with_a_stand_in", "--exact", "--nocapture"]).env(SERVE_IN, folder);
    Process::spawn(command, folder)
}

/// Dollars spent of the budget, as the metrics tell.
async fn spent(place: &Place) -> f64 {
    let page = place.probe("/metrics").await.1;
    let line = page.lines().find(|line| line.starts_with("weir_budget_spent_usd{"));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn ask(place: &Place) {
    let asked = place.ask(&client(), &chat("hi", false).replace("up/m", "auto")).await.unwrap();
    let served = asked.header("x-weir-served-by").to_owned();
    assert_eq!((asked.status.as_u16(), served.as_str()), (200, "up/m"));
    asked.whole().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_of_a_budget_is_never_forgotten() {
    let upstream = upstream(Arc::default()).await;
    let config = format!(
        "state = \"state\"\n[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n\
         [[price]]\nmodel = \"up/m\"\ninput = 1000\noutput = 2000\n{}",
        up(&upstream)
    );
    let place = Place::new(&config);
    let about = About {
        local: "local/small".into(),
        local_sha256: None,
        upstream: "up/m".into(),
        rows: 1,
        date: "2026-11-24".into(),
    };
    // An escalation gains all there is, and the rate is so high that it is always worth it.
    let example = Example { prompt: "hi".into(), features: Features::of(|_| 0.0), gap: 1.0 };
    let predictor = Predictor::of_answers(about, &[example], &[Feature::SumLogprob]).render().unwrap();
    let policy = "name = \"p\"\n[[rule]]\nname = \"r\"\nthen = { cascade = [\"local/small\", \"up/m\"], \
                  accept = { value = \"gap.json\", usd_per_hour = 3600.0 } }\n";
    for (name, text) in [("m.gguf", "abc"), ("p.toml", policy), ("gap.json", &predictor)] {
        place.write(name, text);
    }
    place.write("listen", &place.listen);
    place.write("admin", &place.admin);
    // 10 tokens in, 5 out.
    let cost = 0.02;
    let mut process = paced(place.folder.path());
    place.ready().await;
    for _ in 0..20 {
        ask(&place).await;
    }
    assert!((spent(&place).await - 20.0 * cost).abs() < 1e-9);
    process.signal("KILL").await;
    process.ends().await;
    let mut process = paced(place.folder.path());
    place.ready().await;
    ask(&place).await;
    let after = spent(&place).await;
    // A minute of the rate is 60 dollars; a request was in flight when that was written, expected to cost
    // half a dollar.
    assert!((21.0 * cost..=21.0 * cost + 61.0).contains(&after), "{after}");
    // Given over, with what the old process still spends: exact.
    let heir = paced(place.folder.path());
    assert_eq!(process.ends().await, Some(0), "{}", process.log());
    let mut process = heir;
    place.ready().await;
    ask(&place).await;
    until("what the old one spent", || async { (spent(&place).await - after - cost).abs() < 1e-9 }).await;
    // And a clean end forgets and adds nothing.
    process.signal("TERM").await;
    assert_eq!(process.ends().await, Some(0), "{}", process.log());
    let mut process = paced(place.folder.path());
    place.ready().await;
    ask(&place).await;
    assert!((spent(&place).await - after - 2.0 * cost).abs() < 1e-9);
    process.signal("KILL").await;
    process.ends().await;
    let journal = place.path("state").join("budgets.journal");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replace("spent_usd\": ", "spent_usd\": 1")).unwrap();
    let mut process = paced(place.folder.path());
    assert_eq!(process.ends().await, Some(1));
    assert!(process.log().contains("move it away to begin at nothing spent"), "{}", process.log());
}
