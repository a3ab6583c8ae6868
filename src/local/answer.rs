//! The growing answer of one choice: logits in, deltas out, until it ends.
//!
//! Samples under the client's parameters and constraint, scores the token on the raw logits,
//! turns bytes into text and text into tool calls, and knows when to stop. The engine calls it
//! once per token; it never sees llama.cpp.

use std::sync::Arc;

use llguidance::Matcher;

use super::aside::fault;
use super::constraint;
use super::sampler::{Sampler, TokenScore, score, score_greedy};
use super::stop::TextOut;
use super::toolcall::{Piece, ToolCallParser};
use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::request::{Finish, Part, Sampling, Token, ToolCall};

/// What all choices of a request share.
#[derive(Clone)]
pub(super) struct Terms {
    /// How to sample.
    pub(super) sampling: Arc<Sampling>,
    /// The form the answer must have.
    pub(super) matcher: Option<Matcher>,
    /// The names of the tools offered; `None`: tool calls are not looked for.
    pub(super) tools: Option<Vec<String>>,
    /// Whether the first tool call ends the answer.
    pub(super) one_call: bool,
}

impl Terms {
    /// How many alternatives each token lists: one more than the token itself, so that its best
    /// alternative is among them.
    fn top(&self) -> usize {
        (self.sampling.top_logprobs as usize).max(2)
    }
}

/// The answer of one choice.
pub(super) struct Answer {
    vocabulary: Arc<Vocabulary>,
    sampler: Sampler,
    greedy: bool,
    matcher: Option<Matcher>,
    out: TextOut,
    calls: Option<ToolCallParser>,
    called: u32,
    one_call: bool,
    top: usize,
    left: u32,
}

/// What one token brought.
pub(super) struct Step {
    /// New deltas; a `Finish` is the last.
    pub(super) parts: Vec<Part>,
    /// The token to be decoded next; `None`: the choice is complete.
    pub(super) next: Option<u32>,
}

impl Answer {
    /// The answer of choice number `choice`, of at most `limit` tokens, at least 1.
    pub(super) fn new(terms: &Terms, choice: u32, limit: u32, vocabulary: Arc<Vocabulary>) -> Self {
        let sampler = Sampler::new(&terms.sampling, choice);
        Answer {
            vocabulary,
            greedy: sampler.is_plain_greedy() && terms.matcher.is_none(),
            sampler,
            matcher: terms.matcher.clone(),
            out: TextOut::new(terms.sampling.stop.clone()),
            calls: terms.tools.clone().map(ToolCallParser::new),
            called: 0,
            one_call: terms.one_call,
            top: terms.top(),
            left: limit,
        }
    }

    /// Chooses the next token from these logits.
    pub(super) fn step(&mut self, logits: &[f32]) -> Result<Step> {
        let (token, score) = self.choose(logits)?;
        self.left = self.left.saturating_sub(1);
        let end = self.vocabulary.ends_turn(token);
        let bytes = self.vocabulary.piece(token);
        let tokens = vec![self.describe(token, score, end)];
        let emitted = if end { None } else { Some(self.out.push(&bytes)) };
        let stopped = end || emitted.as_ref().is_some_and(|e| e.stopped) || self.is_complete();
        let mut parts = self.write(emitted.map(|e| e.text).unwrap_or_default(), tokens);
        let stopped = stopped || self.has_called_enough();
        if stopped || self.left == 0 {
            self.finish(&mut parts, if stopped { Finish::Stop } else { Finish::Length });
            return Ok(Step { parts, next: None });
        }
        Ok(Step { parts, next: Some(token) })
    }

    fn choose(&mut self, logits: &[f32]) -> Result<(u32, TokenScore)> {
        if self.greedy {
            return Ok(score_greedy(logits, self.top));
        }
        let mask = self.matcher.as_mut().map(|matcher| matcher.compute_mask().map_err(constraint::broken));
        let mask = mask.transpose()?;
        let token = self.sampler.sample(logits, mask.as_ref().map(|mask| mask.as_slice()));
        let token = token.ok_or_else(|| fault("the model's logits allow no token"))?;
        self.sampler.accept(token);
        if let Some(matcher) = &mut self.matcher {
            matcher.consume_token(token).map_err(constraint::broken)?;
        }
        Ok((token, score(logits, token, self.top)))
    }

    fn describe(&self, token: u32, score: TokenScore, end: bool) -> Token {
        let top = score.top.iter().map(|&(token, logprob)| (self.vocabulary.piece(token), logprob));
        Token {
            bytes: self.vocabulary.piece(token),
            logprob: score.logprob,
            margin: score.margin,
            entropy: score.entropy,
            top: top.collect(),
            end,
        }
    }

    /// Whether the constraint leaves nothing more to say.
    fn is_complete(&self) -> bool {
        self.matcher.as_ref().is_some_and(Matcher::is_stopped)
    }

    /// Whether the only call allowed has been made: what follows it is not part of the answer.
    fn has_called_enough(&self) -> bool {
        self.one_call && self.called > 0
    }

    /// The parts of some new text: tool calls, where looked for, are no text.
    fn write(&mut self, text: String, tokens: Vec<Token>) -> Vec<Part> {
        let pieces = match &mut self.calls {
            Some(parser) => parser.push(&text),
            None => return vec![Part::Text { text, tokens }],
        };
        self.sort(pieces, tokens)
    }

    fn sort(&mut self, pieces: Vec<Piece>, tokens: Vec<Token>) -> Vec<Part> {
        let (mut said, mut calls) = (String::new(), Vec::new());
        for piece in pieces {
            if self.has_called_enough() {
                break;
            }
            match piece {
                Piece::Text(text) => said.push_str(&text),
                Piece::Call { name, arguments } => {
                    let id = format!("call_{:016x}", rand::random::<u64>());
                    calls.push(Part::ToolCall(ToolCall { index: self.called, id, name, arguments }));
                    self.called += 1;
                }
            }
        }
        let mut parts = Vec::with_capacity(calls.len() + 1);
        if !said.is_empty() || !tokens.is_empty() {
            parts.push(Part::Text { text: said, tokens });
        }
        parts.extend(calls);
        parts
    }

    fn finish(&mut self, parts: &mut Vec<Part>, finish: Finish) {
        let rest = self.out.finish();
        match self.calls.take() {
            None if rest.is_empty() => {}
            None => parts.push(Part::Text { text: rest, tokens: Vec::new() }),
            Some(mut parser) => {
                let mut pieces = parser.push(&rest);
                pieces.extend(parser.finish());
                parts.extend(self.sort(pieces, Vec::new()));
            }
        }
        let finish = if self.called > 0 && finish == Finish::Stop { Finish::ToolCalls } else { finish };
        parts.push(Part::Finish(finish));
    }
}

#[cfg(test)]
mod tests;
