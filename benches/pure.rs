//! The rooms that compute and wait for nothing: what each adds to a request, by itself.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot run fails, and prints what it found"
)]

use std::hint::black_box;
use std::sync::Arc;

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{FutureExt, StreamExt, stream};
use http::HeaderMap;
use http_body_util::Full;
use tokio::time::Instant;
use weir::account::{Meter, Prices, Receipt, Record};
use weir::api::{self, Asker, Limits, Route, Shape};
use weir::backend::{Completion, Status};
use weir::confidence::gap::{About, Predictor};
use weir::confidence::{
    Basis, Calibration, Feature, Judge, Key, Logistic, Platt, Quality, Running, Score, Term, Transform,
};
use weir::policy::{Facts, Names, Policy};
use weir::request::{Delta, ModelId, Part, Request, TenantId, Token, Usage};
use weir::wire::openai::{respell, scan};
use weir::wire::sse::{Decoder, render_into};

/// A chat of about this many bytes.
fn body(bytes: usize) -> Bytes {
    let turn = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
    let text = "what does this function return, and why? ".repeat(bytes / 80 + 1);
    let messages =
        [turn("system", "you are brief"), turn("user", &text[..bytes / 2]), turn("user", &text[..bytes / 2])];
    format!(r#"{{"model":"auto","temperature":0.2,"max_tokens":64,"messages":[{}]}}"#, messages.join(",")).into()
}

fn parse(body: Bytes, limits: &Limits) -> (Request, Shape) {
    let headers = HeaderMap::new();
    let asker = Asker { id: "req_1".into(), tenant: TenantId::anonymous() };
    let parsed = api::parse(Route::Chat, &headers, Full::new(body), limits, asker).now_or_never();
    parsed.expect("a body in memory is not waited for").unwrap()
}

fn limits() -> Limits {
    Limits::of(16 << 20)
}

fn parsing(c: &mut Criterion) {
    let limits = limits();
    let mut group = c.benchmark_group("parse");
    for kib in [1, 8, 128] {
        let body = body(kib << 10);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(format!("{kib} KiB")), &body, |b, body| {
            b.iter(|| parse(black_box(body.clone()), &limits));
        });
    }
    group.finish();
}

/// The two models of the policies here.
fn models() -> [ModelId; 2] {
    ["local/qwen-0.5b", "openai/gpt-4.1-mini"].map(ModelId::new)
}

/// Both models ready and idle.
fn facts() -> Facts {
    let status = Status { ready: true, queue_limit: 64, slots: 8, ..Status::default() };
    Facts { models: models().map(|model| (model, status)).into(), budget_left_usd: None }
}

fn deciding(c: &mut Criterion) {
    let models = models();
    let names = Names { models: models.clone().into(), ..Names::default() };
    let compile = |source: &str| Policy::compile("p.toml", source, &names).unwrap();
    let one_when = "name = \"p\"\n[[rule]]\nname = \"long\"\nwhen = 'request.prompt_tokens > 4000'\nthen = { serve = \"openai/gpt-4.1-mini\" }\n\
                    [[rule]]\nname = \"rest\"\nthen = { serve = \"local/qwen-0.5b\" }\n";
    let policies = [
        ("direct", Policy::direct(&models[0])),
        ("one when", compile(one_when)),
        ("cheap-first", compile(include_str!("../policies/cheap-first.toml"))),
    ];
    let facts = facts();
    let (request, _) = parse(body(1 << 10), &limits());
    let mut group = c.benchmark_group("decide");
    for (name, policy) in &policies {
        group.bench_function(*name, |b| b.iter(|| policy.decide(black_box(&request), &facts)));
    }
    group.finish();
}

fn numbered(from: usize, words: usize) -> String {
    (from..from + words).map(|at| format!("word{:05} ", at * 7919 % 50_000)).collect()
}

/// One that knows every word of [`numbered`].
fn predictor() -> Predictor {
    let texts: Vec<String> = (0..200).map(|at| numbered(at * 100, 400)).collect();
    let gaps = texts.iter().enumerate().map(|(at, text)| (text.as_str(), (at % 2) as f64));
    Predictor::of_prompts(About::default(), gaps)
}

