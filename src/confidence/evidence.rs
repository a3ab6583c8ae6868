//! What is known of a whole answer beside its tokens: read off the texts, or asked for.
//!
//! Hides the readings of prompt and answer. Promises: a feature read off texts is always a number;
//! one that was asked for and not had is unknown, and an unknown one accepts nothing. An
//! [`Inquiry`] says how evidence is asked for, so that a calibration speaks of that way only.
//! `execute` reads and asks, a [`super::Judge`] weighs, the offline tools fit.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::form::fold;
use super::running::decimal;
use super::{Feature, Features, Form, Reading, Source};

/// How evidence is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inquiry {
    /// How many samples `agreement` compares with the answer; 0: none are made.
    #[serde(default)]
    pub samples: u32,
    /// The temperature of the samples.
    #[serde(default = "usual_temperature")]
    pub temperature: f32,
    /// Whose greedy answer `second_opinion` compares; in a calibration with the hash of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<Second>,
    /// What of two answers must be equal.
    #[serde(default = "usual_form")]
    pub compare: Form,
}

/// The model that gives a second opinion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Second {
    /// Its full name.
    pub model: String,
    /// The SHA-256 of its file, where it must be that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
}

fn usual_temperature() -> f32 {
    Inquiry::TEMPERATURE
}

fn usual_form() -> Form {
    Form::Auto
}

impl Default for Inquiry {
    fn default() -> Self {
        Inquiry { samples: 0, temperature: Inquiry::TEMPERATURE, second: None, compare: Form::Auto }
    }
}

impl Inquiry {
    /// How few and how many samples may be asked for.
    pub const SAMPLES: std::ops::RangeInclusive<u32> = 2..=8;
    /// The temperature of samples where nothing is said.
    pub const TEMPERATURE: f32 = 0.8;

    /// Whether it is sound, and tells how to get each of these features.
    ///
    /// # Errors
    /// One sentence: which key, and what it must be.
    pub fn check(&self, features: &[Feature]) -> Result<(), String> {
        let asks = |feature| features.contains(&feature);
        if asks(Feature::Agreement) && !Inquiry::SAMPLES.contains(&self.samples) {
            return Err(format!("\"agreement\" needs samples = 2 to 8, not {}", self.samples));
        }
        if asks(Feature::SecondOpinion) && self.second.is_none() {
            return Err("\"second_opinion\" needs second = a local model".to_owned());
        }
        if self.temperature > 0.0 && self.temperature <= 2.0 {
            return Ok(());
        }
        Err(format!("the temperature of samples must be above 0 and at most 2, not {}", self.temperature))
    }
}

/// The features of one whole answer that are not read off its tokens; those not known are NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence(Features);

impl Default for Evidence {
    fn default() -> Self {
        Evidence(Features::of(|_| f64::NAN))
    }
}

impl Evidence {
    /// What the texts say: `prompt` is the last thing the user said; `json`: an answer in JSON was
    /// demanded.
    pub fn of_texts(prompt: &str, answer: &str, json: bool) -> Evidence {
        let (asked, answered) = (fold(prompt), fold(answer));
        let reading = Form::Auto.read(answer);
        let flag = |holds: bool| f64::from(u8::from(holds));
        let ln_1p = |count: usize| (count as f64).ln_1p();
        let is_letter = |text: &str| text.chars().count() == 1;
        Evidence(Features::of(|feature| match feature {
            Feature::Repetition => repetition(&answered),
            Feature::Refusal => flag(REFUSALS.iter().any(|begin| answered.starts_with(begin))),
            Feature::Parses => flag(!json || serde_json::from_str::<serde_json::Value>(answer.trim()).is_ok()),
            Feature::AnswerWords => ln_1p(answered.split(' ').filter(|word| !word.is_empty()).count()),
            Feature::AnswerLines => ln_1p(answer.trim().lines().count()),
            Feature::AnswerIsNumber => flag(matches!(reading, Some(Reading::Number(_)))),
            Feature::AnswerIsJson => flag(matches!(reading, Some(Reading::Json(_)))),
            Feature::AnswerIsLetter => flag(matches!(&reading, Some(Reading::Text(text)) if is_letter(text))),
            Feature::AnswerInPrompt => flag(!answered.is_empty() && asked.contains(&answered)),
            Feature::PromptWords => ln_1p(asked.split(' ').count()),
            Feature::PromptLines => ln_1p(prompt.trim().lines().count()),
            Feature::PromptDigits => share(prompt, |c| c.is_ascii_digit()),
            Feature::PromptSymbols => share(prompt, |c| c.is_ascii_punctuation()),
            Feature::PromptCapitals => share(prompt, char::is_uppercase),
            _ => f64::NAN,
        }))
    }

