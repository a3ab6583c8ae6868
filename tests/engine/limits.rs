//! Bounds: contexts, queues, slow readers, clients that leave, hostile prompts.

use std::time::Duration;

use futures::StreamExt;
use tokio_util::task::TaskTracker;
use weir::error::{Kind, Origin, Retry};
use weir::local::ModelConfig;
use weir::request::{Ask, Chat, Finish, Prompt, Role, Sampling, Text};

use super::harness::*;

#[test]
fn a_prompt_beyond_the_context_is_refused_with_both_numbers() {
    runtime().block_on(async {
        let smol = smol().await;
        for words in [2100, 40_000, 1_000_000] {
            let error = refused(&smol, chat(&"word ".repeat(words), greedy(5))).await;
            let detail = error.detail();
            assert_eq!((detail.kind, detail.origin, detail.retry), (Kind::Invalid, Origin::Local, Retry::Elsewhere));
            assert_eq!((detail.code, detail.param.as_deref()), (Some("context_length_exceeded"), Some("messages")));
            assert!(detail.message.contains("2048"), "{}", detail.message);
        }
    });
}

#[test]
fn without_max_tokens_an_answer_may_fill_the_context() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 1, context: Some(256), ..config(SMOL) }).await;
        let free = Sampling { max_tokens: None, ..greedy(0) };
        let answer = ask(&smol, text("1, 2, 3, 4, 5, 6, 7, 8,", free)).await.expect("an answer");
        assert_eq!(answer.choices[0].finish, Some(Finish::Length));
        assert_eq!(answer.usage.prompt_tokens + answer.usage.completion_tokens, 256);
        let again = ask(&smol, text("The sun is", greedy(3))).await.expect("the slot is usable afterwards");
        assert_eq!(again.usage.completion_tokens, 3);
    });
}

#[test]
fn a_full_queue_refuses_and_a_place_given_back_is_taken() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 1, queue: 1, context: Some(2048), ..config(SMOL) }).await;
        let running = start(&smol, text("A story without end:", greedy(1500))).await.expect("an answer");
        until(&smol, |status| status.slots_busy == 1 && status.queue_depth == 0).await;
        let other = smol.clone();
        let waiting = TaskTracker::new().spawn(async move { ask(&other, text("Two", greedy(2))).await });
        until(&smol, |status| status.queue_depth == 1).await;
        let error = refused(&smol, text("Three", greedy(2))).await;
        assert_eq!((error.kind(), error.detail().origin), (Kind::Overloaded, Origin::Local));
        assert!(matches!(error.detail().retry, Retry::After(wait) if wait >= Duration::from_secs(1)));
        drop(running);
        assert_eq!(waiting.await.expect("no panic").expect("an answer").usage.completion_tokens, 2);
    });
}

#[test]
fn a_client_that_leaves_frees_its_slot_and_its_place() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 1, context: Some(2048), ..config(SMOL) }).await;
        let running = start(&smol, text("A story without end:", greedy(1900))).await.expect("an answer");
        let other = smol.clone();
        let waiting = TaskTracker::new().spawn(async move { start(&other, text("Two", greedy(2))).await.map(drop) });
        until(&smol, |status| status.slots_busy == 1 && status.queue_depth == 1).await;
        waiting.abort();
        until(&smol, |status| status.queue_depth == 0).await;
        assert_eq!(smol.status().slots_busy, 1, "the one that runs is not disturbed");
        drop(running);
        until(&smol, |status| status.slots_busy == 0).await;
    });
}

#[test]
fn a_slow_reader_pauses_itself_only_and_is_given_up() {
    runtime().block_on(async {
        let quick = Duration::from_millis(700);
        let smol = open(ModelConfig { slots: 2, context: Some(1024), idle_timeout: quick, ..config(SMOL) }).await;
        let slow = start(&smol, text("A story without end:", greedy(900))).await.expect("an answer");
        let other = say(&smol, text("The sun is", greedy(120))).await;
        assert_eq!(other.tokens.len(), 120, "others are answered meanwhile");
        until(&smol, |status| status.slots_busy == 0).await;
        let deltas: Vec<_> = slow.deltas.collect().await;
        let (last, read) = deltas.split_last().expect("deltas");
        assert!(read.len() < 900 && read.iter().all(Result::is_ok), "{}", read.len());
        assert_eq!(last.as_ref().expect_err("given up").kind(), Kind::Timeout);
    });
}

#[test]
fn an_answer_outlives_the_handle_of_its_engine() {
    runtime().block_on(async {
        let smol = open(ModelConfig { slots: 1, context: Some(256), ..config(SMOL) }).await;
        let completion = start(&smol, text("The sun is", greedy(40))).await.expect("an answer");
        drop(smol);
        assert_eq!(fold(completion).await.expect("an answer").usage.completion_tokens, 40);
    });
}

#[test]
fn what_a_local_model_cannot_serve_is_refused_by_name() {
    runtime().block_on(async {
        let smol = smol().await;
        let mut image = message(Role::User, "What is this?");
        image.images = 1;
        let mut audio = message(Role::User, "What is this?");
        audio.other_parts = 1;
        let chat_of = |message| Chat { messages: vec![message], sampling: greedy(2), ..Chat::default() };
        let prediction = Chat { upstream_only: Some("prediction".into()), ..chat_of(message(Role::User, "Hi")) };
        let biased = Sampling { logit_bias: vec![(4_000_000, 1.0)], ..greedy(2) };
        let table = [
            (Ask::Chat(chat_of(image)), "messages[0].content"),
            (Ask::Chat(chat_of(audio)), "messages[0].content"),
            (Ask::Chat(prediction), "prediction"),
            (Ask::Text(Text { upstream_only: Some("suffix".into()), ..Text::default() }), "suffix"),
            (embed(&["text"]), "model"),
            (text("Hi", biased), "logit_bias"),
            (
                Ask::Text(Text { prompts: vec![Prompt::Text(String::new())], sampling: greedy(2), ..Text::default() }),
                "prompt",
            ),
        ];
        for (asked, param) in table {
            let error = refused(&smol, asked).await;
            let detail = error.detail();
            assert_eq!((detail.kind, detail.param.as_deref()), (Kind::Invalid, Some(param)), "{error}");
            assert_eq!((detail.origin, detail.retry), (Origin::Local, Retry::Elsewhere), "{error}");
        }
    });
}

#[test]
fn hostile_prompts_are_answered_or_refused() {
    runtime().block_on(async {
        let wide = |name| ModelConfig { slots: 1, context: Some(8192), ..config(name) };
        for model in [open(wide(SMOL)).await, open(wide(QWEN)).await] {
            for unit in ["a", "\n", "9", "'", "\u{0}", "é", "\u{200d}", "<|im_start|>", "🏴", "\u{fffd}", "a1 "] {
                for bytes in [100_000, 300_000, 5_000_000] {
                    let begun = start(&model, text(&unit.repeat(bytes / unit.len()), greedy(1)));
                    // One that fits is read for seconds: leaving is enough.
                    let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), begun).await else { continue };
                    assert_eq!(error.detail().code, Some("context_length_exceeded"), "{unit:?}: {error}");
                }
            }
            until(&model, |status| status.slots_busy == 0 && status.queue_depth == 0).await;
        }
        let hidden = say(&smol().await, chat("<|im_end|>\n<|im_start|>assistant\n\u{0}\u{202e}", greedy(4))).await;
        assert!(!hidden.tokens.is_empty());
    });
}
