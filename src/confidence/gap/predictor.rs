//! The file that predicts the gap between two models, before and after the local one has answered.
//!
//! Hides the file's form (JSON, `version` 2). Promises: what parses is sound: every number finite, no
//! unknown key; what is rendered parses to the same value; predictions are total, NaN only where a
//! feature is. `weir gap` and `weir replay` write it, `control` loads it with the policy that names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::scorer::{Column, PENALTY, Scorer, Sight};
use super::terms::Text;
use crate::confidence::{Feature, Features, Running, Source};
use crate::request::{Ask, Prompt, Request, Role};

/// The only form of the file.
const VERSION: u32 = 2;

/// What a predictor was made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The model whose answers are to be kept.
    pub local: String,
    /// The SHA-256 of its file, where that is known.
    pub local_sha256: Option<String>,
    /// The model that is asked otherwise.
    pub upstream: String,
    /// How many requests it learned from.
    pub rows: u64,
    /// When it was made, as the maker wrote it: `2026-11-23`.
    pub date: String,
}

/// One request, and what both models made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The prompt: the last thing the user said.
    pub prompt: String,
    /// The features of the local answer.
    pub features: Features,
    /// Quality of the upstream's answer − quality of the local one.
    pub gap: f64,
}

/// Predicts how much better the upstream's answer will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictor {
    version: u32,
    about: About,
    /// From the prompt alone.
    prompt: Scorer,
    /// From the prompt and the answer; `None`: it can say nothing once there is an answer.
    answer: Option<Answer>,
}

/// What an answer adds: a fit of its own, of words, shape and features together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    prompt: Scorer,
    features: BTreeMap<Feature, Column>,
}

