//! The test prompt that a model must pass before it counts as loaded.
//!
//! Promises: a model that passed has answered through its own engine: text that is not empty and no
//! replacement characters alone, of tokens with finite log-probabilities; an embedder, one finite vector
//! of length 1. What it says does not matter. Called by loaders.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::survey::{Purpose, Survey};
use crate::backend::{Backend, Call, Completion};
use crate::request::{
    Ask, Chat, ClientBody, Embed, Message, ModelId, Part, Prompt, Request, Role, Sampling, TenantId, Text,
};

/// Tokens in which something must be said.
const TOKENS: u32 = 8;
/// Contexts below this may not hold what a template writes round a question.
const ROOMY: u32 = 256;
/// How long it may take, on the slowest machine with the largest model.
const LIMIT: Duration = Duration::from_secs(300);
/// How far a vector's length may be from 1.
const TOLERANCE: f64 = 1e-3;

/// Asks the model; an error says what is wrong with its answer.
pub(super) async fn run(engine: &Arc<dyn Backend>, survey: &Survey) -> Result<(), String> {
    let asked = async {
        let call = Call { request: Arc::new(request(survey)), model: ModelId::new("local/trial"), trace: None };
        let completion = engine.start(call).await.map_err(|error| error.to_string())?;
        judge(completion, survey.purpose).await
    };
    let outcome = tokio::time::timeout(LIMIT, asked).await;
    let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer in {} s", LIMIT.as_secs())));
    outcome.map_err(|why| format!("it fails its test prompt: {why}"))
}

fn request(survey: &Survey) -> Request {
    let sampling = Sampling { max_tokens: Some(TOKENS), n: 1, ..Sampling::default() };
    let ask = match survey.purpose {
        Purpose::Embed => Ask::Embed(Embed { inputs: vec![Prompt::Text("a test".to_owned())], ..Embed::default() }),
        Purpose::Generate if survey.capabilities.chat && survey.context.get() >= ROOMY => {
            let message = Message {
                role: Role::User,
                text: "Count from one to ten.".to_owned(),
                images: 0,
                other_parts: 0,
                name: None,
                tool_calls: None,
                tool_call_id: None,
            };
            Ask::Chat(Chat { messages: vec![message], sampling, ..Chat::default() })
        }
        Purpose::Generate => {
            let prompts = vec![Prompt::Text("One, two,".to_owned())];
            Ask::Text(Text { prompts, sampling, ..Text::default() })
        }
    };
    Request {
        id: "trial".into(),
        tenant: TenantId::anonymous(),
        model: "local/trial".into(),
        stream: false,
        ask,
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}

async fn judge(mut completion: Completion, purpose: Purpose) -> Result<(), String> {
    let mut said = String::new();
    let mut vector: Option<Vec<f32>> = None;
    while let Some(delta) = completion.deltas.next().await {
        match delta.map_err(|error| error.to_string())?.part {
            Part::Text { text, tokens } => {
                said += &text;
                if let Some(token) = tokens.iter().find(|token| !token.logprob.is_finite()) {
                    return Err(format!("a log-probability is {}: its weights are damaged", token.logprob));
                }
            }
            Part::Embedding(found) => vector = Some(found),
            _ => {}
        }
    }
    match purpose {
        Purpose::Generate if said.chars().all(|c| c == char::REPLACEMENT_CHARACTER || c.is_whitespace()) => {
            Err(format!("it says nothing in {TOKENS} tokens"))
        }
        Purpose::Generate => Ok(()),
        Purpose::Embed => check_vector(&vector.unwrap_or_default()),
    }
}

fn check_vector(vector: &[f32]) -> Result<(), String> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let is_unit = length.is_finite() && (length - 1.0).abs() <= TOLERANCE;
    if is_unit { Ok(()) } else { Err(format!("its vector has the length {length}, not 1")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::fake::{self, Fake, Step};
    use crate::request::Delta;

    fn generator() -> Survey {
        super::super::survey::sample(Purpose::Generate)
    }

    async fn verdict(steps: Vec<Step>, survey: &Survey) -> Result<(), String> {
        let engine: Arc<dyn Backend> = Arc::new(Fake::new(steps.into_iter().chain([fake::end(4, 1)])));
        run(&engine, survey).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_says_something_of_finite_probability_passes() {
        let survey = generator();
        assert_eq!(verdict(vec![fake::say("", &[-0.1]), fake::say("One", &[-0.5])], &survey).await, Ok(()));
        let table = [
            (vec![], "says nothing"),
            (vec![fake::say(" \u{fffd}\u{fffd}", &[-1.0])], "says nothing"),
            (vec![fake::say("One", &[f32::NAN])], "weights are damaged"),
            (vec![fake::say("One", &[f32::NEG_INFINITY])], "weights are damaged"),
            (vec![Step::Hang], "no answer in 300 s"),
        ];
        for (steps, told) in table {
            let error = verdict(steps, &survey).await.unwrap_err();
            assert!(error.starts_with("it fails its test prompt: ") && error.contains(told), "{error}");
        }
    }

    #[tokio::test]
    async fn an_embedder_must_make_a_vector_of_length_one() {
        let survey = super::super::survey::sample(Purpose::Embed);
        let vector = |vector: &[f32]| vec![Step::Give(Delta::new(0, Part::Embedding(vector.to_vec())))];
        assert_eq!(verdict(vector(&[0.6, 0.8]), &survey).await, Ok(()));
        for broken in [&[0.0, 0.0][..], &[f32::NAN, 1.0], &[]] {
            assert!(verdict(vector(broken), &survey).await.is_err(), "{broken:?}");
        }
    }
}
