//! The `audit` of a promise: from its keys to how kept answers are audited.
//!
//! Promises: what is measured and what is promised are the same rate, or the file says how far they
//! may lie apart; a grader that cannot be asked, or would grade itself, is a problem with its line.
//! Called by `accept`.

use std::time::Duration;

use super::compile::Compiler;
use super::form::{Entry, Section, suggest};
use crate::confidence::{Auditing, Calibration, Compare, Form, Grader, Risk};
use crate::request::ModelId;

const USUAL_SHARE: f64 = 0.05;
const USUAL_USD_PER_DAY: f64 = 1.0;
const USUAL_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The grader that is whoever got the answer.
const FEEDBACK: &str = "feedback";
const KEYS: [&str; 6] = ["share", "by", "compare", "usd_per_day", "within", "allowance"];

impl<'s> Compiler<'s, '_> {
    /// How kept answers are audited, where the promise says so: that errors, or what else the
    /// calibration is about, are at most `alpha`, of answers made by one of `models` but the last.
    pub(super) fn audit(
        &mut self,
        accept: &Section<'_, 's>,
        models: &[ModelId],
        (alpha, risk): (f64, Risk),
        calibration: Option<&Calibration>,
    ) -> Option<Option<Auditing>> {
        let Some(entry) = accept.table.get("audit") else {
            return Some(None);
        };
        let audit = self.form.table(&accept.title, "audit", entry)?;
        self.form.check_keys(&audit, &KEYS);
        let share = self.amount(&audit, "share", |share| share > 0.0 && share <= 1.0, "above 0 and at most 1");
        let allowance = self.amount(&audit, "allowance", |more| (0.0..1.0).contains(&more), "at least 0 and below 1");
        let by = audit.table.get("by");
        let grader = match by.and_then(|entry| entry.get_ref().as_str()) {
            Some(FEEDBACK) => self.feedback(&audit),
            _ => self.grading_model(&audit, by, models),
        };
        let (share, allowance, grader) = (share?.unwrap_or(USUAL_SHARE), allowance?, grader?);
        if let Some(calibration) = calibration {
            self.check_measure(&audit, calibration, &grader, (allowance, risk))?;
        }
        let audited = Auditing::new(share, grader, allowance.unwrap_or(0.0));
        if alpha + audited.allowance >= 1.0 {
            let message = format!("{}: allowance: with it every rate is allowed; want a smaller one", audit.title);
            self.form.problem(audit.span, message);
            return None;
        }
        Some(Some(audited))
    }

    fn feedback(&mut self, audit: &Section<'_, 's>) -> Option<Grader> {
        for key in ["compare", "usd_per_day"] {
            if let Some(entry) = audit.table.get(key) {
                let message = format!("{}: \"{key}\" means nothing with by = \"{FEEDBACK}\"", audit.title);
                self.form.problem(entry.span(), message);
            }
        }
        let within = match audit.table.get("within") {
            None => USUAL_WAIT,
            Some(entry) => {
                let text = self.form.text(&audit.title, "within", entry)?;
                match humantime::parse_duration(text) {
                    Ok(within) if within >= Duration::from_secs(1) => within,
                    _ => {
                        let wanted = "a time of 1 s or more, such as \"24h\"";
                        return self.form.wrong_type(&audit.title, "within", wanted, entry);
                    }
                }
            }
        };
        Some(Grader::Feedback { within })
    }

    fn grading_model(&mut self, audit: &Section<'_, 's>, by: Option<&Entry<'s>>, models: &[ModelId]) -> Option<Grader> {
        let (last, gated) = models.split_last()?;
        if let Some(entry) = audit.table.get("within") {
            let message = format!("{}: \"within\" means nothing without by = \"{FEEDBACK}\"", audit.title);
            self.form.problem(entry.span(), message);
        }
        let model = match by {
            Some(entry) => self.model(&audit.title, "by", entry),
            None => Some(last.clone()),
        };
        if let Some(own) = model.as_ref().filter(|model| gated.contains(model)) {
            let message = format!("{}: {own} would grade itself; name another model in \"by\"", audit.title);
            self.form.problem(by.map_or(audit.span.clone(), |entry| entry.span()), message);
        }
        let compare = match audit.table.get("compare") {
            None => Some(Compare::Form(Form::Auto)),
            Some(entry) => self.compare(&audit.title, entry),
        };
        let usd = self.amount(audit, "usd_per_day", |usd| usd >= 0.0, "0 or more");
        let (compare, usd_per_day) = (compare?, usd?.unwrap_or(USUAL_USD_PER_DAY));
        Some(Grader::Model { model: model?, compare, usd_per_day })
    }

    fn compare(&mut self, title: &str, entry: &Entry<'s>) -> Option<Compare> {
        let name = self.form.text(title, "compare", entry)?;
        if name == Compare::JUDGE {
            return Some(Compare::Judge);
        }
        let form = Form::parse(name);
        if form.is_none() {
            let known = Form::ALL.into_iter().map(Form::name).chain([Compare::JUDGE]);
            let hint = suggest(name, known);
            self.form.problem(entry.span(), format!("{title}: unknown way to compare \"{name}\"{hint}"));
        }
        form.map(Compare::Form)
    }

    /// A number that `fits`, where it is given.
    fn amount(
        &mut self,
        section: &Section<'_, 's>,
        key: &str,
        fits: impl FnOnce(f64) -> bool,
        wanted: &str,
    ) -> Option<Option<f64>> {
        let Some(entry) = section.table.get(key) else {
            return Some(None);
        };
        let value = self.form.number(&section.title, key, entry)?;
        if fits(value) { Some(Some(value)) } else { self.form.wrong_type(&section.title, key, wanted, entry) }
    }

    /// Errors are no disagreement, and the disagreement with one is not that with another.
    fn check_measure(
        &mut self,
        audit: &Section<'_, 's>,
        calibration: &Calibration,
        grader: &Grader,
        (allowance, risk): (Option<f64>, Risk),
    ) -> Option<()> {
        let rate = |with: Option<&str>| with.map_or("errors".to_owned(), |with| format!("disagreement with {with}"));
        if risk == Risk::Regret && allowance.is_none() {
            let message = format!(
                "{}: regret is promised, which nobody who grades one answer measures; say with allowance = N how far the \
                 rate measured may lie above the promised one while the promise holds",
                audit.title
            );
            self.form.problem(audit.span.clone(), message);
            return None;
        }
        let (promised, measured) = (calibration.grader.as_deref(), grader.measures());
        if promised == measured || allowance.is_some() {
            return Some(());
        }
        let way_out = match promised {
            None => format!("by = \"{FEEDBACK}\""),
            Some(with) => format!("by = \"{with}\""),
        };
        let message = format!(
            "{}: {} is promised, but {} would be measured; say with allowance = N how far that rate may lie above the \
             promised one while the promise holds (the share of kept answers on which who grades is wrong itself), or {way_out}",
            audit.title,
            rate(promised),
            rate(measured),
        );
        self.form.problem(audit.span.clone(), message);
        None
    }
}
