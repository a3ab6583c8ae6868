//! The ledger of one slice: its audit, what the audits cost, who is still asked for feedback.
//!
//! **Model.** What is audited is a [`Subject`]: the labels that certify, and the promise. As long as those
//! are the same it is the same ledger, over reloads and restarts, whatever else of a calibration's
//! file or of a policy changes; the alarm that it raises is that of the labels ([`Alarm`]), so that nothing
//! but a certificate of other labels ends it. A period is a day (UTC): shares are constant in it,
//! budgets and the count of skipped audits are its own; an alarm outlives it.
//!
//! **Promises.** No clock and no randomness: moments (seconds since 1970) and random numbers are handed
//! in. What is told once ([`Ledger::news`]) is told once. A ledger that is rendered and read goes on
//! where it stood; what was being graded in between counts as skipped. **Concurrency.** One lock,
//! held for a few additions and never over I/O; shared by the requests of every generation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::audit::{Audit, Counts, Skipped, Ticket};
use super::certify::Promise;
use super::{Alarm, Auditing, Calibration, Certificate, Grant, Uncertified, auditing};

const DAY: u64 = 24 * 60 * 60;
/// So many changes may be lost when the process ends without a word.
const MOST_UNSAVED: u32 = 16;
/// Answers of which feedback is awaited at once.
const MOST_AWAITED: usize = 4096;
/// The version of a ledger's form.
const VERSION: u32 = 1;

/// What is audited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// What tells the labels that certify from others, in hexadecimal digits.
    pub labels: String,
    /// What is promised of the answers kept.
    pub promise: Promise,
}

impl Subject {
    /// What an audit of this certificate's answers is about.
    ///
    /// # Errors
    /// One sentence, where a number of the calibration or of the certificate is unsound.
    pub fn of(grant: &Grant) -> Result<Subject, String> {
        let Certificate { kind, alpha, delta, .. } = grant.certificate;
        let labels = labels(&grant.calibration, &grant.certificate)?;
        Ok(Subject { labels, promise: Promise::check(kind, alpha, delta)? })
    }

    /// A name for its file, the same in every process.
    pub fn file_name(&self) -> String {
        let (risk, alpha, delta) = (self.promise.risk().name(), self.promise.alpha(), self.promise.delta());
        let promise = hex(format!("{risk} {alpha:?} {delta:?}").as_bytes());
        format!("{}{}.json", Subject::files_of(&self.labels), &promise[..16])
    }

    /// How the names of all files of these labels begin.
    pub fn files_of(labels: &str) -> String {
        format!("{}-", &labels[..labels.len().min(32)])
    }
}

/// What tells these labels from others: their own hash, where the file says it. Else what was certified with
/// them and by which attempt. No name, no date and no figure of the file counts, nor another certificate in it.
fn labels(calibration: &Calibration, certificate: &Certificate) -> Result<String, String> {
    let Calibration { basis, grader, score, inquiry, key, early, .. } = calibration;
    let model = calibration.model_sha256.to_ascii_lowercase();
    let text = match &calibration.labels {
        Some(labels) => serde_json::to_string(&(model, labels.to_ascii_lowercase())),
        None => serde_json::to_string(&(model, basis, grader, score, inquiry, key, early, certificate.attempt)),
    };
    text.map(|text| hex(text.as_bytes())).map_err(|error| error.to_string())
}

/// Why the answers of a slice are not certified though there is a certificate; told once each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The promise is broken.
    Alarmed,
    /// Too many audits got no grade.
    Unmonitored,
    /// Nothing stands against the certificate any more.
    Watching,
}

/// A kept answer, drawn or not.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "an answer that was drawn is graded or skipped, else the audit is blind to it"]
pub struct Draw {
    /// The probability with which it was drawn.
    pub propensity: f64,
    /// Where it was drawn.
    pub ticket: Option<Ticket>,
}

/// An answer of which feedback is awaited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Awaited {
    id: String,
    tenant: String,
    ticket: Ticket,
    until: u64,
}

