//! Asks every row that has no recorded answer, grades what comes, and records it.
//!
//! Questions are asked greedily, so many at once as the caller says. Promises: a row that fails is
//! told and the others go on, until too many fail in a row; what was answered is kept, also when the
//! future is dropped. Called by `cli`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream;
use http::HeaderMap;
use serde_json::{Value, json};

use super::super::graders::{Grader, judge_question, judged};
use super::answers::{Answer, Answers, Asked, Key};
use super::client::{Client, Said};
use super::constraint::plain;
use super::rows::Row;

/// So many failures without a success in between end an asking: nobody is there.
const HOPELESS: usize = 8;

/// A schema costs quotes and braces beyond the answer.
const SCHEMA_TOKENS: u32 = 8;

/// How many of the likeliest tokens are recorded.
const ALTERNATIVES: u32 = 5;

/// A model, or a policy, and what it is to be asked.
#[derive(Debug)]
pub struct Asking<'a> {
    /// What the request names.
    pub model: String,
    /// What the record says was asked.
    pub recorded_as: String,
    /// The SHA-256 of what answers.
    pub file: String,
    /// Whether log-probabilities are recorded.
    pub traced: bool,
    /// The rows, and the schema that their answer must have.
    pub rows: Vec<(&'a Row, Option<Value>)>,
}

/// Who asks.
#[derive(Debug)]
pub struct Asker<'a> {
    /// The gateway.
    pub client: &'a Client,
    /// What is known already.
    pub answers: &'a Answers,
    /// The model that grades what no text can.
    pub judge: Option<&'a str>,
    /// How many questions at once.
    pub at_once: usize,
}

/// A row without an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    /// The model asked.
    pub model: String,
    /// The row.
    pub id: String,
    /// Why.
    pub why: String,
}

impl Asking<'_> {
    /// The key of a row's answer.
    pub fn key(&self, row: &Row, schema: Option<&Value>) -> Key {
        let form = if schema.is_some() { Asked::Constrained } else { Asked::Free };
        Key { model: self.recorded_as.clone(), id: row.id.clone(), form, file: self.file.clone() }
    }
}

impl Asker<'_> {
    /// Asks what is not known; `step` is called once for each row that is done, failed or known.
    pub async fn ask(&self, asking: &Asking<'_>, step: &(dyn Fn() + Sync)) -> Vec<Failed> {
        let failures = AtomicUsize::new(0);
        let asked: Vec<_> = asking.rows.iter().map(|row| self.counted(asking, row, &failures)).collect();
        let done = stream::iter(asked).buffer_unordered(self.at_once.max(1)).inspect(|_| step());
        done.filter_map(std::future::ready).collect().await
    }

    /// Asks a row unless so many failed before that nobody seems to be there.
    async fn counted(
        &self,
        asking: &Asking<'_>,
        (row, schema): &(&Row, Option<Value>),
        failures: &AtomicUsize,
    ) -> Option<Failed> {
        let done = if failures.load(Ordering::Relaxed) < HOPELESS {
            self.one(asking, row, schema.as_ref()).await
        } else {
            Err("not asked: too many failed before".to_owned())
        };
        match &done {
            Ok(()) => failures.store(0, Ordering::Relaxed),
            Err(_) => drop(failures.fetch_add(1, Ordering::Relaxed)),
        }
        done.err().map(|why| Failed { model: asking.model.clone(), id: row.id.clone(), why })
    }

    async fn one(&self, asking: &Asking<'_>, row: &Row, schema: Option<&Value>) -> Result<(), String> {
        let key = asking.key(row, schema);
        let traced = asking.traced && schema.is_none();
        let known = self.answers.get(&key);
        if known.is_some_and(|answer| !traced || answer.logprobs.is_some()) {
            return Ok(());
        }
        let said = self.client.chat(&question(asking, row, schema)).await?;
        let mut answer = answer(key, said, traced)?;
        let text = if schema.is_some() { plain(row, &answer.text) } else { answer.text.clone() };
        answer.right = self.grade(row, &text).await?;
        answer.judge = self.judge.filter(|_| row.grader == Grader::Judge).map(str::to_owned);
        self.answers.add(answer)
    }

    async fn grade(&self, row: &Row, text: &str) -> Result<bool, String> {
        if row.grader != Grader::Judge {
            return Ok(row.grader.is_right(text, &row.answer));
        }
        let judge = self.judge.ok_or("its grader is a judge: name one with --judge MODEL")?;
        let messages = judge_question(row.question(), &row.answer, text)
            .map(|(role, text)| json!({"role": role, "content": text}));
        let body = json!({"model": judge, "messages": messages, "max_tokens": 8, "temperature": 0});
        let said = self.client.chat(&body).await.map_err(|why| format!("judge {judge}: {why}"))?;
        let verdict = said.body["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        judged(verdict).ok_or_else(|| format!("judge {judge}: \"{verdict}\" is no verdict"))
    }
}

fn question(asking: &Asking<'_>, row: &Row, schema: Option<&Value>) -> Value {
    let mut body = json!({"model": asking.model, "messages": row.messages, "temperature": 0});
    if let Some(limit) = row.max_tokens {
        body["max_tokens"] = (limit + if schema.is_some() { SCHEMA_TOKENS } else { 0 }).into();
    }
    if asking.traced && schema.is_none() {
        body["logprobs"] = true.into();
        body["top_logprobs"] = ALTERNATIVES.into();
    }
    if let Some(schema) = schema {
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
    }
    body
}

/// The answer as it is recorded; not graded yet.
fn answer(key: Key, said: Said, traced: bool) -> Result<Answer, String> {
    let choice = said.body["choices"].get(0).ok_or("the answer has no choice")?;
    let told = |name: &str| said.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let tokens = choice["logprobs"]["content"].as_array().filter(|_| traced);
    let logprob = |token: &Value| rounded(token["logprob"].as_f64().unwrap_or(f64::NAN), 1e4);
    let top =
        |token: &Value| token["top_logprobs"].as_array().map_or_else(Vec::new, |all| all.iter().map(logprob).collect());
    Ok(Answer {
        model: key.model,
        id: key.id,
        form: key.form,
        file: key.file,
        right: false,
        judge: None,
        logprobs: traced.then(|| tokens.map_or_else(Vec::new, |all| all.iter().map(logprob).collect())),
        top_logprobs: traced.then(|| tokens.map_or_else(Vec::new, |all| all.iter().map(top).collect())),
        text: choice["message"]["content"].as_str().unwrap_or_default().to_owned(),
        finish: choice["finish_reason"].as_str().map(str::to_owned),
        ms: rounded(said.ms, 10.0),
        usd: told("x-weir-cost-usd").and_then(|usd| usd.parse().ok()),
        served_by: told("x-weir-served-by"),
        policy: told("x-weir-policy"),
        certificate: told("x-weir-certificate"),
        scores: scores(&said.headers),
        prompt_tokens: said.body["usage"]["prompt_tokens"].as_u64(),
        completion_tokens: said.body["usage"]["completion_tokens"].as_u64(),
    })
}

fn rounded(value: f64, units: f64) -> f64 {
    (value * units).round() / units
}

/// `min_logprob=-1.2, margin=0.4` → its numbers.
fn scores(headers: &HeaderMap) -> BTreeMap<String, f64> {
    let told = headers.get("x-weir-confidence").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().parse().ok()?))
    };
    told.split(',').filter_map(pair).collect()
}
