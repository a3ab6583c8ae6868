//! The `accept` of a cascade: from its keys to what the gate goes by.
//!
//! Hides how a calibration is chosen from and checked. Promises: a calibration that was made for
//! another model file, or measures another thing than the key says, is a problem with its line; a
//! promise that nothing keeps is a note, never a problem. Called by `compile`.

use std::sync::Arc;

use super::compile::Compiler;
use super::form::{Entry, Section, suggest};
use super::{Lapse, Promised};
use crate::confidence::{Accept, Basis, Calibration, Feature, Grant, Judge, Risk, Uncertified};
use crate::plan::HoldBack;
use crate::request::ModelId;

const MAX_ERROR: &str = "max_error";
const MAX_DISAGREEMENT: &str = "max_disagreement";
/// The confidence of a promise that does not say.
const USUAL_CONFIDENCE: f64 = 0.9;
/// How much of a hash is shown.
const HASH_SHOWN: usize = 12;

/// A promise that a policy asks for.
struct Asked {
    /// `max_error` or `max_disagreement`.
    key: &'static str,
    alpha: f64,
    confidence: f64,
    risk: Risk,
}

/// A calibration and where the file names it.
struct Named<'t, 's> {
    entry: &'t Entry<'s>,
    calibration: Arc<Calibration>,
}

