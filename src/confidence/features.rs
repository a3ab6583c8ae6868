//! The features of an answer: read off its tokens, off the texts, or asked for with a further call.
//!
//! Promises: stable names, used in policy files, calibration files, headers and metrics; for each
//! where it comes from, and whether a further token can still raise or lower it. [`super::Running`]
//! and [`super::Evidence`] compute them; a [`super::Score`] is made of them; `policy` and the offline
//! tools look names up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One number that tells something of an answer.
///
/// ℓ_t = ln q(y_t) at temperature 1, m_t = top-1 minus top-2 logit, H_t = the entropy of the whole
/// next-token distribution in nats, T = the number of tokens, the end-of-turn token included.
/// Sum and mean are Chow-Sum and Chow-Average, and the quantiles those of Gupta et al., "Language
/// model cascades: token-level uncertainty and beyond", 2024 (theirs are of −ℓ: Q_α(−ℓ) =
/// −Q_(1−α)(ℓ)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Feature {
    /// min ℓ_t.
    MinLogprob,
    /// (Σ ℓ_t) / T.
    MeanLogprob,
    /// Σ ℓ_t: the log-probability of the whole answer.
    SumLogprob,
    /// min m_t.
    Margin,
    /// ℓ_1.
    FirstLogprob,
    /// The quantile of ℓ at .1, to the width of a bin ([`super::Running`]).
    LogprobQ10,
    /// The quantile of ℓ at .25, to the width of a bin.
    LogprobQ25,
    /// The quantile of ℓ at .5, to the width of a bin.
    LogprobQ50,
    /// (Σ m_t) / T.
    MeanMargin,
    /// m_1.
    FirstMargin,
    /// (Σ H_t) / T.
    MeanEntropy,
    /// max H_t.
    MaxEntropy,
    /// H_1.
    FirstEntropy,
    /// #{t: q(y_t) < 1/2} / T.
    UncertainShare,
    /// ln T.
    LogTokens,
    /// 1 when the model ended its turn by itself, 0 while it has not (cut off, stop text).
    Ended,
    /// 1 − different word 4-grams of the answer / all of them.
    Repetition,
    /// 1 when the answer begins as refusals do.
    Refusal,
    /// 0 when JSON was demanded (`response_format`) and the answer is none.
    Parses,
    /// ln(1 + words of the answer).
    AnswerWords,
    /// ln(1 + lines of the answer).
    AnswerLines,
    /// 1 when the answer is a number with a word or two at most.
    AnswerIsNumber,
    /// 1 when the answer is a letter alone.
    AnswerIsLetter,
    /// 1 when the answer is a JSON object or list.
    AnswerIsJson,
    /// 1 when the answer stands word for word in what the user said last.
    AnswerInPrompt,
    /// ln(1 + words of what the user said last).
    PromptWords,
    /// ln(1 + lines of it).
    PromptLines,
    /// The share of digits among its characters.
    PromptDigits,
    /// The share of punctuation among them.
    PromptSymbols,
    /// The share of capitals among them.
    PromptCapitals,
    /// The chance that the model gives to "yes" when asked whether its answer is correct
    /// ([`super::evidence::yes_share`]).
    PTrue,
    /// The share of samples of the same model that agree with the answer
    /// ([`super::evidence::agreement`]).
    Agreement,
    /// 1 when the greedy answer of a second local model agrees, else 0.
    SecondOpinion,
}

/// Where a feature comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The tokens of the answer; known at any time.
    Tokens,
    /// The texts of prompt and answer; known when the answer is whole.
    Texts,
    /// A further call, made when the answer is whole.
    Asked,
}

impl Feature {
    /// Every feature, in the order of tables.
    pub const ALL: [Feature; 33] = [
        Feature::MinLogprob,
        Feature::MeanLogprob,
        Feature::SumLogprob,
        Feature::Margin,
        Feature::FirstLogprob,
        Feature::LogprobQ10,
        Feature::LogprobQ25,
        Feature::LogprobQ50,
        Feature::MeanMargin,
        Feature::FirstMargin,
        Feature::MeanEntropy,
        Feature::MaxEntropy,
        Feature::FirstEntropy,
        Feature::UncertainShare,
        Feature::LogTokens,
        Feature::Ended,
        Feature::Repetition,
        Feature::Refusal,
        Feature::Parses,
        Feature::AnswerWords,
        Feature::AnswerLines,
        Feature::AnswerIsNumber,
        Feature::AnswerIsLetter,
        Feature::AnswerIsJson,
        Feature::AnswerInPrompt,
        Feature::PromptWords,
        Feature::PromptLines,
        Feature::PromptDigits,
        Feature::PromptSymbols,
        Feature::PromptCapitals,
        Feature::PTrue,
        Feature::Agreement,
        Feature::SecondOpinion,
    ];