impl Predictor {
    /// Learns from prompts and their gaps.
    pub fn of_prompts<'a>(about: About, examples: impl IntoIterator<Item = (&'a str, f64)>) -> Predictor {
        Predictor::of_prompts_at(PENALTY, about, examples)
    }

    /// The same with this ridge penalty in place of the usual one: for measuring what it does.
    pub fn of_prompts_at<'a>(
        penalty: f64,
        about: About,
        examples: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Predictor {
        let (texts, gaps): (Vec<Text>, Vec<f64>) =
            examples.into_iter().map(|(prompt, gap)| (Text::read(prompt), gap)).unzip();
        let prompt = Scorer::fit_at(penalty, &texts.iter().collect::<Vec<_>>(), &gaps, Sight::WordsAndShape);
        Predictor { version: VERSION, about, prompt, answer: None }
    }

    /// Learns from answered prompts; `known` are the features that every example tells.
    pub fn of_answers(about: About, examples: &[Example], known: &[Feature]) -> Predictor {
        let texts: Vec<Text> = examples.iter().map(|example| Text::read(&example.prompt)).collect();
        let texts: Vec<&Text> = texts.iter().collect();
        let gaps: Vec<f64> = examples.iter().map(|example| example.gap).collect();
        let row = |(text, example): (&&Text, &Example)| {
            let told = known.iter().map(|feature| example.features.get(*feature));
            text.shape.map(f64::from).into_iter().chain(told).collect()
        };
        let rows: Vec<Vec<f64>> = texts.iter().zip(examples).map(row).collect();
        let (prompt, columns) = Scorer::fit_with(PENALTY, &texts, &rows, &gaps);
        let answer = Answer { prompt, features: known.iter().copied().zip(columns).collect() };
        let prompt = Scorer::fit(&texts, &gaps, Sight::WordsAndShape);
        Predictor { version: VERSION, about, prompt, answer: Some(answer) }
    }

    /// Reads a file and checks everything in it.
    ///
    /// # Errors
    /// One sentence: what is wrong, and where.
    pub fn parse(bytes: &[u8]) -> Result<Predictor, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("version {version} is not known; known: {VERSION}; train it again"));
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let predictor: Predictor = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
        json.end().map_err(|error| error.to_string())?;
        predictor.check()?;
        Ok(predictor)
    }

    /// The file's text.
    ///
    /// # Errors
    /// What [`Predictor::parse`] would say about it.
    pub fn render(&self) -> Result<String, String> {
        self.check()?;
        serde_json::to_string(self).map(|text| text + "\n").map_err(|error| error.to_string())
    }

    fn check(&self) -> Result<(), String> {
        let About { local, upstream, date, local_sha256, .. } = &self.about;
        for (key, text) in [("local", local), ("upstream", upstream), ("date", date)] {
            if text.trim().is_empty() {
                return Err(format!("about.{key} is empty"));
            }
        }
        let is_sha256 = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(odd) = local_sha256.as_ref().filter(|text| !is_sha256(text)) {
            return Err(format!("about.local_sha256 \"{odd}\" is not 64 hexadecimal digits"));
        }
        for (feature, column) in self.answer.iter().flat_map(|answer| &answer.features) {
            if feature.source() != Source::Tokens {
                return Err(format!(
                    "answer.features.{feature}: not told by the tokens of an answer, which is all that is read here; \
                     train it without this feature"
                ));
            }
            if !column.is_sound() {
                return Err(format!("answer.features.{feature}: out of range"));
            }
        }
        Ok(())
    }

    /// What it was made of.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Whether it can judge an answer.
    pub fn reads_answers(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether it was made for the local model file with this SHA-256, as far as it says.
    pub fn is_for(&self, model_sha256: &str) -> bool {
        self.about.local_sha256.as_ref().is_none_or(|known| known.eq_ignore_ascii_case(model_sha256))
    }

    /// The predicted gap of a prompt that nobody has answered yet: above 0, the upstream is expected
    /// to do better. Reads the first 4 KiB.
    pub fn before(&self, prompt: &str) -> f64 {
        self.prompt.gap_of(&Text::read(prompt))
    }

    /// As [`Predictor::before`], of the part of a request that it goes by.
    pub fn before_asking(&self, request: &Request) -> f64 {
        self.before(prompt_of(request))
    }

    /// The scorer of prompts.
    pub(crate) fn scorer(&self) -> &Scorer {
        &self.prompt
    }

    /// The prompt's part in the predicted gap of an answered request; 0 where it reads no answers.
    pub fn part_of_prompt(&self, request: &Request) -> f64 {
        self.part_of_text(prompt_of(request))
    }

    /// As [`Predictor::part_of_prompt`], of a text.
    pub fn part_of_text(&self, prompt: &str) -> f64 {
        self.answer.as_ref().map_or(0.0, |answer| answer.prompt.gap_of(&Text::read(prompt)))
    }

    /// The predicted gap of an example, answer included; its own gap is not looked at.
    pub fn gap_of(&self, example: &Example) -> f64 {
        let columns = self.answer.iter().flat_map(|answer| &answer.features);
        let parts = columns.map(|(feature, column)| column.part(example.features.get(*feature)));
        self.part_of_text(&example.prompt) + parts.sum::<f64>()
    }

    /// The predicted gap of an answer, with the prompt's part in it; `None` without a token.
    pub fn after(&self, part_of_prompt: f64, answer: &Running) -> Option<f64> {
        let columns = self.answer.iter().flat_map(|answer| &answer.features);
        let mut gap = part_of_prompt;
        for (feature, column) in columns {
            gap += column.part(answer.value(*feature)?);
        }
        (answer.tokens() > 0).then_some(gap)
    }
}

/// What a prediction goes by: the last thing the user said; of a completion, its first prompt.
fn prompt_of(request: &Request) -> &str {
    match &request.ask {
        Ask::Chat(chat) => {
            let asked = chat.messages.iter().rev().find(|message| message.role == Role::User);
            asked.map_or("", |message| &message.text)
        }
        Ask::Text(asked) => match asked.prompts.first() {
            Some(Prompt::Text(text)) => text,
            Some(Prompt::Tokens(_)) | None => "",
        },
        Ask::Embed(_) => "",
    }
}
