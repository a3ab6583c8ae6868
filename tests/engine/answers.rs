//! What an answer is: text, tokens, scores, choices, stops.

use futures::StreamExt;
use weir::error::Kind;
use weir::request::{Ask, Chat, Finish, Part, Prompt, Role, Sampling, Text, ToolChoice, Tools};

use super::harness::*;

/// Raw prompts of at most 32 tokens: each is read in one batch, however fast the machine.
const PINNED: [&str; 4] = [
    "The capital of France is",
    "1, 2, 3, 4, 5,",
    "def add(a, b):\n    return",
    "Once upon a time, there was a little",
];

#[test]
fn greedy_output_alone_is_what_the_golden_file_says() {
    runtime().block_on(async {
        let smol = open(weir::local::ModelConfig { slots: 1, context: Some(512), ..config(SMOL) }).await;
        let mut lines = String::new();
        for prompt in PINNED {
            let choice = say(&smol, text(prompt, greedy(24))).await;
            lines += &serde_json::json!({"prompt": prompt, "answer": choice.text}).to_string();
            lines.push('\n');
        }
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/engine-smollm2-135m.jsonl");
        if std::env::var_os("WEIR_BLESS").is_some() {
            std::fs::write(&golden, &lines).expect("the golden file can be written");
        }
        let expected = std::fs::read_to_string(&golden).expect("the golden file");
        assert_eq!(lines, expected, "WEIR_BLESS=1 writes the file anew");
    });
}