/// What is kept over restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// What the calibration calls the traffic.
    slice: String,
    subject: Subject,
    /// What is measured, in words.
    measured: String,
    audit: Audit,
    /// Earlier periods.
    past: Counts,
    /// The period, in days since 1970.
    day: u64,
    alarmed_since: Option<u64>,
    spent_usd: f64,
    spent_today_usd: f64,
    /// Tickets that are being graded.
    open: u64,
    awaited: VecDeque<Awaited>,
}

#[derive(Debug)]
struct State {
    saved: Saved,
    alarm: Arc<Alarm>,
    unsaved: u32,
    told: News,
}

/// The ledger of one slice.
#[derive(Debug)]
pub struct Ledger {
    state: Mutex<State>,
}

/// How a slice's audit stands, for the operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditStatus {
    /// The slice.
    pub slice: String,
    /// What tells the labels of its certificate from others.
    pub labels: String,
    /// Which risk is bounded.
    pub risk: &'static str,
    /// By what.
    pub promised: f64,
    /// With which probability.
    pub confidence: f64,
    /// What is measured, by whom and how.
    pub measured: String,
    /// The rate that this is: `errors` or `disagreement`.
    pub rate: &'static str,
    /// The rate of what is measured above which the promise counts as broken.
    pub alarm_above: f64,
    /// `watching`, `alarmed` or `unmonitored`.
    pub state: &'static str,
    /// Since when there is an alarm.
    pub alarmed_since: Option<String>,
    /// The evidence against the promise: what 1 has become.
    pub wealth: f64,
    /// The most it has been.
    pub peak: f64,
    /// The peak at which the alarm goes off.
    pub alarm_at: f64,
    /// The share of kept answers that is drawn.
    pub share: f64,
    /// Drawn answers that are neither graded nor skipped yet.
    pub open: u64,
    /// Since the day began (UTC).
    pub today: Counts,
    /// Since the audit began.
    pub total: Counts,
    /// Dollars spent on audits since the audit began.
    pub spent_usd: f64,
    /// Of that, today.
    pub spent_today_usd: f64,
}

impl Ledger {
    /// A new ledger of what this certificate keeps; `alarm` is that of its labels.
    ///
    /// # Errors
    /// One sentence where the share or the bound watched makes no audit, or the certificate no [`Subject`].
    pub fn open(grant: &Grant, auditing: &Auditing, alarm: Arc<Alarm>, now: u64) -> Result<Ledger, String> {
        let subject = Subject::of(grant)?;
        let saved = Saved {
            version: VERSION,
            slice: grant.calibration.slice.clone(),
            measured: auditing.words(),
            audit: begin(&subject, auditing)?,
            subject,
            past: Counts::default(),
            day: now / DAY,
            alarmed_since: None,
            spent_usd: 0.0,
            spent_today_usd: 0.0,
            open: 0,
            awaited: VecDeque::new(),
        };
        Ok(Ledger::of(saved, alarm))
    }

    /// Reads a rendered ledger of these labels, whose alarm is raised where it was; what was being graded is
    /// lost.
    ///
    /// # Errors
    /// One sentence: what is wrong with the text. The alarm is not touched then.
    pub fn parse(text: &str, labels: &str, alarm: Arc<Alarm>) -> Result<Ledger, String> {
        let mut saved: Saved = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if saved.version != VERSION {
            return Err(format!("version {} is not known; known: {VERSION}", saved.version));
        }
        if saved.subject.labels != labels {
            return Err(format!("it is of other labels, those of slice \"{}\"", saved.slice));
        }
        let awaited = saved.awaited.len() as u64;
        saved.audit.lose(saved.open.saturating_sub(awaited));
        saved.open = awaited;
        // Where the moment is missing, the first there is stands for it.
        let since = saved.alarmed_since.or(saved.audit.is_alarmed().then_some(0));
        since.map(|since| alarm.raise(since));
        Ok(Ledger::of(saved, alarm))
    }

    fn of(saved: Saved, alarm: Arc<Alarm>) -> Ledger {
        Ledger { state: Mutex::new(State { saved, alarm, unsaved: 0, told: News::Watching }) }
    }

