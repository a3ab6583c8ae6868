//! What a cascade says of value: `accept = { value = … }`, `skip_local`, and `pin`.
//!
//! Hides how a predictor is chosen from and checked. Promises: one policy has one budget; a rule that
//! decides by value promises nothing, and says so where a promise is asked for too; a predictor made
//! for another model file is a problem with its line. Called by `accept` and `stages`.

use std::sync::Arc;
use std::time::Duration;

use super::compile::Compiler;
use super::form::{Entry, Section};
use crate::confidence::Accept;
use crate::confidence::gap::{Pacing, Per, Predictor, Skip, Value};
use crate::plan::{HoldBack, Pin, PinTo};
use crate::request::ModelId;

/// The header that names a conversation where a policy says nothing else.
const USUAL_HEADER: &str = "x-session-id";
/// How long idle time saves a rate up where a policy says nothing else.
const USUAL_CREDIT: Duration = Duration::from_secs(3600);
const USUAL_TIME_TO_LIVE: Duration = Duration::from_secs(3600);

impl<'s> Compiler<'s, '_> {
    /// `value`: whether an escalation is worth its price.
    pub(super) fn value(
        &mut self,
        accept: &Section<'_, 's>,
        gated: &[ModelId],
        hold_back: Option<HoldBack>,
    ) -> Option<Accept> {
        if let Some(promise) = ["max_error", "max_disagreement"].into_iter().find(|key| accept.table.contains_key(*key))
        {
            let message = format!(
                "{}: \"{promise}\" beside \"value\": who is kept by value depends on what was spent before, which no \
                 certificate speaks of; ask for one of the two",
                accept.title
            );
            self.form.problem(accept.span.clone(), message);
            return None;
        }
        self.form.check_keys(accept, &["value", "usd_per_hour", "per", "credit"]);
        let predictor = self.predictor(accept, "value", gated);
        let pacing = self.pacing(accept);
        if matches!(hold_back, Some(HoldBack::Tokens(_))) {
            let message = format!("{}: \"value\" judges whole answers; leave hold_back out, or \"all\"", accept.title);
            self.form.problem(accept.span.clone(), message);
        }
        let (entry, predictor) = predictor?;
        if !predictor.reads_answers() {
            let message = format!(
                "{}: value: it was made of prompts alone and can judge no answer; make it with `weir gap`",
                accept.title
            );
            self.form.problem(entry.span(), message);
            return None;
        }
        Some(Accept::Value(Value { predictor, pacing: pacing? }))
    }

    /// The policy's budget; every rule that names one must name the same.
    fn pacing(&mut self, accept: &Section<'_, 's>) -> Option<Pacing> {
        let entry = self.form.required(accept, "usd_per_hour");
        let rate = entry.and_then(|entry| match self.form.number(&accept.title, "usd_per_hour", entry)? {
            rate if rate > 0.0 => Some(rate),
            _ => self.form.wrong_type(&accept.title, "usd_per_hour", "above 0", entry),
        });
        let per = match accept.table.get("per").map(|entry| (entry, entry.get_ref().as_str())) {
            None | Some((_, Some("all"))) => Some(Per::All),
            Some((_, Some("tenant"))) => Some(Per::Tenant),
            Some((entry, _)) => self.form.wrong_type(&accept.title, "per", "\"tenant\" or \"all\"", entry),
        };
        let credit = self.duration(accept, "credit", USUAL_CREDIT);
        let pacing = Pacing { policy: Arc::clone(&self.policy), usd_per_hour: rate?, per: per?, credit: credit? };
        let first = self.pacing.get_or_insert_with(|| pacing.clone());
        if *first != pacing {
            let message = format!(
                "{}: a policy has one budget, and above it is {} usd_per_hour per {}; name the same and the same credit, or use two policies",
                accept.title,
                first.usd_per_hour,
                if first.per == Per::All { "all" } else { "tenant" }
            );
            self.form.problem(accept.span.clone(), message);
        }
        Some(pacing)
    }

    /// `skip_local`: when the stage of these models is passed over.
    pub(super) fn skip(&mut self, title: &str, entry: &Entry<'s>, gated: &[ModelId]) -> Option<Skip> {
        let skip = self.form.table(title, "skip_local", entry)?;
        self.form.check_keys(&skip, &["scorer", "above"]);
        let predictor = self.predictor(&skip, "scorer", gated);
        let above = self.form.required(&skip, "above");
        let above = above.and_then(|entry| self.form.number(&skip.title, "above", entry));
        Some(Skip { predictor: predictor?.1, above: above? })
    }

    /// The predictor that this key names; it must be for the file of the one model gated.
    fn predictor<'t>(
        &mut self,
        section: &Section<'t, 's>,
        key: &str,
        gated: &[ModelId],
    ) -> Option<(&'t Entry<'s>, Arc<Predictor>)> {
        let entry = self.form.required(section, key)?;
        let file = self.form.text(&section.title, key, entry)?;
        let predictor = match self.vocabulary.names.predictors.get(file) {
            Some(Ok(predictor)) => Ok(Arc::clone(predictor)),
            Some(Err(why)) => Err(why.clone()),
            None => Err("it has not been read".to_owned()),
        };
        let checked = predictor.and_then(|predictor| {
            self.check_pair(&predictor, gated)?;
            Ok(predictor)
        });
        match checked {
            Ok(predictor) => Some((entry, predictor)),
            Err(why) => {
                self.form.problem(entry.span(), format!("{}: {key} \"{file}\": {why}", section.title));
                None
            }
        }
    }

    fn check_pair(&mut self, predictor: &Predictor, gated: &[ModelId]) -> Result<(), String> {
        let made_for = &predictor.about().local;
        if gated.len() > 1 {
            let all = gated.iter().map(ModelId::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!("speaks of {made_for} alone, but the cascade gates {all}; name it in one stage"));
        }
        let names = self.vocabulary.names;
        let runs = gated.first().and_then(|model| names.files.get_key_value(model));
        match runs.filter(|(_, file)| !predictor.is_for(file)) {
            Some((model, _)) if self.lapsed(model, "predictor of gaps") => Ok(()),
            Some((model, _)) => {
                Err(format!("was made for another model file, that of {made_for}; make one for the file of {model}"))
            }
            None => Ok(()),
        }
    }

    /// `pin`: whether a conversation stays with the stage that answered it.
    pub(super) fn pin(&mut self, title: &str, entry: &Entry<'s>) -> Option<Pin> {
        let usual = |to| Pin { to, header: USUAL_HEADER.into(), time_to_live: USUAL_TIME_TO_LIVE };
        if entry.get_ref().as_str().is_some() {
            return self.pin_to(title, "pin", entry).map(usual);
        }
        let pin = self.form.table(title, "pin", entry)?;
        self.form.check_keys(&pin, &["to", "header", "time_to_live"]);
        let to = match pin.table.get("to") {
            Some(entry) => self.pin_to(&pin.title, "to", entry),
            None => Some(PinTo::Upstream),
        };
        let header = match pin.table.get("header") {
            Some(entry) => self.session_header(&pin.title, entry),
            None => Some(USUAL_HEADER.into()),
        };
        let time_to_live = self.duration(&pin, "time_to_live", USUAL_TIME_TO_LIVE);
        Some(Pin { to: to?, header: header?, time_to_live: time_to_live? })
    }

    /// A time such as "1h".
    fn duration(&mut self, section: &Section<'_, 's>, key: &str, usual: Duration) -> Option<Duration> {
        let Some(entry) = section.table.get(key) else {
            return Some(usual);
        };
        let text = self.form.text(&section.title, key, entry)?;
        let parsed = humantime::parse_duration(text).ok();
        parsed.or_else(|| self.form.wrong_type(&section.title, key, "a time such as \"1h\"", entry))
    }

    fn pin_to(&mut self, title: &str, key: &str, entry: &Entry<'s>) -> Option<PinTo> {
        match entry.get_ref().as_str() {
            Some("upstream") => Some(PinTo::Upstream),
            Some("tier") => Some(PinTo::Tier),
            _ => self.form.wrong_type(title, key, "\"upstream\" or \"tier\"", entry),
        }
    }

    fn session_header(&mut self, title: &str, entry: &Entry<'s>) -> Option<Arc<str>> {
        let name = self.form.text(title, "header", entry)?.to_ascii_lowercase();
        let names = self.vocabulary.names;
        if !names.headers.contains(&name) && !names.any {
            let message = format!("{title}: header \"{name}\" is not named in the configuration (policy_headers)");
            self.form.problem(entry.span(), message);
            return None;
        }
        Some(name.into())
    }
}
