//! Audits of kept answers: what was drawn is graded when its client has it, off the client's path.
//!
//! **Model.** An answer kept under a certificate is drawn with the slice's share as it is accepted. Its
//! text is read as it flows (bounded). When it is complete, the grader is asked what the client
//! asked, and both answers are compared; or the client was asked for feedback, and what it says in
//! time is the grade. Each drawn answer ends in the slice's ledger exactly once, graded or skipped.
//!
//! **Promises.** The client's answer is not delayed, changed or cut short by its audit, and its leaving
//! does not end the audit of an answer that is complete. A grader costs no more than the day's budget
//! allows; what one asked last costs more than estimated is over it by that. Its tokens and dollars
//! are noted, of a call that is given up as far as they are known. A grader is asked what the client
//! asked, as the client would have it answered; a judge is asked greedily. A client's own key is never used.
//!
//! **Concurrency.** One tracked task per audit, at most [`AT_ONCE`]; what is drawn beyond is skipped.
//! Grades enter the ledger in the order in which they come.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::{Asking, Begun};
use crate::account::{AuditReceipt, AuditTab, Drawn, Price};
use crate::backend::{Backend, Call};
use crate::confidence::audit::{Skipped, Ticket};
use crate::confidence::{Compare, Form, Grader, Grant, Ledger, News};
use crate::error::{Error, Kind, Result};
use crate::plan::Gate;
use crate::request::{Ask, Chat, Delta, Feedback, Message, ModelId, Part, Request, Role, Sampling, Usage, Verdict};
use crate::wire::openai::{question, said};

/// Audits under way at once.
const AT_ONCE: usize = 16;
/// The longest answer that is compared, bytes.
const LONGEST: usize = 64 * 1024;
/// How long a grader may take, all its answers together.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest reply to whether two answers say the same, tokens.
const REPLY: u32 = 4;
/// What an answer without a limit is expected to take at least, tokens.
const USUAL_ANSWER: u64 = 256;
/// Bytes per token, about.
const TOKEN: u64 = 4;

/// Keeps ledgers over restarts; implemented by `control`.
pub trait Store: Send + Sync + fmt::Debug {
    /// Writes the ledger; may block, and is called where that harms nobody.
    fn store(&self, ledger: &Ledger);
}

/// Where kept answers are audited.
#[derive(Debug, Clone)]
pub struct Auditor {
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    store: Option<Arc<dyn Store>>,
}

/// Audits in tasks that nobody waits for, kept nowhere.
impl Default for Auditor {
    fn default() -> Auditor {
        Auditor::new(TaskTracker::new(), None)
    }
}

impl Auditor {
    /// Audits in tasks that `tasks` tracks.
    pub fn new(tasks: TaskTracker, store: Option<Arc<dyn Store>>) -> Auditor {
        Auditor { tasks, room: Arc::new(Semaphore::new(AT_ONCE)), store }
    }

    /// Takes what a client says of an answer; where it was not asked to, nothing changes. `tab` is the
    /// feedback's own.
    pub fn hear(&self, ledgers: &[Arc<Ledger>], feedback: &Feedback, tab: &AuditTab) {
        let loss = match feedback.verdict {
            Verdict::Correct => 0.0,
            Verdict::Wrong => 1.0,
            Verdict::Scored(score) => 1.0 - score,
        };
        let answer = (&*feedback.request_id, tab.tenant().as_str());
        for ledger in ledgers {
            let heard = ledger.hear(answer, loss, now());
            if let Some(propensity) = heard {
                let status = ledger.status();
                tab.settle(&AuditReceipt {
                    id: Arc::clone(&feedback.request_id),
                    slice: status.slice,
                    by: None,
                    outcome: Ok(loss),
                    propensity,
                    usage: Usage::default(),
                    cost_usd: 0.0,
                    wealth: status.wealth,
                    span: None,
                });
            }
            self.look_after(ledger);
            if heard.is_some() {
                return;
            }
        }
    }

    /// Tells what has become of the ledger, and has it written where that is due.
    fn look_after(&self, ledger: &Arc<Ledger>) {
        if let Some(news) = ledger.news() {
            tell(news, ledger);
        }
        if let (Some(store), Ok(runtime)) = (&self.store, Handle::try_current())
            && ledger.is_due()
        {
            let (store, ledger) = (Arc::clone(store), Arc::clone(ledger));
            self.tasks.spawn_blocking_on(move || store.store(&ledger), &runtime);
        }
    }
}