impl<'s> Compiler<'s, '_> {
    /// What a gate goes by, after which of these models (all but the last) and with this hold-back.
    pub(super) fn accept(
        &mut self,
        accept: &Section<'_, 's>,
        models: &[ModelId],
        hold_back: Option<HoldBack>,
    ) -> Option<Accept> {
        let gated = models.split_last().map_or(&[][..], |(_, gated)| gated);
        let given = |key: &str| accept.table.contains_key(key);
        if given("value") {
            self.value(accept, gated, hold_back)
        } else if given(MAX_ERROR) {
            self.promise(MAX_ERROR, accept, models, hold_back)
        } else if given(MAX_DISAGREEMENT) {
            self.promise(MAX_DISAGREEMENT, accept, models, hold_back)
        } else if given("calibration") {
            self.form.check_keys(accept, &["calibration", "at_least", MAX_ERROR, MAX_DISAGREEMENT]);
            let named = self.calibration(accept, gated);
            let threshold = self.form.required(accept, "at_least");
            let Named { calibration, .. } = named??;
            let most = calibration.score.is_probability().then_some(1.0);
            let threshold = self.threshold(accept, threshold?, most)?;
            self.check_evidence(&calibration, accept, gated, hold_back)?;
            Some(Accept::Threshold(Judge::calibrated(calibration, threshold)))
        } else if let Some(feature) = self.asked_score(accept) {
            self.asked_for(feature, accept, gated, hold_back)
        } else {
            self.form.check_keys(accept, &["score", "at_least", MAX_ERROR, MAX_DISAGREEMENT, "calibration"]);
            let score = self.form.required(accept, "score").and_then(|entry| self.score(&accept.title, entry));
            let threshold = self.form.required(accept, "at_least");
            let most = score.is_some_and(Feature::is_logprob).then_some(0.0);
            let threshold = self.threshold(accept, threshold?, most);
            Some(Accept::Threshold(Judge::at_least(score?, threshold?)))
        }
    }

    /// A promise: its certificate where there is one, and who accepts where that does not speak.
    fn promise(
        &mut self,
        key: &'static str,
        accept: &Section<'_, 's>,
        models: &[ModelId],
        hold_back: Option<HoldBack>,
    ) -> Option<Accept> {
        let gated = models.split_last().map_or(&[][..], |(_, gated)| gated);
        self.form.check_keys(accept, &[key, "risk", "confidence", "calibration", "else_threshold", "audit"]);
        let asked = self.asked(key, accept);
        let fallback = self.share(accept, "else_threshold");
        let lapses = self.lapses.len();
        let named = self.calibration(accept, gated);
        let (asked, fallback, named) = (asked?, fallback?, named?);
        if let Some(named) = &named {
            self.check_evidence(&named.calibration, accept, gated, hold_back)?;
        }
        let granted = match &named {
            None => Err(Uncertified::NoCalibration),
            Some(named) => {
                self.check_basis(accept, &asked, named)?;
                let grant = Grant::find(&named.calibration, asked.risk, asked.alpha, asked.confidence);
                let lapsed = self.lapses.len() > lapses;
                if lapsed { Err(Uncertified::OtherModel) } else { grant.ok_or(Uncertified::NoCertificate) }
            }
        };
        let known = named.as_ref().map(|named| &*named.calibration);
        let audit = self.audit(accept, models, (asked.alpha, asked.risk), known)?;
        let granted = granted.map(|grant| Arc::new(Grant { audit, ..grant }));
        let calibration = named.map(|named| named.calibration);
        self.promises.push(Promised {
            rule: Arc::clone(&self.rule),
            slice: calibration.as_ref().map(|calibration| calibration.slice.clone()),
            alpha: asked.alpha,
            grant: granted.as_ref().ok().cloned(),
        });
        if let Some(missing) = what_is_missing(&asked, &granted, calibration.as_deref(), hold_back) {
            let then = if fallback.is_some() { "else_threshold decides, uncertified" } else { "all of it escalates" };
            self.form.note(accept.span.clone(), format!("{}: {missing}: {then}", accept.title));
        }
        if let Some(error) = granted.as_ref().ok().and_then(|grant| grant.certificate.error) {
            self.form.note(accept.span.clone(), format!("{}: of the answers kept: {error}", accept.title));
        }
        let otherwise = fallback.map(|probability| match calibration {
            Some(fitted) if fitted.score.is_probability() && self.lapses.len() == lapses => {
                Judge::calibrated(fitted, probability)
            }
            _ => Judge::least_probability(probability),
        });
        Some(Accept::Promise { granted, otherwise })
    }

    fn asked(&mut self, key: &'static str, accept: &Section<'_, 's>) -> Option<Asked> {
        let alpha = self.share(accept, key);
        let confidence = self.share(accept, "confidence");
        let risk = match accept.table.get("risk") {
            Some(entry) => {
                let name = entry.get_ref().as_str();
                let risk = Risk::ALL.into_iter().find(|risk| Some(risk.name()) == name);
                let wanted = "\"selective\", \"regret\" or \"joint\"";
                risk.or_else(|| self.form.wrong_type(&accept.title, "risk", wanted, entry))
            }
            None => Some(Risk::Selective),
        };
        Some(Asked { key, alpha: alpha??, confidence: confidence?.unwrap_or(USUAL_CONFIDENCE), risk: risk? })
    }

    /// A number between 0 and 1, where it is given.
    fn share(&mut self, accept: &Section<'_, 's>, key: &str) -> Option<Option<f64>> {
        let Some(entry) = accept.table.get(key) else {
            return Some(None);
        };
        let value = self.form.number(&accept.title, key, entry)?;
        if value > 0.0 && value < 1.0 {
            return Some(Some(value));
        }
        self.form.wrong_type(&accept.title, key, "between 0 and 1", entry)
    }

    /// The calibration, where one is named; it must be for the file of the one model gated.
    fn calibration<'t>(&mut self, accept: &Section<'t, 's>, gated: &[ModelId]) -> Option<Option<Named<'t, 's>>> {
        let Some(entry) = accept.table.get("calibration") else {
            return Some(None);
        };
        let file = self.form.text(&accept.title, "calibration", entry)?;
        let calibration = match self.vocabulary.names.calibrations.get(file) {
            Some(Ok(calibration)) => Ok(Arc::clone(calibration)),
            Some(Err(why)) => Err(why.clone()),
            None => Err("it has not been read".to_owned()),
        };
        let checked = calibration.and_then(|calibration| {
            self.check_model(&calibration, gated)?;
            Ok(calibration)
        });
        match checked {
            Ok(calibration) => Some(Some(Named { entry, calibration })),
            Err(why) => {
                self.form.problem(entry.span(), format!("{}: calibration \"{file}\": {why}", accept.title));
                None
            }
        }
    }

    /// Whether another file was promoted over the model's, so that what is for the old one has lapsed.
    pub(super) fn lapsed(&mut self, model: &ModelId, slice: &str) -> bool {
        let promoted = self.vocabulary.names.promoted.contains(model);
        if promoted {
            let (rule, slice) = (Arc::clone(&self.rule), slice.to_owned());
            self.lapses.push(Lapse { rule, slice, model: model.clone() });
        }
        promoted
    }

    fn check_model(&mut self, calibration: &Calibration, gated: &[ModelId]) -> Result<(), String> {
        if gated.len() > 1 {
            let all: Vec<&str> = gated.iter().map(ModelId::as_str).collect();
            let all = all.join(", ");
            return Err(format!("speaks of one model's answers, but the cascade gates {all}; gate one of them"));
        }
        let names = self.vocabulary.names;
        let Some((model, runs)) = gated.first().and_then(|model| names.files.get_key_value(model)) else {
            return Ok(());
        };
        if calibration.is_for(runs) || self.lapsed(model, &calibration.slice) {
            return Ok(());
        }
        let short = |hash: &str| hash.get(..HASH_SHOWN).unwrap_or(hash).to_ascii_lowercase();
        Err(format!(
            "was made for another model file: for {} with sha256 {}…, but {model} runs {}…; calibrate {model} anew",
            calibration.model,
            short(&calibration.model_sha256),
            short(runs),
        ))
    }

    /// Only gold labels speak of errors.
    fn check_basis(&mut self, accept: &Section<'_, 's>, asked: &Asked, named: &Named<'_, 's>) -> Option<()> {
        let Calibration { basis, grader, name, .. } = &*named.calibration;
        let grader = grader.as_deref().unwrap_or("nobody");
        let message = match (asked.key, *basis) {
            (MAX_ERROR, Basis::Gold) => return Some(()),
            (MAX_ERROR, _) => format!(
                "max_error needs gold labels, but calibration \"{name}\" measures the disagreement with {grader} \
                 (basis {}); ask for max_disagreement, or calibrate on gold labels",
                basis.name()
            ),
            (_, Basis::Gold) => format!("calibration \"{name}\" measures errors (basis gold); ask for max_error"),
            _ => return Some(()),
        };
        self.form.problem(named.entry.span(), format!("{}: {message}", accept.title));
        None
    }

    fn score(&mut self, title: &str, entry: &Entry<'s>) -> Option<Feature> {
        let name = self.form.text(title, "score", entry)?;
        let score = Feature::parse(name).filter(|feature| feature.is_score());
        if score.is_none() {
            let hint = suggest(name, Feature::ALL.into_iter().filter(|feature| feature.is_score()).map(Feature::name));
            self.form.problem(entry.span(), format!("{title}: unknown score \"{name}\"{hint}"));
        }
        score
    }

    /// `at_least`, which must not be above the most that the score can be.
    pub(super) fn threshold(&mut self, accept: &Section<'_, 's>, entry: &Entry<'s>, most: Option<f64>) -> Option<f64> {
        let threshold = self.form.number(&accept.title, "at_least", entry)?;
        let Some(most) = most.filter(|most| threshold > *most) else {
            return Some(threshold);
        };
        let what = if most > 0.0 { "a probability is never above 1" } else { "a log-probability is never above 0" };
        self.form.problem(entry.span(), format!("{}: nothing reaches {threshold}: {what}", accept.title));
        None
    }
}