    /// The ledger to go on with under what a policy and a calibration say now: this one, or, where something else is
    /// measured or against another bound, a new one with its counts, since what was bet is void then.
    /// An alarm stays in any case.
    ///
    /// # Errors
    /// As of [`Ledger::open`]; nothing is changed then.
    pub fn adapted(self: &Arc<Self>, slice: &str, auditing: &Auditing) -> Result<Arc<Ledger>, String> {
        let mut state = self.state();
        let State { saved, alarm, .. } = &mut *state;
        let anew = begin(&saved.subject, auditing)?;
        let same = saved.measured == auditing.words() && saved.audit.promise() == anew.promise();
        saved.slice = slice.to_owned();
        if !same && alarm.since().is_none() {
            // What is graded or awaited now ends in the old one.
            let past = saved.past.and(saved.audit.period());
            let (measured, awaited) = (auditing.words(), VecDeque::new());
            let saved = Saved { audit: anew, measured, past, open: 0, awaited, ..saved.clone() };
            return Ok(Arc::new(Ledger::of(saved, Arc::clone(alarm))));
        }
        if saved.audit.propensity() != auditing.share {
            saved.close_period();
            saved.audit.begin_period(auditing.share)?;
        }
        Ok(Arc::clone(self))
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        self.state().saved.subject.clone()
    }

    /// Begins a new period where the day is another, and gives up feedback that is overdue.
    pub fn refresh(&self, now: u64) {
        let mut state = self.state();
        while state.saved.awaited.front().is_some_and(|first| first.until <= now) {
            if let Some(Awaited { ticket, .. }) = state.saved.awaited.pop_front() {
                state.settle(ticket, Err(Skipped::Silent), now);
            }
        }
        if now / DAY > state.saved.day {
            let propensity = state.saved.audit.propensity();
            state.saved.close_period();
            // It was checked when it was set.
            let _ = state.saved.audit.begin_period(propensity);
            (state.saved.day, state.saved.spent_today_usd) = (now / DAY, 0.0);
            state.unsaved = MOST_UNSAVED;
        }
    }

    /// Why answers are not kept under the certificate now; `None`: they may be.
    pub fn objection(&self) -> Option<Uncertified> {
        match self.state().standing() {
            News::Alarmed => Some(Uncertified::Alarmed),
            News::Unmonitored => Some(Uncertified::Unmonitored),
            News::Watching => None,
        }
    }

    /// Notes an answer kept under the certificate, and draws it when `uniform`, a fresh random number
    /// in \[0, 1), says so.
    pub fn keep(&self, uniform: f64) -> Draw {
        let mut state = self.state();
        let ticket = state.saved.audit.keep(uniform);
        state.saved.open += u64::from(ticket.is_some());
        state.unsaved += u32::from(ticket.is_some());
        Draw { propensity: state.saved.audit.propensity(), ticket }
    }

    /// Notes an answer that the certified gate refused.
    pub fn escalate(&self) {
        self.state().saved.audit.escalate();
    }

    /// Takes so many dollars of the day's budget; whether they were there.
    pub fn reserve(&self, usd: f64, usd_per_day: f64) -> bool {
        let mut state = self.state();
        let fits = state.saved.spent_today_usd + usd <= usd_per_day;
        if fits {
            state.saved.spent_today_usd += usd;
        }
        fits
    }

    /// Notes what was spent in the place of what was reserved.
    pub fn spend(&self, reserved: f64, usd: f64) {
        let mut state = self.state();
        state.saved.spent_today_usd = (state.saved.spent_today_usd - reserved + usd).max(0.0);
        state.saved.spent_usd += usd;
    }

    /// Notes the loss of a drawn answer, or why there is none.
    pub fn settle(&self, ticket: Ticket, outcome: Result<f64, Skipped>, now: u64) {
        self.state().settle(ticket, outcome, now);
    }

    /// Awaits feedback on the answer of this id until then; `false`: it cannot be, and was skipped.
    pub fn solicit(&self, (id, tenant): (&str, &str), ticket: Ticket, now: u64, within: Duration) -> bool {
        let mut state = self.state();
        // Of two answers of one id nobody could say which is meant.
        let fits = state.saved.awaited.len() < MOST_AWAITED && state.saved.awaited.iter().all(|one| one.id != id);
        if fits {
            let until = now.saturating_add(within.as_secs());
            state.saved.awaited.push_back(Awaited { id: id.to_owned(), tenant: tenant.to_owned(), ticket, until });
        } else {
            state.settle(ticket, Err(Skipped::Ungradable), now);
        }
        fits
    }