fn tell(news: News, ledger: &Ledger) {
    let status = ledger.status();
    let (slice, measured) = (status.slice, status.measured);
    match news {
        News::Alarmed => tracing::warn!(
            slice,
            measured,
            alarm_above = status.alarm_above,
            graded = status.total.graded,
            losses = status.total.losses,
            "audits found a promise broken: its slice is uncertified until it is calibrated anew"
        ),
        News::Unmonitored => tracing::warn!(
            slice,
            measured,
            drawn = status.today.drawn,
            skipped = status.today.skipped(),
            "too many audits got no grade: the slice is uncertified until the day (UTC) ends"
        ),
        News::Watching => tracing::info!(slice, measured, "a slice is audited again"),
    }
}

/// Lets the time pass for the ledger of a gate, before the gate is asked.
pub(super) fn refresh(asking: &Asking<'_>, gate: Option<&Gate>) {
    if let Some(ledger) = gate.and_then(|gate| gate.accept.grant()?.ledger()) {
        ledger.refresh(now());
        asking.backends.auditor.look_after(ledger);
    }
}

/// Notes an answer that the gate has accepted under this certificate, of which `held` is here, and
/// sees to its audit if it is drawn.
pub(super) fn attend(asking: &Asking<'_>, grant: &Arc<Grant>, held: &[Delta], begun: &mut Begun) {
    let Some((grader, ledger)) = grant.audit.as_ref().and_then(|audit| Some((&audit.grader, audit.ledger()?))) else {
        return;
    };
    let draw = ledger.keep(rand::random());
    let tab = asking.meter.audit_tab();
    let wanted = match (grader, draw.ticket) {
        (_, None) => false,
        (Grader::Feedback { within }, Some(ticket)) => {
            ledger.solicit((tab.id(), tab.tenant().as_str()), ticket, now(), *within)
        }
        (Grader::Model { model, .. }, Some(ticket)) => {
            let job = Job {
                auditor: asking.backends.auditor.clone(),
                grant: Arc::clone(grant),
                ledger: Arc::clone(ledger),
                ticket: Some(ticket),
                request: Arc::clone(&asking.request),
                backend: asking.backends.of(model).cloned(),
                tab,
                answer: Answer::default(),
                open: None,
                bill: Bill::default(),
                began: None,
            };
            job.overhear(held, begun);
            false
        }
    };
    begun.attempt.drawn(Drawn::of(draw, wanted));
    asking.backends.auditor.look_after(ledger);
}

/// Notes that the gate has refused an answer that this certificate speaks of.
pub(super) fn refused(grant: &Grant) {
    if let Some(ledger) = grant.ledger() {
        ledger.escalate();
    }
}

/// An answer as far as it was read.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    usage: Option<Usage>,
    /// Whether it is complete.
    whole: bool,
    /// Whether it is no text, or too long a one.
    odd: bool,
}

impl Answer {
    fn add(&mut self, delta: &Delta) {
        match &delta.part {
            Part::Text { text, .. } if delta.choice == 0 => self.text.push_str(text),
            Part::Raw => self.text.push_str(&delta.raw.as_ref().map(|raw| said(&raw.bytes)).unwrap_or_default()),
            Part::ToolCall(_) | Part::Embedding(_) => self.odd = true,
            Part::End(usage) => (self.usage, self.whole) = (*usage, true),
            Part::Text { .. } | Part::Finish(_) => {}
        }
        if self.text.len() > LONGEST {
            self.odd = true;
            self.text.clear();
        }
    }
}

/// What a grader has used.
#[derive(Debug, Clone, Copy, Default)]
struct Bill {
    usage: Usage,
    cost_usd: f64,
}

impl Bill {
    fn add(&mut self, usage: Usage, cost_usd: f64) {
        self.usage.prompt_tokens += usage.prompt_tokens;
        self.usage.cached_tokens += usage.cached_tokens;
        self.usage.completion_tokens += usage.completion_tokens;
        self.cost_usd += cost_usd;
    }
}

/// A call of the grader that is not settled yet.
struct Open {
    price: Price,
    /// Dollars of the day's budget that wait for it.
    reserved: f64,
    /// Tokens of what it was asked, if nobody counts them.
    prompt_tokens: u64,
    /// What has come of its answer.
    answer: Answer,
    /// Whether it ended without an answer, which costs nothing.
    failed: bool,
}

impl Open {
    /// What it used: as the grader says, else an estimate. Who gave up waiting knows what was asked, and
    /// what came until then.
    fn usage(&self) -> Usage {
        let completion_tokens = self.answer.text.len() as u64 / TOKEN;
        let is_free = self.failed && completion_tokens == 0;
        let prompt_tokens = if is_free { 0 } else { self.prompt_tokens };
        self.answer.usage.unwrap_or(Usage { prompt_tokens, cached_tokens: 0, completion_tokens })
    }
}