    /// Those that every local answer tells in its header and metrics, in their order.
    pub const TOLD: [Feature; 4] = [Feature::MinLogprob, Feature::MeanLogprob, Feature::SumLogprob, Feature::Margin];

    /// The name in policy files, calibration files, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Feature::MinLogprob => "min_logprob",
            Feature::MeanLogprob => "mean_logprob",
            Feature::SumLogprob => "sum_logprob",
            Feature::Margin => "margin",
            Feature::FirstLogprob => "first_logprob",
            Feature::LogprobQ10 => "logprob_q10",
            Feature::LogprobQ25 => "logprob_q25",
            Feature::LogprobQ50 => "logprob_q50",
            Feature::MeanMargin => "mean_margin",
            Feature::FirstMargin => "first_margin",
            Feature::MeanEntropy => "mean_entropy",
            Feature::MaxEntropy => "max_entropy",
            Feature::FirstEntropy => "first_entropy",
            Feature::UncertainShare => "uncertain_share",
            Feature::LogTokens => "log_tokens",
            Feature::Ended => "ended",
            Feature::Repetition => "repetition",
            Feature::Refusal => "refusal",
            Feature::Parses => "parses",
            Feature::AnswerWords => "answer_words",
            Feature::AnswerLines => "answer_lines",
            Feature::AnswerIsNumber => "answer_is_number",
            Feature::AnswerIsLetter => "answer_is_letter",
            Feature::AnswerIsJson => "answer_is_json",
            Feature::AnswerInPrompt => "answer_in_prompt",
            Feature::PromptWords => "prompt_words",
            Feature::PromptLines => "prompt_lines",
            Feature::PromptDigits => "prompt_digits",
            Feature::PromptSymbols => "prompt_symbols",
            Feature::PromptCapitals => "prompt_capitals",
            Feature::PTrue => "p_true",
            Feature::Agreement => "agreement",
            Feature::SecondOpinion => "second_opinion",
        }
    }

    /// The feature of this name; `None` when there is none.
    pub fn parse(name: &str) -> Option<Feature> {
        Feature::ALL.into_iter().find(|feature| feature.name() == name)
    }

    /// Where it comes from.
    pub fn source(self) -> Source {
        match self {
            Feature::PTrue | Feature::Agreement | Feature::SecondOpinion => Source::Asked,
            feature if (feature as usize) > Feature::Ended as usize => Source::Texts,
            _ => Source::Tokens,
        }
    }

    /// Whether it is a log-probability: at most 0, so that exp of it is a probability.
    pub fn is_logprob(self) -> bool {
        use Feature::*;
        matches!(self, MinLogprob | MeanLogprob | SumLogprob | FirstLogprob | LogprobQ10 | LogprobQ25 | LogprobQ50)
    }

    /// Whether more of it means a surer model, so that it is a score by itself.
    pub fn is_score(self) -> bool {
        let grows = matches!(self, Feature::Margin | Feature::MeanMargin | Feature::FirstMargin);
        grows || self.is_logprob() || self.source() == Source::Asked
    }

    /// Whether a further token can never raise it, so that a gate may give up early.
    pub fn can_only_fall(self) -> bool {
        self.is_of_the_first_token() || matches!(self, Feature::MinLogprob | Feature::SumLogprob | Feature::Margin)
    }

    /// Whether a further token can never lower it.
    pub fn can_only_rise(self) -> bool {
        self.is_of_the_first_token() || matches!(self, Feature::MaxEntropy | Feature::LogTokens | Feature::Ended)
    }

    fn is_of_the_first_token(self) -> bool {
        matches!(self, Feature::FirstLogprob | Feature::FirstMargin | Feature::FirstEntropy)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Feature> for &'static str {
    fn from(feature: Feature) -> Self {
        feature.name()
    }
}

impl TryFrom<String> for Feature {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Feature::parse(&name).ok_or_else(|| {
            let known = Feature::ALL.map(Feature::name).join(", ");
            format!("unknown feature \"{name}\"; known: {known}")
        })
    }
}

/// All features of one answer that has at least one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Features([f64; Feature::ALL.len()]);

impl Features {
    /// The features for which `value` is asked, each once.
    pub fn of(value: impl FnMut(Feature) -> f64) -> Features {
        Features(Feature::ALL.map(value))
    }

    /// The value of one.
    pub fn get(&self, feature: Feature) -> f64 {
        self.0[feature as usize]
    }
}
