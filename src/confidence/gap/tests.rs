//! What a predictor's file and predictions promise.

use super::{About, Example, Predictor, Skip};
use crate::confidence::{Feature, Features, Running};
use crate::request::{Ask, Chat, ClientBody, Message, Request, Role, TenantId, Trace};

fn about() -> About {
    About {
        local: "local/small".into(),
        local_sha256: Some("ab".repeat(32)),
        upstream: "up/large".into(),
        rows: 4,
        date: "2026-11-24".into(),
    }
}

/// A trace of one token of this log-probability.
fn running(logprob: f32) -> Running {
    Running::of(&Trace { logprobs: vec![logprob], margins: vec![1.0], entropies: vec![0.1], ended: true })
}

fn features(logprob: f32) -> Features {
    running(logprob).features().unwrap()
}

/// Proofs are worth escalating, and more so when the small model is unsure.
fn predictor() -> Predictor {
    let rows = [("prove it", -3.0, 1.0), ("prove that", -0.1, 0.5), ("say hello", -3.0, 0.2), ("say hi", -0.1, -0.2)];
    let example =
        |(prompt, logprob, gap): (&str, f32, f64)| Example { prompt: prompt.into(), features: features(logprob), gap };
    let examples: Vec<Example> = rows.into_iter().cycle().take(40).map(example).collect();
    Predictor::of_answers(about(), &examples, &[Feature::SumLogprob, Feature::Ended])
}

fn chat(said: &[(Role, &str)]) -> Request {
    let message = |&(role, text): &(Role, &str)| Message {
        role,
        text: text.into(),
        images: 0,
        other_parts: 0,
        name: None,
        tool_calls: None,
        tool_call_id: None,
    };
    Request {
        id: "r".into(),
        tenant: TenantId::anonymous(),
        model: "auto".into(),
        stream: false,
        ask: Ask::Chat(Chat { messages: said.iter().map(message).collect(), ..Chat::default() }),
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}

#[test]
fn an_answer_changes_what_its_prompt_predicts() {
    let predictor = predictor();
    assert!(predictor.before("prove them") > predictor.before("say so") + 0.2);
    let after = |prompt: &str, logprob| predictor.after(predictor.part_of_text(prompt), &running(logprob)).unwrap();
    assert!(after("prove it", -3.0) > after("prove it", -0.1) + 0.2);
    assert!(after("prove it", -0.1) > after("say hi", -0.1) + 0.2);
    let example = Example { prompt: "prove it".into(), features: features(-3.0), gap: 0.0 };
    assert!((predictor.gap_of(&example) - after("prove it", -3.0)).abs() < 1e-9);
}

#[test]
fn without_a_token_or_with_nan_nothing_is_predicted() {
    let predictor = predictor();
    assert_eq!(predictor.after(0.0, &Running::default()), None);
    assert!(predictor.after(0.0, &running(f32::NAN)).unwrap().is_nan());
}

#[test]
fn a_prediction_goes_by_the_last_thing_the_user_said() {
    let predictor = predictor();
    let request = chat(&[(Role::System, "say hello"), (Role::User, "say hi"), (Role::User, "prove it")]);
    assert_eq!(predictor.before_asking(&request), predictor.before("prove it"));
    let request = chat(&[(Role::User, "prove it"), (Role::Assistant, "say hi")]);
    assert_eq!(predictor.before_asking(&request), predictor.before("prove it"));
    let skip = |above| Skip { predictor: predictor.clone().into(), above }.applies(&request);
    assert!(skip(0.2) && !skip(2.0));
}

#[test]
fn a_file_parses_to_what_was_rendered_and_what_is_wrong_is_said() {
    let predictor = predictor();
    let text = predictor.render().unwrap();
    assert_eq!(Predictor::parse(text.as_bytes()).unwrap(), predictor);
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}: {text}");
        Predictor::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err()
    };
    assert!(refused("\"version\":2", "\"version\":1").contains("version 1 is not known; known: 2; train it again"));
    assert!(refused("\"local\":\"local/small\"", "\"local\":\" \"").contains("about.local is empty"));
    assert!(refused("\"local_sha256\":\"ab", "\"local_sha256\":\"xb").contains("64 hexadecimal"));
    assert!(refused("\"sum_logprob\"", "\"sum_logprobs\"").contains("unknown feature"));
    for untold in ["\"p_true\"", "\"prompt_symbols\""] {
        let error = refused("\"sum_logprob\"", untold);
        assert!(error.contains("not told by the tokens of an answer"), "{error}");
    }
    assert!(refused("\"about\"", "\"abut\"").contains("abut"));
    assert!(refused("\"buckets\":262144", "\"buckets\":1").contains("train it again"));
    let column = text.rfind("\"deviation\":").unwrap();
    let broken = format!("{}\"deviation\":-{}", &text[..column], &text[column + 12..]);
    assert!(Predictor::parse(broken.as_bytes()).unwrap_err().contains("answer.features."));
}

#[test]
fn a_predictor_is_for_the_model_file_that_it_names_if_it_names_one() {
    let [own, other] = ["AB".repeat(32), "cd".repeat(32)];
    let predictor = predictor();
    assert!(predictor.is_for(&own) && !predictor.is_for(&other));
    let free = Predictor::of_prompts(About { local_sha256: None, ..about() }, [("x", 1.0)]);
    assert!(free.is_for(&other) && !free.reads_answers());
}