/// The audit of one drawn answer by a model. Dropped before it is settled, the answer was skipped.
struct Job {
    auditor: Auditor,
    grant: Arc<Grant>,
    ledger: Arc<Ledger>,
    ticket: Option<Ticket>,
    request: Arc<Request>,
    backend: Option<Arc<dyn Backend>>,
    tab: AuditTab,
    answer: Answer,
    /// The call under way.
    open: Option<Open>,
    bill: Bill,
    /// When grading began.
    began: Option<Instant>,
}

impl Job {
    /// Reads what is held of the answer, and then what still comes.
    fn overhear(mut self, held: &[Delta], begun: &mut Begun) {
        held.iter().for_each(|delta| self.answer.add(delta));
        if self.answer.whole {
            return self.begin();
        }
        let deltas = std::mem::replace(&mut begun.deltas, futures::stream::empty().boxed());
        begun.deltas = Overheard { deltas, job: Some(self) }.boxed();
    }

    /// Grades the complete answer in a task of its own.
    fn begin(mut self) {
        self.began = Some(Instant::now());
        match Arc::clone(&self.auditor.room).try_acquire_owned() {
            Ok(permit) => {
                let tasks = self.auditor.tasks.clone();
                tasks.spawn(async move {
                    let _one_of_many = permit;
                    self.grade().await;
                });
            }
            Err(_) => self.settle(Err(Skipped::Outage)),
        }
    }

    async fn grade(mut self) {
        let graded = timeout(PATIENCE, self.loss()).await;
        self.settle(graded.unwrap_or(Err(Skipped::Outage)));
    }

    /// 0 where the grader's answer says the same, else 1.
    async fn loss(&mut self) -> std::result::Result<f64, Skipped> {
        let grant = Arc::clone(&self.grant);
        let Some(Grader::Model { model, compare, usd_per_day }) = grant.audit.as_ref().map(|audit| &audit.grader)
        else {
            return Err(Skipped::Ungradable);
        };
        let grader = (model, *usd_per_day);
        let asked = Request { authorization: None, ..(*self.request).clone() };
        let theirs = self.ask(grader, asked).await?;
        match compare {
            Compare::Form(form) => loss(*form, &self.answer.text, &theirs).ok_or(Skipped::Ungradable),
            Compare::Judge => {
                let asked = whether_the_same(&self.request, &self.answer.text, &theirs).ok_or(Skipped::Ungradable)?;
                match self.ask(grader, asked).await?.trim() {
                    "Y" => Ok(0.0),
                    "N" => Ok(1.0),
                    _ => Err(Skipped::Ungradable),
                }
            }
        }
    }

    /// The grader's whole answer, within its budget.
    async fn ask(
        &mut self,
        (model, usd_per_day): (&ModelId, f64),
        request: Request,
    ) -> std::result::Result<String, Skipped> {
        let backend = self.backend.clone().ok_or(Skipped::Outage)?;
        if self.answer.odd || backend.check(&request).is_err() {
            return Err(Skipped::Ungradable);
        }
        // What costs nobody knows what could cost too much.
        let price = self.tab.price(model).ok_or(Skipped::Budget)?;
        let prompt_tokens = prompt_bytes(&request) / TOKEN;
        let completion_tokens = most_tokens(&request, self.answer.text.len());
        let most = price.cost_usd(&Usage { prompt_tokens, cached_tokens: 0, completion_tokens });
        if !self.ledger.reserve(most, usd_per_day) {
            return Err(Skipped::Budget);
        }
        let trace = self.tab.trace().cloned();
        let call = Call { request: Arc::new(request), model: model.clone(), trace };
        let (answer, failed) = (Answer::default(), false);
        let open = self.open.insert(Open { price, reserved: most, prompt_tokens, answer, failed });
        let read = read(&*backend, call, &mut open.answer).await;
        open.failed = read.is_err();
        let Answer { text, odd, .. } = self.close().unwrap_or_default();
        match read {
            Ok(()) if odd => Err(Skipped::Ungradable),
            Ok(()) => Ok(text),
            Err(error) if matches!(error.kind(), Kind::Invalid | Kind::TooLarge) => Err(Skipped::Ungradable),
            Err(_) => Err(Skipped::Outage),
        }
    }

