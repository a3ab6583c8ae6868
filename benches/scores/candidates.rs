//! The scores that are compared, in the order of the table, declared before any was tested.

use weir::confidence::{
    Basis, Calibration, Feature, Form, Graded, Inquiry, Key, Logistic, Quality, Score, Second, Source,
};

use super::models::{Column, Kind};
use super::rows::{Rows, SAMPLES, SECOND, TEMPERATURE};

/// The raw scores; the best of them is the base.
pub(crate) const RAW: [Feature; 4] = [Feature::MinLogprob, Feature::MeanLogprob, Feature::SumLogprob, Feature::Margin];

/// A score to be fitted and tested.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) columns: Vec<Column>,
}

impl Candidate {
    /// A feature as it is.
    pub(crate) fn raw(feature: Feature) -> Candidate {
        Candidate { name: format!("`{feature}`"), kind: Kind::Raw, columns: vec![Column::Of(feature)] }
    }
}

impl Candidate {
    /// Whether it reads nothing that takes a further call of a model that generates.
    pub(crate) fn asks_nothing(&self) -> bool {
        let asked = |column: &Column| matches!(column, Column::Of(feature) if feature.source() == Source::Asked);
        !self.columns.iter().any(asked)
    }
}

fn of(features: impl IntoIterator<Item = Feature>) -> Vec<Column> {
    features.into_iter().map(Column::Of).collect()
}

/// The features of the tokens that the recorded answers tell: the entropies are not among them.
fn trace() -> Vec<Feature> {
    let untold = [Feature::MeanEntropy, Feature::MaxEntropy, Feature::FirstEntropy];
    let all = Feature::ALL.into_iter();
    all.filter(|feature| feature.source() == Source::Tokens && !untold.contains(feature)).collect()
}

fn texts(of_prompt: bool) -> Vec<Feature> {
    let all = Feature::ALL.into_iter().filter(|feature| feature.source() == Source::Texts);
    all.filter(|feature| feature.name().starts_with("prompt") == of_prompt).collect()
}

const ASKED: [Feature; 3] = [Feature::Agreement, Feature::PTrue, Feature::SecondOpinion];

/// All that a gate can read, but the entropies.
fn everything() -> Vec<Feature> {
    [trace(), texts(false), texts(true), ASKED.to_vec()].concat()
}

/// The list.
pub(crate) fn candidates() -> Vec<Candidate> {
    let (trace, answer, prompt) = (trace(), texts(false), texts(true));
    let shapes = [trace.clone(), answer.clone(), prompt].concat();
    let logistic = |name: &str, columns| Candidate { name: name.to_owned(), kind: Kind::Logistic, columns };
    let with = |base: &[Feature], more: &[Feature]| of([base, more].concat());
    let near = |base: &[Feature]| [of(base.to_vec()), vec![Column::Neighbours]].concat();
    let mut list: Vec<Candidate> = ASKED.map(Candidate::raw).to_vec();
    list.push(Candidate { name: "neighbours".into(), kind: Kind::Raw, columns: vec![Column::Neighbours] });
    list.push(logistic("trace: 13 features of tokens", of(trace.clone())));
    list.push(logistic("trace + agreement", with(&trace, &[Feature::Agreement])));
    list.push(logistic("trace + p_true", with(&trace, &[Feature::PTrue])));
    list.push(logistic("trace + second opinion", with(&trace, &[Feature::SecondOpinion])));
    list.push(logistic("trace + neighbours", near(&trace)));
    list.push(logistic("trace + form of the answer", with(&trace, &answer)));
    list.push(logistic("shapes: trace + form of answer and prompt", of(shapes.clone())));
    list.push(logistic("shapes + agreement", with(&shapes, &[Feature::Agreement])));
    list.push(logistic("shapes + p_true", with(&shapes, &[Feature::PTrue])));
    list.push(logistic("shapes + second opinion", with(&shapes, &[Feature::SecondOpinion])));
    list.push(logistic("shapes + neighbours", near(&shapes)));
    list.push(logistic("sum_logprob + agreement", of([Feature::SumLogprob, Feature::Agreement])));
    list.push(logistic("all: shapes + agreement + p_true + second opinion", of(everything())));
    list.push(logistic("all + neighbours", near(&everything())));
    let few = [Feature::SumLogprob, Feature::MinLogprob, Feature::MeanMargin, Feature::Agreement, Feature::PTrue];
    let few = [few.to_vec(), answer].concat();
    let lines =
        [Feature::SumLogprob, Feature::MinLogprob, Feature::MeanMargin, Feature::FirstLogprob, Feature::LogTokens];
    let lines = [lines.to_vec(), texts(false), texts(true)].concat();
    let kernel = |name: &str, columns| Candidate { name: name.to_owned(), kind: Kind::Kernel, columns };
    list.push(kernel("kernel: five of the trace + shapes, by prompts alike", of(lines.clone())));
    list.push(kernel("kernel + agreement", with(&lines, &[Feature::Agreement])));
    list.push(Candidate { name: "few with products of two".into(), kind: Kind::Interactions, columns: of(few) });
    list.push(Candidate { name: "all, boosted stumps".into(), kind: Kind::Stumps, columns: of(everything()) });
    let columns = near(&everything());
    list.push(Candidate { name: "all + neighbours, boosted stumps".into(), kind: Kind::Stumps, columns });
    list
}

/// The logistic score over all that a gate can read, as a file that a policy can name.
pub(crate) fn calibration(read: &Rows, model: &str) -> Result<String, String> {
    let graded = |fit: bool| -> Vec<Graded> {
        let half = read.complete.iter().filter(|row| row.fit == fit);
        half.map(|row| Graded { features: row.features, right: row.right }).collect()
    };
    let (fit, test) = (graded(true), graded(false));
    let differs =
        |feature: &Feature| fit.windows(2).any(|pair| pair[0].features.get(*feature) != pair[1].features.get(*feature));
    let features: Vec<Feature> = everything().into_iter().filter(differs).collect();
    let score = Score::Logistic(Logistic::fit(&fit, &features)?);
    let scored: Vec<(f64, bool)> =
        test.iter().map(|row| (score.value(|feature| row.features.get(feature)), row.right)).collect();
    let second = Second { model: SECOND.to_owned(), model_sha256: None };
    let calibration = Calibration {
        version: Calibration::VERSION,
        name: "all-evidence".to_owned(),
        model: model.to_owned(),
        model_sha256: read.file.clone(),
        slice: "the tasks of benches/tasks".to_owned(),
        basis: Basis::Gold,
        grader: None,
        score,
        inquiry: Some(Inquiry {
            samples: SAMPLES,
            temperature: TEMPERATURE,
            second: Some(second),
            compare: Form::Auto,
        }),
        key: Key {
            template: None,
            sampler: Key::GREEDY.to_owned(),
            constraint: None,
            max_tokens: None,
            hold_back: None,
        },
        fitted_rows: fit.len() as u64,
        quality: Quality::of(&scored, true).ok_or("there are no test rows")?,
        date: "2026-11-24".to_owned(),
        attempts: 0,
        labels: None,
        early: None,
        certificates: Vec::new(),
    };
    calibration.render()
}
