//! Sampled requests → spans → a collector, in a task of its own.
//!
//! **Model.** The request path decides by the trace's id and hands over the receipt; what is made
//! of it is made here. Batches of up to [`BATCH`] spans leave after [`PAUSE`] at the latest.
//!
//! **Promises.** Nobody waits for it: what the queue, bounded in requests and bytes, cannot take is dropped,
//! as is what the collector does not take in [`TRIES`] tries; every span is counted once, exported or
//! dropped. Failures are logged once a minute at most. Owned by [`super::Metrics`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::capture;
use super::known::Known;
use super::names::attribute;
use super::otlp::Collector;
use super::spans::{self, Attributes};
use super::texts::Texts;
use crate::account::{AuditReceipt, Receipt};
use crate::control::Telemetry;
use crate::request::TraceContext;

/// Requests that may wait to become spans.
const WAITING: usize = 2048;
/// Bytes of prompts and answers among them.
const WAITING_BYTES: usize = 64 << 20;
/// Spans after which a batch leaves.
const BATCH: usize = 512;
/// How long a span may wait for others.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a batch is sent.
const TRIES: u32 = 3;
/// How long to wait before it is sent again; twice as long each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// How often failures are told.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The tracing of requests.
#[derive(Debug)]
pub(super) struct Traces {
    sample: f64,
    content: bool,
    sender: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    counts: Counts,
}

/// What the exporter is handed.
#[derive(Debug)]
enum Job {
    Request(Arc<Known>, Box<Receipt>),
    Audit(Box<AuditReceipt>),
    /// Send what there is, and say so.
    Flush(oneshot::Sender<()>),
}

/// Where spans end.
#[derive(Debug, Clone)]
struct Counts {
    exported: IntCounter,
    dropped: IntCounter,
}

impl Traces {
    /// Starts the exporter on the runtime that calls.
    pub(super) fn open(settings: &Telemetry, spans: &IntCounterVec) -> Result<Traces, String> {
        let counts =
            Counts { exported: spans.with_label_values(&["exported"]), dropped: spans.with_label_values(&["dropped"]) };
        let (sender, jobs) = mpsc::channel(WAITING);
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Exporter {
            collector: Collector::new(settings),
            resource: resource(settings),
            texts: settings.content.then(Texts::build).transpose()?,
            waiting: Arc::clone(&waiting),
            counts: counts.clone(),
            told: None,
            untold: 0,
        };
        // It ends with the last sender, and drain waits for `flush` instead of for it.
        TaskTracker::new().spawn(exporter.run(jobs));
        Ok(Traces { sample: settings.sample, content: settings.content, sender, waiting, counts })
    }

    /// A request's own place in its client's trace, or in a new one.
    pub(super) fn place(&self, given: Option<&TraceContext>) -> TraceContext {
        let span_id = rand::random::<u64>().max(1);
        match given {
            Some(given) => TraceContext { span_id, ..given.clone() },
            None => {
                let trace_id = rand::random::<u128>().max(1);
                TraceContext { trace_id, span_id, sampled: is_sampled(trace_id, self.sample), state: None }
            }
        }
    }

    /// Whether texts are wanted.
    pub(super) fn shows(&self) -> bool {
        self.content
    }

    /// Takes the receipt of a sampled request; never waits.
    pub(super) fn take(&self, known: &Arc<Known>, mut receipt: Box<Receipt>) {
        receipt.captured = receipt.captured.take().filter(|_| self.content);
        let (spans, size) = (spans::count(&receipt), capture::bytes(&receipt));
        let fits = self.waiting.fetch_add(size, Ordering::Relaxed) + size <= WAITING_BYTES;
        if !fits || self.sender.try_send(Job::Request(Arc::clone(known), receipt)).is_err() {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.counts.dropped.inc_by(spans);
        }
    }

    /// Takes the receipt of a traced audit; never waits.
    pub(super) fn take_audit(&self, receipt: &AuditReceipt) {
        if receipt.span.is_some() && self.sender.try_send(Job::Audit(Box::new(receipt.clone()))).is_err() {
            self.counts.dropped.inc();
        }
    }

    /// Waits until all that was taken is sent or given up, at most so long.
    pub(super) async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        let all = async {
            // Without an exporter there is nothing to wait for.
            if self.sender.send(Job::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        if timeout(limit, all).await.is_err() {
            tracing::warn!("the last traces were not sent in time");
        }
    }
}

/// Whether a trace that begins here is recorded: the same for the same id, whoever asks.
fn is_sampled(trace_id: u128, share: f64) -> bool {
    const ALL: f64 = (1_u64 << 63) as f64;
    share >= 1.0 || ((trace_id as u64 >> 1) as f64) < share * ALL
}

/// Makes spans and sends them.
struct Exporter {
    collector: Collector,
    resource: Resource,
    texts: Option<Texts>,
    waiting: Arc<AtomicUsize>,
    counts: Counts,
    /// When a failure was told last.
    told: Option<Instant>,
    /// Spans dropped since then.
    untold: u64,
}

impl Exporter {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let mut batch = Vec::new();
            let mut flushed = self.add(first, &mut batch);
            let until = Instant::now() + PAUSE;
            while flushed.is_none() && batch.len() < BATCH {
                let Ok(Some(next)) = timeout_at(until, jobs.recv()).await else { break };
                flushed = self.add(next, &mut batch);
            }
            self.send(batch).await;
            if let Some(done) = flushed {
                // Who waited may be gone.
                let _ = done.send(());
            }
        }
    }

    /// Adds the spans of a job, or returns who waits for a flush.
    fn add(&self, job: Job, batch: &mut Vec<Span>) -> Option<oneshot::Sender<()>> {
        match job {
            Job::Request(known, receipt) => {
                self.waiting.fetch_sub(capture::bytes(&receipt), Ordering::Relaxed);
                batch.extend(spans::request(&receipt, &known, self.texts.as_ref()));
                None
            }
            Job::Audit(receipt) => {
                batch.extend(spans::audit(&receipt));
                None
            }
            Job::Flush(done) => Some(done),
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        if count == 0 {
            return;
        }
        let scope = InstrumentationScope { name: "weir".to_owned(), version: VERSION.to_owned(), ..Default::default() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource_spans =
            vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() }];
        let batch = ExportTraceServiceRequest { resource_spans };
        let mut wait = BACKOFF;
        for left in (0..TRIES).rev() {
            match self.collector.send(&batch).await {
                Ok(refused) => {
                    let refused = refused.min(count);
                    self.counts.exported.inc_by(count - refused);
                    return self.lose(refused, "the collector refused some of a batch");
                }
                Err(fault) if !fault.again || left == 0 => return self.lose(count, &fault.message),
                Err(_) => sleep(wait).await,
            }
            wait *= 2;
        }
    }

    fn lose(&mut self, spans: u64, why: &str) {
        if spans == 0 {
            return;
        }
        self.counts.dropped.inc_by(spans);
        self.untold += spans;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            tracing::warn!(collector = ?self.collector, spans = self.untold, error = why, "spans are lost");
            (self.told, self.untold) = (Some(Instant::now()), 0);
        }
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who sends.
fn resource(settings: &Telemetry) -> Resource {
    let mut all = Attributes::default();
    all.put(attribute::SERVICE_NAME, settings.service.as_str())
        .put(attribute::SERVICE_VERSION, VERSION)
        .put(attribute::SERVICE_INSTANCE, uuid());
    Resource { attributes: all.0, ..Resource::default() }
}

/// A random UUID (version 4).
fn uuid() -> String {
    let random = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{random:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