    /// Notes what the call under way has used, and gives its answer.
    fn close(&mut self) -> Option<Answer> {
        let open = self.open.take()?;
        let usage = open.usage();
        let cost_usd = open.price.cost_usd(&usage);
        self.bill.add(usage, cost_usd);
        self.ledger.spend(open.reserved, cost_usd);
        Some(open.answer)
    }

    fn settle(&mut self, outcome: std::result::Result<f64, Skipped>) {
        let Some(ticket) = self.ticket.take() else { return };
        self.close();
        self.ledger.settle(ticket, outcome, now());
        let by = self.grant.audit.as_ref().and_then(|audit| audit.grader.measures()).map(ModelId::new);
        let status = self.ledger.status();
        self.tab.settle(&AuditReceipt {
            id: Arc::clone(self.tab.id()),
            slice: status.slice,
            by,
            outcome,
            propensity: ticket.propensity(),
            usage: self.bill.usage,
            cost_usd: self.bill.cost_usd,
            wealth: status.wealth,
            span: self.began.and_then(|began| self.tab.span(began)),
        });
        self.auditor.look_after(&self.ledger);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.settle(Err(Skipped::Ungradable));
    }
}

/// An answer on its way to the client, read as it passes.
struct Overheard {
    deltas: BoxStream<'static, Result<Delta>>,
    job: Option<Job>,
}

impl Stream for Overheard {
    type Item = Result<Delta>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.deltas.poll_next_unpin(context);
        if let (Poll::Ready(Some(Ok(delta))), Some(job)) = (&polled, &mut self.job) {
            job.answer.add(delta);
        }
        if let Some(job) = self.job.take_if(|job| job.answer.whole) {
            job.begin();
        }
        polled
    }
}

/// Reads an answer to its end, or until it is known to be of no use.
async fn read(backend: &dyn Backend, call: Call, answer: &mut Answer) -> Result<()> {
    let mut deltas = backend.start(call).await?.deltas;
    while let Some(delta) = deltas.next().await {
        answer.add(&delta?);
        if answer.whole || answer.odd {
            return Ok(());
        }
    }
    Err(Error::internal("an answer stopped before its end"))
}

/// 0 where both say the same; `None` where the grader's holds nothing to compare.
fn loss(form: Form, ours: &str, theirs: &str) -> Option<f64> {
    match form.agree(ours, theirs) {
        Some(agree) => Some(f64::from(!agree)),
        // Nothing agrees with an answer that holds nothing of the form.
        None => form.read(theirs).map(|_| 1.0),
    }
}

fn prompt_bytes(request: &Request) -> u64 {
    let texts = match &request.ask {
        Ask::Chat(chat) => chat.messages.iter().map(|message| message.text.len()).sum(),
        Ask::Text(_) | Ask::Embed(_) => 0,
    };
    texts.max(request.body.bytes.len()) as u64
}

/// What the grader's answer may take; without a limit about twice what ours did.
fn most_tokens(request: &Request, ours: usize) -> u64 {
    let limit = match &request.ask {
        Ask::Chat(chat) => chat.sampling.max_tokens,
        Ask::Text(_) | Ask::Embed(_) => None,
    };
    limit.map_or_else(|| (2 * ours as u64 / TOKEN).max(USUAL_ANSWER), u64::from)
}

/// Asks whether two answers to a chat say the same, to be answered with Y or N.
fn whether_the_same(request: &Request, ours: &str, theirs: &str) -> Option<Request> {
    let Ask::Chat(chat) = &request.ask else {
        return None;
    };
    let said: Vec<String> =
        chat.messages.iter().map(|message| format!("{}: {}", message.role.name(), message.text)).collect();
    let text = format!(
        "Two answers to the last message of a conversation are given. Do they say the same, so that whoever reads the \
         one learns what whoever reads the other does? How they are worded does not count. Reply with one letter: Y if \
         they say the same, N if they do not.\n\n[conversation]\n{}\n\n[answer 1]\n{ours}\n\n[answer 2]\n{theirs}\n\n[reply]",
        said.join("\n")
    );
    let body = question(&text, REPLY);
    let message =
        Message { role: Role::User, text, images: 0, other_parts: 0, name: None, tool_calls: None, tool_call_id: None };
    let sampling = Sampling { max_tokens: Some(REPLY), temperature: Some(0.0), n: 1, ..Sampling::default() };
    Some(Request {
        id: Arc::clone(&request.id),
        tenant: request.tenant.clone(),
        model: request.model.clone(),
        stream: false,
        ask: Ask::Chat(Chat { messages: vec![message], sampling, ..Chat::default() }),
        body,
        headers: Default::default(),
        authorization: None,
    })
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
