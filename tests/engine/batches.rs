//! What company does to an answer, and what it must not do.

use std::sync::Arc;

use futures::StreamExt;
use tokio_util::task::TaskTracker;
use weir::backend::Backend;
use weir::local::ModelConfig;
use weir::request::{Ask, Prompt, Text};

use super::harness::*;

/// Together less than 32 tokens: read in one batch, however fast the machine.
const SHORT: [&str; 4] = ["The sun is", "Water boils at", "My name is", "Two plus two"];

fn together(prompts: &[&str], max_tokens: u32) -> Ask {
    let prompts = prompts.iter().map(|&prompt| Prompt::Text(prompt.into())).collect();
    Ask::Text(Text { prompts, sampling: greedy(max_tokens), ..Text::default() })
}

async fn texts(backend: &Arc<dyn Backend>, prompts: &[&str], max_tokens: u32) -> Vec<Choice> {
    ask(backend, together(prompts, max_tokens)).await.expect("an answer").choices
}

#[test]
fn the_same_batch_shape_gives_the_same_tokens() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 4, context: Some(256), ..config(SMOL) }).await;
        let first = texts(&smol, &SHORT, 24).await;
        let again = texts(&smol, &SHORT, 24).await;
        for (first, again) in first.iter().zip(&again) {
            assert_eq!(first.text, again.text);
            assert_eq!(first.tokens, again.tokens, "to the last bit of every score");
        }
    });
}

#[test]
fn answers_in_company_are_measured_against_answers_alone() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 8, context: Some(256), ..config(SMOL) }).await;
        let prompts = [
            "The history of Rome begins with",
            "Photosynthesis is the process by which",
            "In mathematics, a prime number is",
            "The best way to learn a language is",
            "def fibonacci(n):\n",
            "Dear Sir or Madam,\nI am writing to",
            "The recipe needs two eggs, some flour and",
            "The opposite of hot is",
        ];
        let company = texts(&smol, &prompts, 32).await;
        let (mut same, mut tokens) = (0, 0);
        for (prompt, in_company) in prompts.iter().zip(&company) {
            let alone = say(&smol, text(prompt, greedy(32))).await;
            let pairs = alone.tokens.iter().zip(&in_company.tokens);
            same += pairs.take_while(|(a, b)| a.bytes == b.bytes).count();
            tokens += alone.tokens.len();
            assert_eq!(alone.tokens[0].bytes, in_company.tokens[0].bytes, "{prompt}");
        }
        println!("8 together against alone: the first {same} of {tokens} tokens agree");
    });
}

#[test]
fn a_long_prompt_does_not_stall_others() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 2, context: Some(4096), ..config(SMOL) }).await;
        let mut reading = start(&smol, text("Once upon a time", greedy(400))).await.expect("an answer").deltas;
        let long = "The ships came in, one by one, and none of them brought news of the war. ".repeat(60);
        let other = smol.clone();
        let second = TaskTracker::new().spawn(async move { start(&other, text(&long, greedy(1))).await.map(drop) });
        let mut between = 0;
        while !second.is_finished() {
            reading.next().await.expect("a delta").expect("no error");
            between += 1;
        }
        second.await.expect("no panic").expect("an answer");
        assert!(between >= 5, "only {between} tokens while another's 1000 were read");
        drop(reading);
        until(&smol, |status| status.slots_busy == 0).await;
    });
}

#[test]
fn requests_join_a_running_batch() {
    runtime().block_on(async {
        let smol = smol().await;
        let mut first = start(&smol, text("A very long story:", greedy(200))).await.expect("an answer").deltas;
        let second = say(&smol, text("The sun is", greedy(5))).await;
        assert_eq!(second.tokens.len(), 5);
        assert!(first.next().await.expect("a delta").is_ok(), "the first is still being answered");
        assert!(smol.status().slots_busy >= 1);
        drop(first);
        until(&smol, |status| status.slots_busy == 0).await;
    });
}