/// What keeps all answers, or the streamed ones, from being certified.
fn what_is_missing(
    asked: &Asked,
    granted: &Result<Arc<Grant>, Uncertified>,
    calibration: Option<&Calibration>,
    hold_back: Option<HoldBack>,
) -> Option<String> {
    let Asked { key, alpha, confidence, risk } = asked;
    let promise = format!("nothing certifies {key} = {alpha} (risk {}, confidence {confidence})", risk.name());
    match (granted, calibration, hold_back) {
        (Err(_), None, _) => Some(format!("{promise}, for no calibration is named")),
        (Err(Uncertified::OtherModel), Some(calibration), _) => {
            let (name, model) = (&calibration.name, &calibration.model);
            Some(format!(
                "{promise}: another file was promoted than that of {model} which calibration \"{name}\" is for"
            ))
        }
        (Err(_), Some(calibration), _) => {
            let all: Vec<String> = calibration.certificates.iter().map(ToString::to_string).collect();
            let all = if all.is_empty() { "nothing".to_owned() } else { all.join("; ") };
            Some(format!("{promise}; calibration \"{}\" certifies {all}", calibration.name))
        }
        (Ok(grant), _, Some(HoldBack::Tokens(tokens))) => {
            let certified = grant.calibration.key.hold_back;
            let differs = certified != Some(tokens as u64);
            differs.then(|| format!("streams are judged after {tokens} tokens, as the certified answers were not"))
        }
        (Ok(_), _, _) => None,
    }
}