#[test]
fn every_token_carries_how_sure_the_model_was() {
    runtime().block_on(async {
        let smol = smol().await;
        let sampling = Sampling { top_logprobs: 5, logprobs: true, ..greedy(20) };
        let choice = say(&smol, chat("What is the capital of France?", sampling)).await;
        assert!(choice.text.contains("Paris"), "{}", choice.text);
        assert_eq!(choice.finish, Some(Finish::Stop));
        let (last, others) = choice.tokens.split_last().expect("tokens");
        assert!(last.end && last.bytes.is_empty(), "the end-of-turn token counts and is not shown");
        assert!(others.iter().all(|token| !token.end));
        let bytes: Vec<u8> = choice.tokens.iter().flat_map(|token| token.bytes.clone()).collect();
        assert_eq!(String::from_utf8(bytes).expect("UTF-8"), choice.text);
        for token in &choice.tokens {
            assert_eq!(token.top.len(), 5);
            assert_eq!(token.top[0], (token.bytes.clone(), token.logprob), "greedy takes the best");
            assert!(token.top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            let mass: f32 = token.top.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!(mass > 0.0 && mass <= 1.0 + 1e-4, "{mass}");
            assert!((token.margin - (token.top[0].1 - token.top[1].1)).abs() < 1e-3);
            assert!(token.entropy >= 0.0);
        }
    });
}

#[test]
fn a_stop_text_that_spans_tokens_ends_the_answer_before_it() {
    runtime().block_on(async {
        let smol = smol().await;
        let whole = say(&smol, text(PINNED[1], greedy(16))).await;
        assert_eq!(whole.finish, Some(Finish::Length));
        let middle = &whole.text[5..9];
        assert!(
            whole.tokens.iter().all(|token| !String::from_utf8_lossy(&token.bytes).contains(middle)),
            "{middle:?} spans tokens"
        );
        for stop in [vec![middle.to_owned()], vec!["never".into(), middle.to_owned()]] {
            let stopped = say(&smol, text(PINNED[1], Sampling { stop, ..greedy(16) })).await;
            assert_eq!(stopped.text, whole.text[..whole.text.find(middle).expect("it is there")]);
            assert_eq!(stopped.finish, Some(Finish::Stop));
        }
        let close = format!("{middle}!");
        let unmet = say(&smol, text(PINNED[1], Sampling { stop: vec![close], ..greedy(16) })).await;
        assert_eq!(unmet.text, whole.text, "what only resembles a stop text is not lost");
    });
}

#[test]
fn characters_are_never_cut() {
    runtime().block_on(async {
        let smol = smol().await;
        for prompt in ["你好，世界。我们都是", "😀😃😄😁", "Ελληνικά: αβγ", "日本語のテキスト"]
        {
            let completion = start(&smol, text(prompt, greedy(40))).await.expect("an answer");
            let mut answer = Answer::default();
            let mut deltas = completion.deltas;
            while let Some(delta) = deltas.next().await {
                answer.add(delta.expect("a delta"));
            }
            let choice = &answer.choices[0];
            let bytes: Vec<u8> = choice.tokens.iter().flat_map(|token| token.bytes.clone()).collect();
            assert_eq!(choice.text, String::from_utf8_lossy(&bytes));
            let split = choice.tokens.iter().any(|token| std::str::from_utf8(&token.bytes).is_err());
            println!("{prompt}: {:?}, characters of several tokens: {split}", choice.text);
        }
    });
}

#[test]
fn several_choices_share_their_prompt_and_are_counted_once() {
    runtime().block_on(async {
        let smol = smol().await;
        let sampling = Sampling { n: 3, seed: Some(7), temperature: Some(1.0), ..greedy(12) };
        let question = "Tell me of the sea, of ships, of storms and of the long way home.";
        let answer = ask(&smol, chat(question, sampling.clone())).await.expect("an answer");
        assert_eq!(answer.choices.len(), 3);
        let tokens: usize = answer.choices.iter().map(|choice| choice.tokens.len()).sum();
        assert_eq!(answer.usage.completion_tokens, tokens as u64);
        let single = ask(&smol, chat(question, greedy(1))).await.expect("an answer");
        assert_eq!(answer.usage.prompt_tokens, single.usage.prompt_tokens);
        assert_eq!(single.usage.cached_tokens, single.usage.prompt_tokens - 1, "all but the last token is cached");
        let texts: Vec<&str> = answer.choices.iter().map(|choice| choice.text.as_str()).collect();
        assert!(texts[0] != texts[1] || texts[1] != texts[2], "choices are drawn apart: {texts:?}");
    });
}

#[test]
fn more_choices_than_slots_are_answered_in_waves() {
    runtime().block_on(async {
        let smol = smol().await;
        let sampling = Sampling { n: 11, temperature: Some(0.0), ..greedy(4) };
        let answer = ask(&smol, text("Waves on the shore of a quiet sea, one after the other, they", sampling))
            .await
            .expect("an answer");
        assert_eq!(answer.choices.len(), 11);
        assert!(answer.choices.iter().all(|choice| choice.finish.is_some() && !choice.text.is_empty()));
    });
}

#[test]
fn completions_answer_every_prompt_and_echo_it() {
    runtime().block_on(async {
        let smol = smol().await;
        let prompts = vec![Prompt::Text("One two".into()), Prompt::Tokens(vec![504, 3575])];
        let sampling = Sampling { n: 2, temperature: Some(0.0), ..greedy(3) };
        let asked = Ask::Text(Text { prompts, echo: true, sampling, upstream_only: None });
        let answer = ask(&smol, asked).await.expect("an answer");
        assert_eq!(answer.choices.len(), 4);
        assert!(answer.choices[..2].iter().all(|choice| choice.text.starts_with("One two")));
        assert!(!answer.choices[2].text.starts_with("One two"));
        assert_eq!(answer.choices[0].text, answer.choices[1].text, "greedy choices are alike");
        assert_eq!(answer.choices[2].text, answer.choices[3].text);
        let unknown =
            Text { prompts: vec![Prompt::Tokens(vec![1, 99_999_999])], sampling: greedy(3), ..Text::default() };
        let error = refused(&smol, Ask::Text(unknown)).await;
        assert_eq!((error.kind(), error.detail().param.as_deref()), (Kind::Invalid, Some("prompt")));
    });
}

#[test]
fn a_prompt_with_a_known_beginning_is_not_read_again() {
    runtime().block_on(async {
        let smol = smol().await;
        let story =
            "The lighthouse keeper counted the ships that passed in the night, and wrote each one down. ".repeat(12);
        let first = ask(&smol, text(&story, greedy(4))).await.expect("an answer");
        let second = ask(&smol, text(&format!("{story}Then came the storm"), greedy(4))).await.expect("an answer");
        let shared = second.usage.cached_tokens;
        assert!(first.usage.cached_tokens < 32, "{:?}", first.usage);
        assert!(shared + 8 > first.usage.prompt_tokens && shared < second.usage.prompt_tokens, "{:?}", second.usage);
    });
}

#[test]
fn what_was_read_comes_back_after_others_were_answered() {
    runtime().block_on(async {
        let smol = open(weir::local::ModelConfig { slots: 3, context: Some(512), ..config(SMOL) }).await;
        let story = "The lighthouse keeper counted the ships that passed in the night. ".repeat(12);
        let again = format!("{story}Then came the storm");
        let first = ask(&smol, text(&story, greedy(4))).await.expect("an answer");
        for other in ["One", "Two words"] {
            ask(&smol, text(other, greedy(4))).await.expect("an answer");
        }
        let whole = ask(&smol, text(&story, greedy(4))).await.expect("an answer");
        assert_eq!(whole.choices[0].text, first.choices[0].text);
        assert_eq!(whole.usage.cached_tokens, first.usage.prompt_tokens - 1);
        ask(&smol, text("Three", greedy(4))).await.expect("an answer");
        let (one, two) = futures::join!(ask(&smol, text(&again, greedy(4))), ask(&smol, text(&again, greedy(4))));
        for copied in [one, two] {
            let usage = copied.expect("an answer").usage;
            assert!(usage.cached_tokens + 8 > first.usage.prompt_tokens, "{usage:?}");
        }
    });
}

#[test]
fn a_seed_fixes_the_answer_of_the_same_batch_shape() {
    runtime().block_on(async {
        let smol = open(weir::local::ModelConfig { slots: 1, context: Some(256), ..config(SMOL) }).await;
        let drawn = |seed| Sampling { seed: Some(seed), temperature: Some(1.0), top_p: Some(0.9), ..greedy(16) };
        let first = say(&smol, text(PINNED[3], drawn(1))).await;
        let again = say(&smol, text(PINNED[3], drawn(1))).await;
        let other = say(&smol, text(PINNED[3], drawn(2))).await;
        assert_eq!(first.text, again.text);
        assert_ne!(first.text, other.text);
    });
}

fn weather_tools(choice: ToolChoice) -> Option<Tools> {
    let tools = serde_json::json!([{"type": "function", "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }}]);
    let raw = serde_json::value::to_raw_value(&tools).expect("JSON");
    Some(Tools { raw, count: 1, choice, parallel_tool_calls: true })
}

fn weather(choice: ToolChoice) -> Ask {
    let messages = vec![message(Role::User, "What is the weather in Paris?")];
    Ask::Chat(Chat { messages, tools: weather_tools(choice), sampling: greedy(64), ..Chat::default() })
}

#[test]
fn a_demanded_tool_is_called() {
    runtime().block_on(async {
        let qwen = open(weir::local::ModelConfig { slots: 1, context: Some(1024), ..config(QWEN) }).await;
        for choice in [ToolChoice::Required, ToolChoice::Function("get_weather".into())] {
            let choice = say(&qwen, weather(choice)).await;
            assert_eq!(choice.finish, Some(Finish::ToolCalls), "{choice:?}");
            assert_eq!(choice.calls.len(), 1);
            assert_eq!(choice.calls[0].name, "get_weather");
            let arguments: serde_json::Value = serde_json::from_str(&choice.calls[0].arguments).expect("JSON");
            assert!(arguments["city"].is_string());
            assert_eq!(choice.text.trim(), "");
        }
    });
}

#[test]
fn tools_need_a_template_with_a_place_for_them() {
    runtime().block_on(async {
        let error = refused(&smol().await, weather(ToolChoice::Auto)).await;
        assert_eq!((error.kind(), error.detail().param.as_deref()), (Kind::Invalid, Some("tools")));
    });
}

#[test]
fn the_first_delta_comes_with_start_and_the_usage_with_the_end() {
    runtime().block_on(async {
        let completion = start(&smol().await, text(PINNED[0], greedy(3))).await.expect("an answer");
        let parts: Vec<Part> = completion.deltas.map(|delta| delta.expect("a delta").part).collect().await;
        assert!(matches!(&parts[0], Part::Text { tokens, .. } if tokens.len() == 1));
        assert!(matches!(parts[parts.len() - 2], Part::Finish(Finish::Length)));
        let Part::End(Some(usage)) = parts[parts.len() - 1] else { panic!("{parts:?}") };
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 3));
    });
}
