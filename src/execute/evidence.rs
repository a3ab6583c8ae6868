//! Evidence beside an answer: asked for when the answer is whole and its verdict depends on it.
//!
//! **Model.** `p_true` asks the model that answered whether its answer is correct and reads one
//! token: the conversation stands in its cache, so that is one pass over the question. `agreement`
//! asks it for samples of the same prompt, which share its cached tokens. `second_opinion` asks
//! another local model the same, greedily.
//!
//! Promises: nothing is asked where the verdict is certain without it ([`Judge::weigh`]); what is
//! needed is asked side by side, inside the request's future, for at most [`PATIENCE`]; what fails
//! or comes too late is unknown, and where the verdict still depends on it the answer is refused
//! with `no_evidence`. Each call stands on the tab as an attempt with the reason `evidence`: it costs
//! tokens and money, and is not wasted. Only one answer to a chat is inquired into.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join3;
use tokio::time::timeout;

use super::Asking;
use super::cascade::Verdict;
use crate::account::{Attempt, Reason};
use crate::backend::Call;
use crate::confidence::evidence::{agreement, yes_share};
use crate::confidence::{Evidence, Feature, Inquiry, Judge, Running, Weighed};
use crate::error::Result;
use crate::request::{Ask, Chat, ClientBody, Delta, Format, Message, ModelId, Part, Request, Role, Sampling, Token};

/// How long evidence may take, all of it together.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the model is asked about its answer.
const QUESTION: &str = "Is the proposed answer correct? Answer Y or N.";
/// Among how many words its yes and its no are looked for.
const WORDS: u32 = 20;

/// A whole answer that a gate looks at.
pub(super) struct Whole<'a> {
    /// Its stage.
    pub(super) stage: usize,
    /// Who gave it.
    pub(super) model: &'a ModelId,
    /// All of it.
    pub(super) deltas: &'a [Delta],
    /// What its tab says.
    pub(super) attempt: &'a Attempt,
}

/// What the gate says of the whole answer, with as much evidence as that takes.
pub(super) async fn weigh(asking: &Asking<'_>, judge: &Judge, answer: Whole<'_>) -> Verdict {
    let scores: Vec<Running> = answer.attempt.scores(<[Running]>::to_vec);
    let texts: Vec<String> = (0..scores.len()).map(|choice| text_of(answer.deltas, choice as u32)).collect();
    let read: Vec<Evidence> = texts.iter().map(|text| read(&asking.request, text)).collect();
    let weighed: Vec<Weighed> = scores.iter().zip(&read).map(|(score, read)| judge.weigh(score, read)).collect();
    if weighed.is_empty() || weighed.contains(&Weighed::Refused) {
        return Verdict::Refuse(Reason::LowConfidence);
    }
    if !weighed.contains(&Weighed::Open) {
        return Verdict::Accept;
    }
    let (Ask::Chat(chat), [score], [text], [read], Some(inquiry)) =
        (&asking.request.ask, &*scores, &*texts, &*read, judge.measure.inquiry())
    else {
        return Verdict::Refuse(Reason::NoEvidence);
    };
    let inquirer = Inquirer { asking, chat, answer: text, inquiry, stage: answer.stage, model: answer.model };
    let found = inquirer.gather(&judge.measure.features(), *read).await;
    answer.attempt.found(found);
    match judge.weigh(score, &found) {
        Weighed::Accepted => Verdict::Accept,
        Weighed::Refused => Verdict::Refuse(Reason::LowConfidence),
        Weighed::Open => Verdict::Refuse(Reason::NoEvidence),
    }
}

/// What the texts say.
fn read(request: &Request, answer: &str) -> Evidence {
    let (prompt, json) = match &request.ask {
        Ask::Chat(chat) => {
            let said = chat.messages.iter().rev().find(|message| message.role == Role::User);
            (said.map_or("", |message| &message.text), !matches!(chat.format, Format::Text))
        }
        Ask::Text(_) | Ask::Embed(_) => ("", false),
    };
    Evidence::of_texts(prompt, answer, json)
}

fn text_of(deltas: &[Delta], choice: u32) -> String {
    let text = |delta: &Delta| match &delta.part {
        Part::Text { text, .. } if delta.choice == choice => Some(text.clone()),
        _ => None,
    };
    deltas.iter().filter_map(text).collect()
}

/// Asks for evidence on one answer.
struct Inquirer<'a> {
    asking: &'a Asking<'a>,
    chat: &'a Chat,
    answer: &'a str,
    inquiry: &'a Inquiry,
    stage: usize,
    model: &'a ModelId,
}