    /// The value of a feature; NaN where it is not known.
    pub fn get(&self, feature: Feature) -> f64 {
        self.0.get(feature)
    }

    /// Adds what was found; `None` and NaN: it stays unknown.
    #[must_use]
    pub fn with(self, feature: Feature, value: Option<f64>) -> Evidence {
        let value = value.unwrap_or(f64::NAN);
        Evidence(Features::of(|one| if one == feature { value } else { self.get(one) }))
    }

    /// The features of an answer, these beside those of its tokens.
    pub fn beside(&self, tokens: &Features) -> Features {
        Features::of(|feature| match feature.source() {
            Source::Tokens => tokens.get(feature),
            Source::Texts | Source::Asked => self.get(feature),
        })
    }
}

/// `p_true=0.7, agreement=0.8`: what was asked for and had; empty where nothing was.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = Feature::ALL.into_iter().filter(|feature| feature.source() == Source::Asked);
        let mut separator = "";
        for (feature, value) in asked.map(|feature| (feature, self.get(feature))).filter(|(_, value)| !value.is_nan()) {
            write!(f, "{separator}{feature}={}", decimal(value))?;
            separator = ", ";
        }
        Ok(())
    }
}

/// How refusals begin, folded (after the list of Zou et al., "Universal and transferable adversarial
/// attacks on aligned language models", 2023).
const REFUSALS: [&str; 14] = [
    "im sorry",
    "i am sorry",
    "sorry",
    "i apologize",
    "i cannot",
    "i cant",
    "i can not",
    "i am unable",
    "im unable",
    "im not able",
    "as an ai",
    "as a language model",
    "im just a",
    "unfortunately i",
];

/// 1 − different word n-grams / all of them, n = 4 (seq-rep-4 of Welleck et al., "Neural text
/// generation with unlikelihood training", 2020); 0 of fewer than 4 words.
fn repetition(folded: &str) -> f64 {
    const N: usize = 4;
    let words: Vec<&str> = folded.split(' ').collect();
    let all = words.len().saturating_sub(N - 1);
    if all == 0 {
        return 0.0;
    }
    let different: HashSet<&[&str]> = words.windows(N).collect();
    1.0 - different.len() as f64 / all as f64
}

/// The share of characters that are so; 0 of none.
fn share(text: &str, is_so: impl Fn(char) -> bool) -> f64 {
    let all = text.chars().count().max(1);
    text.chars().filter(|c| is_so(*c)).count() as f64 / all as f64
}

/// The chance that a model gave to "yes" against "no", of its likeliest first words and their
/// log-probabilities: Σ exp ℓ(yes) / (Σ exp ℓ(yes) + Σ exp ℓ(no)), over `y`, `yes`, `n`, `no` in any
/// case and with blanks before (P(True) of Kadavath et al., "Language models (mostly) know what they
/// know", 2022, over both words). `None` where neither is among them.
pub fn yes_share<'w>(words: impl IntoIterator<Item = (&'w str, f64)>) -> Option<f64> {
    let (mut yes, mut no) = (0.0, 0.0);
    for (word, logprob) in words {
        match word.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => yes += logprob.exp(),
            "n" | "no" => no += logprob.exp(),
            _ => {}
        }
    }
    (yes + no > 0.0).then(|| yes / (yes + no))
}

/// The share of other answers that agree with this one; what cannot be compared disagrees (Wang et
/// al., "Self-consistency improves chain of thought reasoning in language models", 2023, count votes
/// so). `None` without others, and where the answer itself cannot be compared with anything.
pub fn agreement<'t>(form: Form, answer: &str, others: impl IntoIterator<Item = &'t str>) -> Option<f64> {
    form.read(answer)?;
    let (mut all, mut agreeing) = (0.0, 0.0);
    for other in others {
        all += 1.0;
        agreeing += f64::from(u8::from(form.agree(answer, other) == Some(true)));
    }
    (all > 0.0).then(|| agreeing / all)
}