/// The gap predicted from prompts of 1, 4 and 64 KiB, all of whose words it knows; no more than 4 KiB
/// are read.
fn scoring(c: &mut Criterion) {
    let predictor = predictor();
    let mut group = c.benchmark_group("predict the gap of a prompt");
    for kib in [1, 4, 64] {
        let prompt = numbered(0, (kib << 10) / 10);
        group.bench_with_input(BenchmarkId::from_parameter(format!("{kib} KiB")), &prompt, |b, prompt| {
            b.iter(|| predictor.before(black_box(prompt)));
        });
    }
    group.finish();
}

fn streaming(c: &mut Criterion) {
    const CHUNKS: u64 = 100;
    let chunk = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4.1-mini-2025-04-14","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" and"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
    let piece = Bytes::from(format!("data: {chunk}\n\n").repeat(CHUNKS as usize));
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Elements(CHUNKS));
    group.bench_function("decode, scan, respell and render 100 chunks", |b| {
        b.iter(|| {
            let mut decoder = Decoder::default();
            let mut out = BytesMut::with_capacity(piece.len());
            decoder.push(piece.clone());
            while let Some(event) = decoder.next().unwrap() {
                let found = scan(event.data).unwrap();
                render_into(&mut out, &respell(&found.raw, "openai/gpt-4.1-mini", false));
            }
            out
        });
    });
    group.finish();
}

fn answering(c: &mut Criterion) {
    let text = "because it says so. ".repeat(30);
    let answer = Bytes::from(format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"gpt-4.1-mini-2025-04-14","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":100,"completion_tokens":120,"total_tokens":220}}}}"#
    ));
    let answer = scan(answer).unwrap().raw;
    let (_, shape) = parse(body(1 << 10), &limits());
    let model = ModelId::new("openai/gpt-4.1-mini");
    c.bench_function("respond/1 KB JSON passed through", |b| {
        b.iter(|| {
            let raw = Delta { choice: 0, part: Part::Raw, raw: Some(answer.clone()) };
            let deltas = stream::iter([Ok(raw), Ok(Delta::new(0, Part::End(None)))]).boxed();
            let completion = Completion { model: model.clone(), headers: HeaderMap::new(), deltas };
            api::respond(completion, shape.clone(), Box::new(String::new))
                .now_or_never()
                .expect("all deltas are ready")
                .unwrap()
        });
    });
}

/// Forgets every receipt.
#[derive(Debug)]
struct Nobody;

impl Record for Nobody {
    fn record(&self, receipt: Receipt) {
        black_box(receipt);
    }
}

fn accounting(c: &mut Criterion) {
    let record: Arc<dyn Record> = Arc::new(Nobody);
    let prices = Arc::new(Prices::default());
    let model = ModelId::new("local/qwen-0.5b");
    let (request, _) = parse(body(1 << 10), &limits());
    let decision = Policy::direct(&model).decide(&request, &Facts::default());
    let usage = Usage { prompt_tokens: 100, cached_tokens: 0, completion_tokens: 120 };
    c.bench_function("account/from open to settle", |b| {
        b.iter(|| {
            let meter = Meter::open(Arc::clone(&record), Arc::clone(&prices));
            meter.asked(&request);
            meter.decided(&decision, 1);
            let attempt = meter.attempt(&model, 0);
            let deltas =
                stream::iter([Ok(Delta::new(0, Part::Raw)), Ok(Delta::new(0, Part::End(Some(usage))))]).boxed();
            let followed = attempt.follow(deltas);
            attempt.served();
            drop(attempt);
            followed.count().now_or_never().expect("all deltas are ready");
            meter.head();
            meter.story()
        });
    });
}

/// A judge by a fitted score.
fn judge(score: Score) -> Judge {
    let calibration = Calibration {
        version: 1,
        name: "bench".into(),
        model: "local/qwen-0.5b".into(),
        model_sha256: "0".repeat(64),
        slice: "all".into(),
        basis: Basis::Gold,
        grader: None,
        score,
        inquiry: None,
        key: Key { template: None, sampler: Key::GREEDY.into(), constraint: None, max_tokens: None, hold_back: None },
        fitted_rows: 300,
        quality: Quality { rows: 300, auroc: Some(0.75), ece: Some(0.03), brier: Some(0.2) },
        date: "2026-11-24".into(),
        attempts: 0,
        labels: None,
        early: None,
        certificates: Vec::new(),
    };
    Judge::calibrated(Arc::new(calibration), 0.5)
}