    /// Takes this tenant's feedback on an answer, where it was asked for and comes in time: the
    /// probability with which the answer was drawn. `None`: it is volunteered, and changes nothing.
    pub fn hear(&self, (id, tenant): (&str, &str), loss: f64, now: u64) -> Option<f64> {
        self.refresh(now);
        let mut state = self.state();
        let place = state.saved.awaited.iter().position(|one| one.id == id && one.tenant == tenant)?;
        let Awaited { ticket, .. } = state.saved.awaited.remove(place)?;
        state.settle(ticket, Ok(loss), now);
        Some(ticket.propensity())
    }

    /// What has become of it since it was last told; each change once.
    pub fn news(&self) -> Option<News> {
        let mut state = self.state();
        let now = state.standing();
        (std::mem::replace(&mut state.told, now) != now).then_some(now)
    }

    /// Whether enough has changed to be worth a file; once each time.
    pub fn is_due(&self) -> bool {
        let unsaved = &mut self.state().unsaved;
        let due = *unsaved >= MOST_UNSAVED;
        if due {
            *unsaved = 0;
        }
        due
    }

    /// The text of its file.
    ///
    /// # Errors
    /// One sentence, where an amount is not finite.
    pub fn render(&self) -> Result<String, String> {
        let mut state = self.state();
        state.saved.alarmed_since = state.alarm.since();
        let text = serde_json::to_string_pretty(&state.saved).map_err(|error| error.to_string())?;
        Ok(text + "\n")
    }

    /// How it stands.
    pub fn status(&self) -> AuditStatus {
        let state = self.state();
        let Saved { subject, audit, .. } = &state.saved;
        let watched = audit.promise();
        let date = |seconds| humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        AuditStatus {
            slice: state.saved.slice.clone(),
            labels: subject.labels.clone(),
            risk: subject.promise.risk().name(),
            promised: subject.promise.alpha(),
            confidence: 1.0 - subject.promise.delta(),
            measured: state.saved.measured.clone(),
            rate: auditing::rate(&state.saved.measured),
            alarm_above: watched.alpha(),
            state: state.standing().name(),
            alarmed_since: state.alarm.since().map(|seconds| date(seconds).to_string()),
            wealth: audit.wealth(),
            peak: audit.peak(),
            alarm_at: 1.0 / watched.delta(),
            share: audit.propensity(),
            open: state.saved.open,
            today: audit.period(),
            total: state.saved.past.and(audit.period()),
            spent_usd: state.saved.spent_usd,
            spent_today_usd: state.saved.spent_today_usd,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, ticket: Ticket, outcome: Result<f64, Skipped>, now: u64) {
        self.saved.open = self.saved.open.saturating_sub(1);
        self.unsaved += 1;
        match outcome {
            Ok(loss) => self.saved.audit.grade(ticket, loss),
            Err(why) => self.saved.audit.skip(ticket, why),
        }
        if self.saved.audit.is_alarmed() && self.alarm.raise(now) {
            self.unsaved = MOST_UNSAVED;
        }
    }

    fn standing(&self) -> News {
        match (self.alarm.since().is_some(), self.saved.audit.is_unmonitored()) {
            (true, _) => News::Alarmed,
            (false, true) => News::Unmonitored,
            (false, false) => News::Watching,
        }
    }
}

impl Saved {
    fn close_period(&mut self) {
        self.past = self.past.and(self.audit.period());
    }
}

impl News {
    /// Its name for the operator.
    pub fn name(self) -> &'static str {
        match self {
            News::Alarmed => "alarmed",
            News::Unmonitored => "unmonitored",
            News::Watching => "watching",
        }
    }
}

fn begin(subject: &Subject, auditing: &Auditing) -> Result<Audit, String> {
    Audit::check(auditing.watched(subject.promise)?, auditing.share, auditing.share)
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
