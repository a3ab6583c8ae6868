//! What a gate goes by: which certificate is chosen, and of which requests it speaks.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::confidence::{Accept, AgreedError, Basis, Calibration, Grant, Judge, Key, Risk, Standing, Uncertified};
use crate::request::{Ask, Chat, ClientBody, Format, Request, Sampling, TenantId, Text, ToolChoice, Tools};

fn calibration() -> Calibration {
    Calibration::parse(include_bytes!("../../../tests/fixtures/calibration.json")).unwrap()
}

fn find(risk: Risk, alpha: f64, confidence: f64) -> Option<f64> {
    Grant::find(&Arc::new(calibration()), risk, alpha, confidence).map(|grant| grant.judge.at_least)
}

#[test]
fn the_lowest_threshold_that_keeps_the_promise_is_chosen() {
    use Risk::{Joint, Regret, Selective};
    for (risk, alpha, confidence, threshold) in [
        (Selective, 0.1, 0.9, Some(0.8)),
        (Selective, 0.2, 0.5, Some(0.8)),
        (Selective, 0.05, 0.9, Some(0.9)),
        (Selective, 0.05, 0.95, Some(0.95)),
        (Selective, 0.1, 0.95, Some(0.95)),
        (Selective, 0.04, 0.9, None),
        (Selective, 0.1, 0.99, None),
        (Joint, 0.05, 0.9, Some(0.7)),
        (Regret, 0.5, 0.5, None),
    ] {
        assert_eq!(find(risk, alpha, confidence), threshold, "{risk:?} {alpha} {confidence}");
    }
}

#[test]
fn a_grant_names_its_risk_and_calls_errors_only_what_gold_labels_found() {
    let told = |basis, grader: Option<&str>, risk| {
        let calibration = Calibration { basis, grader: grader.map(str::to_owned), ..calibration() };
        Grant::find(&Arc::new(calibration), risk, 0.1, 0.9).unwrap().to_string()
    };
    assert_eq!(told(Basis::Gold, None, Risk::Selective), "max_error=0.1 confidence=0.9 slice=facts%2C%20short");
    assert_eq!(
        told(Basis::UpstreamAgreement, Some("up/große;x"), Risk::Joint),
        "max_disagreement=0.05 with=up%2Fgro%C3%9Fe%3Bx risk=joint confidence=0.9 slice=facts%2C%20short"
    );
}

#[test]
fn a_grant_tells_what_known_answers_say_of_the_error_beside_the_disagreement() {
    let mut found = calibration();
    (found.basis, found.grader) = (Basis::UpstreamAgreement, Some("up".to_owned()));
    let error = AgreedError { agreed: 88, wrong: 0, beta: 0.03, at_most: 0.13, delta: 0.15 };
    found.certificates.iter_mut().for_each(|certificate| certificate.error = Some(error));
    let told = Grant::find(&Arc::new(found.clone()), Risk::Selective, 0.1, 0.9).unwrap().to_string();
    assert!(
        told.ends_with(" confidence=0.9 slice=facts%2C%20short error_at_most=0.13 error_confidence=0.85"),
        "{told}"
    );
    assert_eq!(Calibration::parse(found.render().unwrap().as_bytes()), Ok(found.clone()));
    (found.basis, found.grader) = (Basis::Gold, None);
    assert!(found.render().unwrap_err().contains("only agreement with an upstream"));
}

/// One chat that is asked as the labelled ones were, after a change.
fn request(change: impl FnOnce(&mut Chat)) -> Request {
    let mut chat = Chat { sampling: Sampling { n: 1, ..Sampling::default() }, ..Chat::default() };
    change(&mut chat);
    asked(Ask::Chat(chat))
}