fn answer(tokens: u64) -> Vec<Token> {
    let token = |place: u64| Token {
        bytes: Bytes::from_static(b" and"),
        logprob: -0.001 * (place % 37) as f32,
        margin: (place % 11) as f32 + 0.5,
        entropy: 0.1 * (place % 7) as f32,
        top: Vec::new(),
        end: place + 1 == tokens,
    };
    (0..tokens).map(token).collect()
}

/// A judge by a logistic score over every feature.
fn whole_judge() -> Judge {
    let terms = Feature::ALL.map(|feature| Term { feature, mean: 0.5, scale: 2.0, weight: 0.3 });
    judge(Score::Logistic(Logistic { bias: 0.1, terms: terms.into() }))
}

/// A gate folds each token of an answer into its features and asks its judge each time.
fn judging(c: &mut Criterion) {
    const TOKENS: u64 = 200;
    let answer = answer(TOKENS);
    let (feature, transform) = (Feature::SumLogprob, Transform::OneSided);
    let judges = [
        ("min_logprob", Judge::at_least(Feature::MinLogprob, -1.2)),
        ("platt", judge(Score::Platt(Platt { feature, transform, weight: 0.5, bias: 0.1 }))),
        ("logistic over all features", whole_judge()),
    ];
    let mut group = c.benchmark_group("score");
    for (name, judge) in &judges {
        group.bench_function(format!("200 tokens, then decide: {name}"), |b| {
            b.iter(|| {
                let mut running = Running::default();
                answer.iter().for_each(|token| running.push(black_box(token)));
                judge.accepts_answer(&running)
            });
        });
        group.bench_function(format!("200 tokens, decide at each: {name}"), |b| {
            b.iter(|| {
                let mut running = Running::default();
                let mut believed = |token: &Token| {
                    running.push(black_box(token));
                    judge.accepts_answer(&running) && !judge.is_lost(&running)
                };
                answer.iter().filter(|token| believed(token)).count()
            });
        });
    }
    group.finish();
}

/// What a request costs before and after the model: decide, predict the gap, fold the answer's tokens
/// and judge it at each. The slowest of many, which a mean hides, and what is allocated.
fn whole_path(_: &mut Criterion) {
    const TIMES: usize = 20_000;
    let names = Names { models: models().into(), ..Names::default() };
    let policy = Policy::compile("p.toml", include_str!("../policies/cheap-first.toml"), &names).unwrap();
    let (request, _) = parse(body(1 << 10), &limits());
    let (facts, scorer, prompt, judge) = (facts(), predictor(), numbered(0, (1 << 10) / 10), whole_judge());
    let before = || {
        black_box(policy.decide(black_box(&request), &facts));
        black_box(scorer.before(black_box(&prompt)));
    };
    let after = |answer: &[Token]| {
        let mut running = Running::default();
        let mut kept = 0;
        for token in answer {
            running.push(black_box(token));
            kept += usize::from(judge.accepts_answer(&running) && !judge.is_lost(&running));
        }
        black_box(kept);
    };
    let (short, long) = (answer(8), answer(800));
    println!("decide and score, without a model call, {TIMES} times:");
    let parts: [(&str, &dyn Fn()); 3] = [
        ("decide, and predict the gap of 1 KiB", &before),
        ("fold and judge an answer of 8 tokens at each", &|| after(&short)),
        ("both", &|| {
            before();
            after(&short);
        }),
    ];
    for (name, part) in parts {
        let mut times: Vec<_> = (0..TIMES)
            .map(|_| {
                let begun = Instant::now();
                part();
                begun.elapsed()
            })
            .collect();
        times.sort();
        let at = |share: f64| times[(share * (TIMES - 1) as f64) as usize];
        println!("  {name}: median {:?}, p99 {:?}, p99.9 {:?}", at(0.5), at(0.99), at(0.999));
    }
    let allocated = |part: &dyn Fn()| measure(part).count_total;
    println!(
        "allocations: decide and predict {}, an answer of 8 tokens {}, of 800 tokens {}",
        allocated(&before),
        allocated(&|| after(&short)),
        allocated(&|| after(&long))
    );
    assert_eq!(allocated(&|| after(&long)), 0, "a token allocates nothing beyond the trace");
}

criterion_group!(pure, whole_path, parsing, deciding, scoring, streaming, answering, accounting, judging);
criterion_main!(pure);
