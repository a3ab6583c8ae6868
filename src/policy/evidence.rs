//! Scores that are asked for: `p_true`, `agreement` and `second_opinion` in a policy's `accept`.
//!
//! Hides their keys (`samples`, `temperature`, `second`, `compare`). Promises: what cannot be asked
//! for, or not of a whole answer, is a problem with its line; what is measured to be worth little is
//! a note. Called by `accept`.

use std::sync::Arc;

use super::compile::Compiler;
use super::form::{Section, suggest};
use crate::confidence::{Accept, Calibration, Feature, Form, Inquiry, Judge, Measure, Second, Source};
use crate::plan::HoldBack;
use crate::request::ModelId;

/// Below so many parameters a model does not know whether it is right: its `p_true` was measured to
/// rank answers no better than chance.
const KNOWS_ITSELF: u64 = 3_000_000_000;
const KEYS: [&str; 6] = ["score", "at_least", "samples", "temperature", "second", "compare"];

impl<'s> Compiler<'s, '_> {
    /// The feature, where the score named is one that is asked for.
    pub(super) fn asked_score(&self, accept: &Section<'_, 's>) -> Option<Feature> {
        let name = accept.table.get("score")?.get_ref().as_str()?;
        let feature = Feature::parse(name).filter(|feature| feature.source() == Source::Asked)?;
        let opinion = feature == Feature::Agreement
            && accept.table.contains_key("second")
            && !accept.table.contains_key("samples");
        Some(if opinion { Feature::SecondOpinion } else { feature })
    }

    /// A gate on such a score.
    pub(super) fn asked_for(
        &mut self,
        feature: Feature,
        accept: &Section<'_, 's>,
        gated: &[ModelId],
        hold_back: Option<HoldBack>,
    ) -> Option<Accept> {
        self.form.check_keys(accept, &KEYS);
        let inquiry = self.inquiry(accept);
        let threshold = self.form.required(accept, "at_least");
        let threshold = threshold.and_then(|entry| self.threshold(accept, entry, Some(1.0)));
        let inquiry = inquiry?;
        if let Err(why) = inquiry.check(&[feature]) {
            self.form.problem(accept.span.clone(), format!("{}: {why}", accept.title));
            return None;
        }
        let measure = Measure::Asked(feature, Arc::new(inquiry));
        self.check_whole(&measure, accept, gated, hold_back)?;
        Some(Accept::Threshold(Judge { measure, at_least: threshold? }))
    }

    /// What reads more than tokens is known of whole answers only.
    pub(super) fn check_whole(
        &mut self,
        measure: &Measure,
        accept: &Section<'_, 's>,
        gated: &[ModelId],
        hold_back: Option<HoldBack>,
    ) -> Option<()> {
        if measure.is_of_the_whole() && matches!(hold_back, Some(HoldBack::Tokens(_))) {
            let message = format!(
                "{}: {measure} is known of a whole answer only; write hold_back = \"all\", or leave it out",
                accept.title
            );
            self.form.problem(accept.span.clone(), message);
            return None;
        }
        if measure.features().contains(&Feature::PTrue) {
            self.note_size(accept, gated);
        }
        Some(())
    }

    /// The same for the score of a calibration, whose second model must be here and its own.
    pub(super) fn check_evidence(
        &mut self,
        calibration: &Arc<Calibration>,
        accept: &Section<'_, 's>,
        gated: &[ModelId],
        hold_back: Option<HoldBack>,
    ) -> Option<()> {
        let measure = Measure::Calibrated(Arc::clone(calibration));
        self.check_whole(&measure, accept, gated, hold_back)?;
        let Some(second) = calibration.inquiry.as_ref().and_then(|inquiry| inquiry.second.as_ref()) else {
            return Some(());
        };
        let model = ModelId::new(second.model.as_str());
        let names = self.vocabulary.names;
        let runs = names.files.get(&model);
        let other = second.model_sha256.as_ref().zip(runs).is_some_and(|(made, runs)| !made.eq_ignore_ascii_case(runs));
        let why = match () {
            () if !names.models.contains(&model) && !names.any => "which is no model here",
            () if other && !self.lapsed(&model, &calibration.slice) => {
                "but with another file than runs here; calibrate anew"
            }
            () => return Some(()),
        };
        let message = format!("{}: the calibration asks {model} for a second opinion, {why}", accept.title);
        self.form.problem(accept.span.clone(), message);
        None
    }

    fn note_size(&mut self, accept: &Section<'_, 's>, gated: &[ModelId]) {
        for model in gated {
            let size = self.vocabulary.names.parameters.get(model).copied();
            if let Some(size) = size.filter(|size| *size < KNOWS_ITSELF) {
                let message = format!(
                    "{}: p_true of {model} tells little: it has {:.1} billion parameters, and below 3 models hardly \
                     know whether they are right; measure it, or use agreement",
                    accept.title,
                    size as f64 / 1e9
                );
                self.form.note(accept.span.clone(), message);
            }
        }
    }

    fn inquiry(&mut self, accept: &Section<'_, 's>) -> Option<Inquiry> {
        let title = &accept.title;
        let usual = Inquiry::default();
        let samples = match accept.table.get("samples") {
            Some(entry) => self.form.whole(title, "samples", entry).map(|samples| u32::try_from(samples).unwrap_or(0)),
            None => Some(usual.samples),
        };
        let temperature = match accept.table.get("temperature") {
            Some(entry) => self.form.number(title, "temperature", entry).map(|number| number as f32),
            None => Some(usual.temperature),
        };
        let compare = match accept.table.get("compare") {
            Some(entry) => self.form.text(title, "compare", entry).and_then(|name| {
                let form = Form::parse(name);
                if form.is_none() {
                    let hint = suggest(name, Form::ALL.into_iter().map(Form::name));
                    self.form.problem(entry.span(), format!("{title}: unknown form \"{name}\"{hint}"));
                }
                form
            }),
            None => Some(usual.compare),
        };
        let second = self.second(accept);
        Some(Inquiry { samples: samples?, temperature: temperature?, compare: compare?, second: second? })
    }

    fn second(&mut self, accept: &Section<'_, 's>) -> Option<Option<Second>> {
        let Some(entry) = accept.table.get("second") else {
            return Some(None);
        };
        let model = self.model(&accept.title, "second", entry)?;
        if !model.is_local() {
            let message = format!("{}: second \"{model}\" is an upstream; name a local model", accept.title);
            self.form.problem(entry.span(), message);
            return None;
        }
        Some(Some(Second { model: model.as_str().to_owned(), model_sha256: None }))
    }
}