fn asked(ask: Ask) -> Request {
    Request {
        id: "r".into(),
        tenant: TenantId::anonymous(),
        model: "auto".into(),
        stream: true,
        ask,
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}

fn sampling(change: impl FnOnce(&mut Sampling)) -> Request {
    request(|chat| change(&mut chat.sampling))
}

fn schema(text: &str) -> Format {
    Format::JsonSchema(RawValue::from_string(text.to_owned()).unwrap())
}

fn tools(count: usize) -> Option<Tools> {
    let raw = RawValue::from_string("[]".to_owned()).unwrap();
    Some(Tools { raw, count, choice: ToolChoice::Auto, parallel_tool_calls: true })
}

#[test]
fn a_certificate_speaks_of_requests_asked_like_the_labelled_ones_and_of_no_others() {
    let free = Key { max_tokens: Some(64), ..calibration().key };
    let limited = |limit| move |chat: &mut Chat| chat.sampling.max_tokens = limit;
    let as_usual = || request(limited(Some(64)));
    let held = Key { hold_back: Some(16), ..free.clone() };
    let bound = Key { constraint: Key::constraint_of(&schema("{}")), ..free.clone() };
    let json = Key { constraint: Some("json_object".into()), ..free.clone() };
    let with = |change: fn(&mut Chat)| {
        request(|chat| {
            chat.sampling.max_tokens = Some(64);
            change(chat);
        })
    };
    let table: Vec<(&Key, Request, Option<usize>, Option<Uncertified>)> = vec![
        (&free, as_usual(), None, None),
        (&free, request(limited(Some(17))), None, None),
        (&free, request(limited(Some(16))), None, Some(Uncertified::MaxTokens)),
        (&free, request(limited(Some(65))), None, Some(Uncertified::MaxTokens)),
        (&free, request(limited(None)), None, Some(Uncertified::MaxTokens)),
        (&free, as_usual(), Some(16), Some(Uncertified::HoldBack)),
        (&held, as_usual(), Some(16), None),
        (&held, as_usual(), Some(17), Some(Uncertified::HoldBack)),
        (&held, as_usual(), None, Some(Uncertified::HoldBack)),
        (&free, with(|chat| chat.sampling.temperature = Some(0.0)), None, None),
        (&free, with(|chat| chat.sampling.temperature = Some(0.01)), None, Some(Uncertified::Sampler)),
        (&free, with(|chat| chat.sampling.temperature = Some(f32::NAN)), None, Some(Uncertified::Sampler)),
        (&free, with(|chat| chat.sampling.top_p = Some(0.5)), None, None),
        (&free, with(|chat| chat.sampling.seed = Some(1)), None, None),
        (&free, with(|chat| chat.sampling.logit_bias = vec![(1, 1.0)]), None, Some(Uncertified::LogitBias)),
        (&free, with(|chat| chat.sampling.presence_penalty = Some(0.0)), None, None),
        (&free, with(|chat| chat.sampling.presence_penalty = Some(0.1)), None, Some(Uncertified::Penalties)),
        (&free, with(|chat| chat.sampling.frequency_penalty = Some(-0.1)), None, Some(Uncertified::Penalties)),
        (&free, with(|chat| chat.sampling.repeat_penalty = Some(1.0)), None, None),
        (&free, with(|chat| chat.sampling.repeat_penalty = Some(1.1)), None, Some(Uncertified::Penalties)),
        (&free, with(|chat| chat.sampling.n = 2), None, Some(Uncertified::Choices)),
        (&free, with(|chat| chat.sampling.stop = vec!["x".into()]), None, Some(Uncertified::Stop)),
        (&free, with(|chat| chat.tools = tools(0)), None, None),
        (&free, with(|chat| chat.tools = tools(1)), None, Some(Uncertified::Tools)),
        (&free, with(|chat| chat.format = Format::JsonObject), None, Some(Uncertified::Constraint)),
        (&free, with(|chat| chat.format = schema("{}")), None, Some(Uncertified::Constraint)),
        (&bound, with(|chat| chat.format = schema("{}")), None, None),
        (&bound, with(|chat| chat.format = schema("{ }")), None, Some(Uncertified::Constraint)),
        (&bound, as_usual(), None, Some(Uncertified::Constraint)),
        (&json, with(|chat| chat.format = Format::JsonObject), None, None),
        (&json, as_usual(), None, Some(Uncertified::Constraint)),
        (&free, asked(Ask::Text(Text::default())), None, Some(Uncertified::Kind)),
    ];
    for (place, (key, request, hold_back, why)) in table.into_iter().enumerate() {
        assert_eq!(key.check(&request, hold_back).err(), why, "row {place}: {:?}", request.ask);
    }
}

#[test]
fn a_key_with_another_template_or_sampler_speaks_of_no_request() {
    let key = calibration().key;
    let as_usual = sampling(|_| {});
    assert_eq!(key.check(&as_usual, None), Ok(()));
    let template = Key { template: Some("abc".into()), ..key.clone() };
    assert_eq!(template.check(&as_usual, None), Err(Uncertified::Template));
    let sampler = Key { sampler: "temperature=1".into(), ..key };
    assert_eq!(sampler.check(&as_usual, None), Err(Uncertified::Sampler));
}

#[test]
fn a_ruling_is_certified_or_falls_back_or_accepts_nothing() {
    let calibration = Arc::new(calibration());
    let grant = Arc::new(Grant::find(&calibration, Risk::Selective, 0.1, 0.9).unwrap());
    let fallback = Judge::least_probability(0.5);
    let (keyed, other) = (sampling(|_| {}), sampling(|sampling| sampling.n = 2));
    let promise = |otherwise| Accept::Promise { granted: Ok(Arc::clone(&grant)), otherwise };
    let ruled = |accept: &Accept, request: &Request| {
        let ruling = accept.ruling(request, None);
        (ruling.judge.map(std::borrow::Cow::into_owned), ruling.standing)
    };
    let certified = (Ok(grant.judge.clone()), Some(Standing::Certified(Arc::clone(&grant))));
    let wanting = Some(Standing::Uncertified(Uncertified::Choices));
    assert_eq!(ruled(&promise(Some(fallback.clone())), &keyed), certified);
    assert_eq!(ruled(&promise(Some(fallback.clone())), &other), (Ok(fallback.clone()), wanting.clone()));
    assert_eq!(ruled(&promise(None), &other), (Err(Uncertified::Choices), wanting));
    assert_eq!(ruled(&Accept::Threshold(fallback.clone()), &other), (Ok(fallback), None));
}