impl Inquirer<'_> {
    /// Adds those of these features that can be had.
    async fn gather(&self, wanted: &[Feature], read: Evidence) -> Evidence {
        let wants = |feature| wanted.contains(&feature);
        let p_true = async { if wants(Feature::PTrue) { self.p_true().await } else { None } };
        let agreement = async { if wants(Feature::Agreement) { self.agreement().await } else { None } };
        let second = async { if wants(Feature::SecondOpinion) { self.second_opinion().await } else { None } };
        let bounded = |result: std::result::Result<Option<f64>, _>| result.ok().flatten();
        let all = join3(timeout(PATIENCE, p_true), timeout(PATIENCE, agreement), timeout(PATIENCE, second));
        let (p_true, agreement, second) = Box::pin(all).await;
        read.with(Feature::PTrue, bounded(p_true))
            .with(Feature::Agreement, bounded(agreement))
            .with(Feature::SecondOpinion, bounded(second))
    }

    async fn p_true(&self) -> Option<f64> {
        let said = |role, text: &str| Message {
            role,
            text: text.to_owned(),
            images: 0,
            other_parts: 0,
            name: None,
            tool_calls: None,
            tool_call_id: None,
        };
        let mut messages = self.chat.messages.clone();
        messages.extend([said(Role::Assistant, self.answer), said(Role::User, QUESTION)]);
        let sampling =
            Sampling { max_tokens: Some(1), top_logprobs: WORDS, logprobs: true, n: 1, ..Sampling::default() };
        let chat = Chat { messages, sampling, ..Chat::default() };
        let deltas = self.ask(self.model, chat).await.ok()?;
        let token = deltas.iter().find_map(|delta| match &delta.part {
            Part::Text { tokens, .. } => tokens.first(),
            _ => None,
        })?;
        yes_share(words(token))
    }

    async fn agreement(&self) -> Option<f64> {
        let Inquiry { samples, temperature, compare, .. } = *self.inquiry;
        let sampling = Sampling { n: samples, temperature: Some(temperature), ..self.sampling() };
        let deltas = self.ask(self.model, self.again(sampling)).await.ok()?;
        let texts: Vec<String> = (0..samples).map(|choice| text_of(&deltas, choice)).collect();
        agreement(compare, self.answer, texts.iter().map(String::as_str))
    }

    async fn second_opinion(&self) -> Option<f64> {
        let model = ModelId::new(self.inquiry.second.as_ref()?.model.as_str());
        let sampling = Sampling { n: 1, temperature: Some(0.0), ..self.sampling() };
        let deltas = self.ask(&model, self.again(sampling)).await.ok()?;
        agreement(self.inquiry.compare, self.answer, [text_of(&deltas, 0).as_str()])
    }

    /// The client's own, without what only it reads and what would make all samples the same.
    fn sampling(&self) -> Sampling {
        let given = self.chat.sampling.clone();
        let free = Sampling { seed: None, top_k: None, top_p: None, min_p: None, ..given };
        Sampling { logprobs: false, top_logprobs: 0, include_usage: false, ..free }
    }

    /// What the client asked, once more.
    fn again(&self, sampling: Sampling) -> Chat {
        Chat {
            messages: self.chat.messages.clone(),
            tools: self.chat.tools.clone(),
            sampling,
            format: self.chat.format.clone(),
            upstream_only: None,
        }
    }

    /// Asks a model and reads its answer to the end.
    async fn ask(&self, model: &ModelId, chat: Chat) -> Result<Vec<Delta>> {
        let client = &self.asking.request;
        let request = Request {
            id: client.id.clone(),
            tenant: client.tenant.clone(),
            model: client.model.clone(),
            stream: false,
            ask: Ask::Chat(chat),
            body: ClientBody::default(),
            headers: client.headers.clone(),
            authorization: None,
        };
        let backend = self.asking.able_to(model, &request)?;
        let attempt = self.asking.meter.attempt(model, self.stage);
        attempt.discarded(Reason::Evidence);
        let call = Call { request: Arc::new(request), model: model.clone(), trace: attempt.trace() };
        let completion = attempt.begins(backend.start(call)).await?;
        let mut deltas = attempt.follow(completion.deltas);
        let mut read = Vec::new();
        while let Some(delta) = deltas.next().await {
            read.push(delta?);
        }
        Ok(read)
    }
}

/// The likeliest words in place of this token, and its own where it is none of them.
fn words(token: &Token) -> impl Iterator<Item = (&str, f64)> {
    let known = token.top.iter().any(|(bytes, _)| *bytes == token.bytes);
    let own = (!known).then_some((&token.bytes, token.logprob));
    let all = token.top.iter().map(|(bytes, logprob)| (bytes, *logprob)).chain(own);
    all.filter_map(|(bytes, logprob)| Some((std::str::from_utf8(bytes).ok()?, f64::from(logprob))))
}
