//! The `cascade` of a rule: its stages, and what each is gated by.
//!
//! A stage is a model's name, or a table with a gate of its own; what a stage does not say, the rule
//! says for it. Promises: every stage but the last has a gate and is local, the last has none, none
//! stands there twice. Called by `compile`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compile::Compiler;
use super::form::{Entry, Section};
use crate::confidence::Accept;
use crate::confidence::gap::Skip;
use crate::plan::{Gate, HoldBack, OnFailure, Plan, Stage};
use crate::request::ModelId;

const OWN_KEYS: [&str; 3] = ["accept", "hold_back", "skip_local"];

/// A stage as it stands in the file.
struct Draft<'t, 's> {
    model: ModelId,
    /// What it says for itself.
    own: Option<Section<'t, 's>>,
}

impl<'t, 's> Draft<'t, 's> {
    fn own(&self, key: &str) -> Option<(&Section<'t, 's>, &'t Entry<'s>)> {
        let own = self.own.as_ref()?;
        Some((own, own.table.get(key)?))
    }
}

/// What the rule says for the stages that say nothing themselves.
struct Usual {
    last: Option<ModelId>,
    accept: Option<Arc<Accept>>,
    hold_back: Option<HoldBack>,
    skip: Option<Skip>,
}

impl<'s> Compiler<'s, '_> {
    pub(super) fn cascade(&mut self, then: &Section<'_, 's>) -> Option<Plan> {
        let entry = self.form.required(then, "cascade")?;
        let drafts = self.drafts(then, entry);
        self.check_stages(then, entry, drafts.as_deref().unwrap_or_default());
        let gated = drafts.as_deref().and_then(|drafts| drafts.split_last()).map_or(&[][..], |(_, gated)| gated);
        let usual = self.usual(then, drafts.as_deref());
        let on_failure = match then.table.get("on_failure") {
            Some(entry) => self.on_failure(&then.title, entry),
            None => Some(OnFailure::default()),
        };
        let pin = match then.table.get("pin") {
            Some(entry) => self.pin(&then.title, entry).map(Some),
            None => Some(None),
        };
        let usual = usual?;
        let mut stages: Vec<Stage> = gated
            .iter()
            .map(|draft| self.stage(draft, &usual))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()?;
        stages.push(Stage { model: usual.last?, gate: None, skip: None });
        self.check_prices(then, &stages);
        Some(Plan::Cascade { stages, on_failure: on_failure?, pin: pin? })
    }

    /// Every stage, all known, none twice.
    fn drafts<'t>(&mut self, then: &Section<'t, 's>, entry: &'t Entry<'s>) -> Option<Vec<Draft<'t, 's>>> {
        let title = &then.title;
        let entries: Vec<&Entry<'s>> = match (entry.get_ref().as_array(), entry.get_ref().as_str()) {
            (Some(array), _) if !array.is_empty() => array.iter().collect(),
            (None, Some(_)) => vec![entry],
            _ => return self.form.wrong_type(title, "cascade", "an array of models' names or stages", entry),
        };
        let mut seen = BTreeSet::new();
        let mut drafts = Vec::new();
        for (place, entry) in entries.into_iter().enumerate() {
            let draft = self.draft(then, place, entry);
            if let Some(Draft { model, .. }) = &draft
                && !seen.insert(model.clone())
            {
                self.form.problem(entry.span(), format!("{title}: model \"{model}\" stands there twice"));
            }
            drafts.push(draft);
        }
        drafts.into_iter().collect()
    }

    fn draft<'t>(&mut self, then: &Section<'t, 's>, place: usize, entry: &'t Entry<'s>) -> Option<Draft<'t, 's>> {
        let Some(table) = entry.get_ref().as_table() else {
            let model = self.model(&then.title, "cascade", entry)?;
            return Some(Draft { model, own: None });
        };
        let title = format!("{}: stage {}", then.title, place + 1);
        let own = Section { title, table, span: entry.span() };
        self.form.check_keys(&own, &["model", "accept", "hold_back", "skip_local"]);
        let name = self.form.required(&own, "model")?;
        let model = self.model(&own.title, "model", name)?;
        Some(Draft { model, own: Some(own) })
    }

    /// A gate reads the log-probabilities of an answer made on the box; an upstream gives none.
    fn check_stages(&mut self, then: &Section<'_, 's>, entry: &Entry<'s>, drafts: &[Draft<'_, 's>]) {
        let title = &then.title;
        let Some((last, gated)) = drafts.split_last() else {
            return;
        };
        if gated.is_empty() {
            let message = format!("{title}: a cascade needs at least 2 models; for one, use serve");
            self.form.problem(entry.span(), message);
        }
        for Draft { model, .. } in gated.iter().filter(|draft| !draft.model.is_local()) {
            let message = format!(
                "{title}: \"{model}\" cannot be gated: an upstream's answer has no confidence; only the last stage may be an upstream"
            );
            self.form.problem(entry.span(), message);
        }
        if let Some((own, entry)) = OWN_KEYS.into_iter().find_map(|key| last.own(key)) {
            let message = format!("{}: the last stage has no gate: nobody is asked after it", own.title);
            self.form.problem(entry.span(), message);
        }
    }

    /// What stages go by that do not say otherwise; without drafts the stages could not be read.
    fn usual(&mut self, then: &Section<'_, 's>, drafts: Option<&[Draft<'_, 's>]>) -> Option<Usual> {
        let (last, gated) = drafts.and_then(<[_]>::split_last).unzip();
        let (last, gated) = (last.map(|last| last.model.clone()), gated.unwrap_or_default());
        let without = |key: &'static str| {
            gated.iter().filter(move |draft| draft.own(key).is_none()).map(|draft| draft.model.clone()).collect()
        };
        let hold_back = match then.table.get("hold_back") {
            Some(entry) => self.hold_back(&then.title, entry),
            None => Some(HoldBack::All),
        };
        let (to_accept, to_skip): (Vec<ModelId>, Vec<ModelId>) = (without("accept"), without("skip_local"));
        let accept = match then.table.get("accept") {
            None if drafts.is_none() || to_accept.is_empty() && !gated.is_empty() => Some(None),
            Some(entry) if to_accept.is_empty() && !gated.is_empty() => {
                let message = format!("{}: every stage has an accept of its own; leave this one out", then.title);
                self.form.problem(entry.span(), message);
                None
            }
            _ => {
                let accept = self.form.required(then, "accept");
                let accept = accept.and_then(|entry| self.form.table(&then.title, "accept", entry));
                let accept = accept.and_then(|accept| {
                    self.accept(&accept, &[to_accept, last.iter().cloned().collect()].concat(), hold_back)
                });
                accept.map(|accept| Some(Arc::new(accept)))
            }
        };
        let skip = match then.table.get("skip_local") {
            Some(entry) => self.skip(&then.title, entry, &to_skip).map(Some),
            None => Some(None),
        };
        Some(Usual { last, accept: accept?, hold_back: Some(hold_back?), skip: skip? })
    }

    /// A gated stage: what it says itself, else what is usual.
    fn stage(&mut self, draft: &Draft<'_, 's>, usual: &Usual) -> Option<Stage> {
        let alone = std::slice::from_ref(&draft.model);
        let models: Vec<ModelId> = alone.iter().chain(&usual.last).cloned().collect();
        let hold_back = match draft.own("hold_back") {
            Some((own, entry)) => self.hold_back(&own.title, entry),
            None => usual.hold_back,
        };
        let accept = match draft.own("accept") {
            Some((own, entry)) => {
                let accept = self.form.table(&own.title, "accept", entry);
                accept.and_then(|accept| self.accept(&accept, &models, hold_back)).map(Arc::new)
            }
            None => usual.accept.clone(),
        };
        self.check_hold_back(draft, accept.as_deref());
        let skip = match draft.own("skip_local") {
            Some((own, entry)) => self.skip(&own.title, entry, alone).map(Some),
            None => Some(usual.skip.clone()),
        };
        let gate = Gate { accept: accept?, hold_back: hold_back? };
        Some(Stage { model: draft.model.clone(), gate: Some(gate), skip: skip? })
    }

    /// What is known of the whole answer only cannot be asked after a part of it.
    fn check_hold_back(&mut self, draft: &Draft<'_, 's>, accept: Option<&Accept>) {
        let (Some((own, entry)), Some(accept)) = (draft.own("hold_back"), accept) else { return };
        let needs_all = match accept {
            Accept::Value(_) => true,
            Accept::Threshold(judge) => judge.measure.is_of_the_whole(),
            Accept::Promise { granted, .. } => granted.as_ref().is_ok_and(|it| it.judge.measure.is_of_the_whole()),
        };
        if needs_all && entry.get_ref().as_str() != Some("all") {
            let message =
                format!("{}: hold_back: what this stage goes by is known of the whole answer only", own.title);
            self.form.problem(entry.span(), message);
        }
    }

    /// What is asked for money by value must have a price.
    fn check_prices(&mut self, then: &Section<'_, 's>, stages: &[Stage]) {
        for pair in stages.windows(2) {
            let by_value = pair[0].gate.as_ref().is_some_and(|gate| matches!(&*gate.accept, Accept::Value(_)));
            if by_value && self.vocabulary.names.unpriced.contains(&pair[1].model) {
                let message = format!(
                    "{}: accept: \"value\" weighs the price of {}, which has none; give it a [[price]]",
                    then.title, pair[1].model
                );
                self.form.problem(then.span.clone(), message);
            }
        }
    }

    fn hold_back(&mut self, title: &str, entry: &Entry<'s>) -> Option<HoldBack> {
        if entry.get_ref().as_str() == Some("all") {
            return Some(HoldBack::All);
        }
        let wanted = "a number of tokens (at least 1) or \"all\"";
        let digits = entry.get_ref().as_integer().map(|integer| integer.as_str().replace('_', ""));
        match digits.and_then(|digits| digits.parse::<usize>().ok()) {
            Some(tokens) if tokens > 0 => Some(HoldBack::Tokens(tokens)),
            _ => self.form.wrong_type(title, "hold_back", wanted, entry),
        }
    }

    fn on_failure(&mut self, title: &str, entry: &Entry<'s>) -> Option<OnFailure> {
        match entry.get_ref().as_str() {
            Some("local") => Some(OnFailure::Local),
            Some("error") => Some(OnFailure::Error),
            _ => self.form.wrong_type(title, "on_failure", "\"local\" or \"error\"", entry),
        }
    }
}
