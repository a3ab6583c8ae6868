//! Whether a certificate speaks of a request: it does where the answer is made as its key says.
//!
//! Pure, one function, [`Key::check`]; allocates nothing unless the key binds answers to a grammar.
//! Promises: what the key does not name must be as usual (one chat answer, no tools, no stop texts,
//! nothing added to logits), so that a request that could be answered otherwise than the labelled
//! ones is never taken for one of them. Called by [`super::Accept`].

use ring::digest::{SHA256, digest};

use super::Key;
use crate::request::{Ask, Chat, Format, Request, Sampling};

/// Why nothing is certified about a request's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Uncertified {
    /// The rule names no calibration.
    NoCalibration,
    /// The calibration holds no certificate that keeps what the rule asks for.
    NoCertificate,
    /// It is no chat.
    Kind,
    /// The certified answers were rendered with a template of their own.
    Template,
    /// Tokens are chosen otherwise: another temperature.
    Sampler,
    /// Logits are biased.
    LogitBias,
    /// Tokens seen before are penalised.
    Penalties,
    /// Several answers are asked for.
    Choices,
    /// Stop texts may cut the answer.
    Stop,
    /// Tools are offered.
    Tools,
    /// The answer is bound by another grammar or schema, or should be by one.
    Constraint,
    /// The limit on tokens lies in another bucket.
    MaxTokens,
    /// Another part of the answer is judged.
    HoldBack,
    /// Audits have found the promise broken.
    Alarmed,
    /// Too many of the answers that were to be audited were not.
    Unmonitored,
    /// The conversation stays with the stage that answered before: no gate was asked.
    Pinned,
    /// Who is kept depends on more than what was certified: a stage before, `skip_local` or a pin.
    KeepRule,
    /// No gate accepted the answer, and it was served after all because a later stage failed.
    Refused,
    /// Another file than the certified one runs under the model's name: it was promoted.
    OtherModel,
    /// A candidate that is on trial answers.
    Canary,
}

impl Uncertified {
    /// The reason's name in headers, logs and cases.
    pub fn name(self) -> &'static str {
        match self {
            Uncertified::NoCalibration => "no_calibration",
            Uncertified::NoCertificate => "no_certificate",
            Uncertified::Kind => "kind",
            Uncertified::Template => "template",
            Uncertified::Sampler => "sampler",
            Uncertified::LogitBias => "logit_bias",
            Uncertified::Penalties => "penalties",
            Uncertified::Choices => "n",
            Uncertified::Stop => "stop",
            Uncertified::Tools => "tools",
            Uncertified::Constraint => "constraint",
            Uncertified::MaxTokens => "max_tokens",
            Uncertified::HoldBack => "hold_back",
            Uncertified::Alarmed => "alarmed",
            Uncertified::Unmonitored => "unmonitored",
            Uncertified::Pinned => "pinned",
            Uncertified::KeepRule => "keep_rule",
            Uncertified::Refused => "refused",
            Uncertified::OtherModel => "other_model",
            Uncertified::Canary => "canary",
        }
    }
}

impl Key {
    /// Whether the answer to `request`, judged after `hold_back` tokens (`None`: whole), is made as
    /// the key says; an error is the first difference. The model's file is not looked at: a
    /// calibration is only loaded for its own.
    pub fn check(&self, request: &Request, hold_back: Option<usize>) -> Result<(), Uncertified> {
        let Ask::Chat(chat) = &request.ask else {
            return Err(Uncertified::Kind);
        };
        let sampling = &chat.sampling;
        let differs = [
            (self.template.is_some(), Uncertified::Template),
            (self.sampler != Key::GREEDY || sampling.temperature.is_some_and(|t| t != 0.0), Uncertified::Sampler),
            (!sampling.logit_bias.is_empty(), Uncertified::LogitBias),
            (penalises(sampling), Uncertified::Penalties),
            (sampling.n != 1, Uncertified::Choices),
            (!sampling.stop.is_empty(), Uncertified::Stop),
            (chat.tools.as_ref().is_some_and(|tools| tools.count > 0), Uncertified::Tools),
            (self.max_tokens != sampling.max_tokens.map(|limit| Key::bucket(limit.into())), Uncertified::MaxTokens),
            (self.hold_back != hold_back.map(|tokens| tokens as u64), Uncertified::HoldBack),
            (!self.binds_as(chat), Uncertified::Constraint),
        ];
        differs.into_iter().find(|(differs, _)| *differs).map_or(Ok(()), |(_, why)| Err(why))
    }

    fn binds_as(&self, chat: &Chat) -> bool {
        match (&self.constraint, &chat.format) {
            (None, format) => matches!(format, Format::Text),
            (Some(known), format) => Key::constraint_of(format).is_some_and(|asked| asked.eq_ignore_ascii_case(known)),
        }
    }

    /// What stands in a key for this form of answers: `None` for free text, `json_object`, or the
    /// SHA-256 of the schema as the client sent it, in hexadecimal digits.
    pub fn constraint_of(format: &Format) -> Option<String> {
        match format {
            Format::Text => None,
            Format::JsonObject => Some("json_object".to_owned()),
            Format::JsonSchema(schema) => {
                let hash = digest(&SHA256, schema.get().as_bytes());
                Some(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
            }
        }
    }
}

fn penalises(sampling: &Sampling) -> bool {
    let added = [sampling.presence_penalty, sampling.frequency_penalty];
    added.into_iter().flatten().any(|penalty| penalty != 0.0) || sampling.repeat_penalty.is_some_and(|by| by != 1.0)
}
