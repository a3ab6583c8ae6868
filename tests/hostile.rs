//! Bytes that mean harm: many small mutations of what is right, the same in every run. Nothing
//! panics, and what holds for right input holds for whatever else gets through.

use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use http_body_util::Full;
use serde_json::Value;
use serde_json::value::RawValue;
use weir::api::{self, Asker, Limits, Route};
use weir::error::{Error, Kind};
use weir::policy::{Facts, Names, Policy};
use weir::request::{Ask, ClientBody, ModelId, Request, Sampling, TenantId};
use weir::wire::openai::{respell, scan, splice};
use weir::wire::sse::{Decoder, Event, TooLong};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    /// A seed with one or two changes.
    fn mutate(&mut self, seeds: &[&str], words: &[&str]) -> Vec<u8> {
        let mut bytes = self.pick(seeds).as_bytes().to_vec();
        for _ in 0..=self.roll(2) {
            let at = self.roll(bytes.len() + 1);
            let end = (at + 1 + self.roll(12)).min(bytes.len()).max(at);
            match self.roll(6) {
                0 => bytes.insert(at, self.roll(256) as u8),
                1 => drop(bytes.drain(at..end)),
                2 => bytes.truncate(at),
                3 => {
                    let copy = bytes[at..end].to_vec();
                    let to = self.roll(bytes.len() + 1);
                    bytes.splice(to..to, copy);
                }
                _ => {
                    let word = self.pick(words).bytes();
                    bytes.splice(at..end.min(at + self.roll(4)), word);
                }
            }
        }
        bytes
    }
}

const STREAMS: &[&str] = &[
    "data: {\"a\":1}\n\ndata: [DONE]\n\n",
    "\u{feff}event: error\r\ndata: x\r\n\r\n: comment\r\rdata: y\r\ndata: z\r\n\r\n",
    "id: 1\nretry: 5\ndata\n\ndata:  two\n\ndata: Wehr – 堰\n\n",
];
const STREAM_WORDS: &[&str] =
    &["\n", "\r", "\r\n", "\n\n", "data:", "data: ", ":", "event: error\n", "\u{feff}", "xxxxxxxxxxxxxxxx", "[DONE]"];

fn events(pieces: &[&[u8]], limit: usize) -> (Vec<Event>, Option<TooLong>) {
    let mut decoder = Decoder::new(limit);
    let mut found = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(event)) => found.push(event),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    match decoder.finish() {
        Ok(event) => (found.into_iter().chain(event).collect(), None),
        Err(error) => (found, Some(error)),
    }
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_events_and_none_is_longer_than_the_limit() {
    let mut dice = Dice(1);
    for _ in 0..6_000 {
        let bytes = dice.mutate(STREAMS, STREAM_WORDS);
        let limit = *dice.pick(&[8, 24, 1 << 20]);
        let whole = events(&[&bytes], limit);
        assert!(whole.0.iter().all(|event| event.data.len() <= limit), "{bytes:?}");
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(1 + dice.roll(rest.len().min(7)));
            pieces.push(piece);
            rest = left;
        }
        assert_eq!(events(&pieces, limit), whole, "{:?} in {pieces:?}", String::from_utf8_lossy(&bytes));
    }
}

const ANSWERS: &[&str] = &[
    r#"{"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"a\"model\":1"},"finish_reason":null}],"usage":null}"#,
    r#" { "usage" : {"prompt_tokens":1,"completion_tokens":2.0} , "choices":[ ] , "model" : "\u006d" } "#,
    r#"{"\u0075sage":{"prompt_tokens":7},"a":[{"usage":1,"model":2}],"error":null,"n":1e5,"s":"\\\",\"usage\":"}"#,
];
const JSON_WORDS: &[&str] = &[
    "\"usage\":",
    "\"model\":",
    "\"choices\":",
    "\"error\":",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u00",
    "null",
    "true",
    "1e999",
    "-0",
    "\"usage\":null,",
    "\"\\u0075sage\":1,",
    " ",
    "\u{1f30a}",
    "[[[[[[[[",
    "{\"a\":",
];

/// What a JSON object must be after its model is renamed and its usage left out.
fn renamed(bytes: &[u8], model: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let object = value.as_object_mut()?;
    object.shift_remove("usage");
    if let Some(name) = object.get_mut("model") {
        *name = model.into();
    }
    Some(value)
}

#[test]
fn an_answer_that_is_passed_on_stays_json_and_says_the_same() {
    let mut dice = Dice(2);
    let mut passed = 0;
    for _ in 0..6_000 {
        let bytes = Bytes::from(dice.mutate(ANSWERS, JSON_WORDS));
        let Ok(found) = scan(bytes.clone()) else { continue };
        passed += 1;
        let without = respell(&found.raw, "local/\"x", false);
        let with = respell(&found.raw, "m", true);
        // An upstream's bytes need not be UTF-8 where nobody reads them.
        if serde_json::from_slice::<&RawValue>(&bytes).is_ok() {
            for spelled in [&without, &with] {
                assert!(serde_json::from_slice::<&RawValue>(spelled).is_ok(), "{spelled:?} of {bytes:?}");
            }
        }
        if let Some(expected) = renamed(&bytes, "local/\"x") {
            assert_eq!(serde_json::from_slice::<Value>(&without).unwrap(), expected, "{bytes:?}");
        }
    }
    assert!(passed > 500, "only {passed} got through");
}

const REQUESTS: &[&str] = &[
    r#"{"model":"auto","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"stop":["a"],"logit_bias":{"5":-1}}"#,
    r#" { "stream_options" : { "x" : 1 } , "stream":true, "model":"\u0061", "n":2, "messages":[{"role":"system","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:,"}}]}] } "#,
    r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"x"}],"tools":[{"type":"function","function":{"name":"f"}}],"model":"m","response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{}}}}"#,
];
const REQUEST_WORDS: &[&str] = &[
    "\"model\":\"b\",",
    "\"stream\":true,",
    "\"stream_options\":",
    "\"stream_options\":null,",
    "{\"include_usage\":false}",
    "\"include_usage\":",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "true",
    "-1",
    "1e999",
    "99999999999999999999",
    "\"role\":",
    "\"user\"",
    "\"max_tokens\":0,",
    "\"n\":0,",
    "\"top_logprobs\":21,",
    "\u{1f30a}",
    "\\ud800",
    "[[[[[[[[[[[[[[[[",
];

fn parse(route: Route, body: Bytes) -> Result<Request, Error> {
    let limits = Limits::of(1 << 20);
    let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
    let headers = HeaderMap::new();
    let parsed = api::parse(route, &headers, Full::new(body), &limits, asker);
    parsed.now_or_never().expect("a body in memory is not waited for").map(|(request, _)| request)
}

fn check_bounds(sampling: &Sampling) {
    let within = |value: Option<f32>, low: f32, high: f32| value.is_none_or(|value| (low..=high).contains(&value));
    assert!(
        within(sampling.temperature, 0.0, 2.0) && within(sampling.top_p, 0.0, 1.0) && within(sampling.min_p, 0.0, 1.0)
    );
    assert!(within(sampling.presence_penalty, -2.0, 2.0) && within(sampling.frequency_penalty, -2.0, 2.0));
    assert!((1..=128).contains(&sampling.n) && sampling.top_logprobs <= 20 && sampling.stop.len() <= 4);
    assert!(sampling.stop.iter().all(|stop| !stop.is_empty()));
    assert!(sampling.logit_bias.iter().all(|(_, bias)| (-100.0..=100.0).contains(bias)));
}

/// What a request must be on its way to an upstream.
fn sent(body: &ClientBody, model: &str, ask_usage: bool) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(&body.bytes).ok()?;
    value["model"] = model.into();
    if ask_usage {
        let options = &mut value["stream_options"];
        if options.is_null() {
            *options = Value::Object(serde_json::Map::new());
        }
        options["include_usage"] = true.into();
    }
    Some(value)
}

fn check_splice(body: &ClientBody) {
    for ask_usage in [false, true] {
        let spliced = splice(body, "up\"per", ask_usage);
        let first = body
            .stream_options
            .iter()
            .filter(|_| ask_usage)
            .map(|range| range.start)
            .fold(body.model.start, usize::min);
        let last =
            body.stream_options.iter().filter(|_| ask_usage).map(|range| range.end).fold(body.model.end, usize::max);
        assert!(spliced.starts_with(&body.bytes[..first]) && spliced.ends_with(&body.bytes[last..]), "{body:?}");
        assert!(serde_json::from_slice::<&RawValue>(&spliced).is_ok(), "{body:?} became {spliced:?}");
        if let Some(expected) = sent(body, "up\"per", ask_usage) {
            assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), expected, "{body:?}");
        }
    }
}

#[test]
fn a_request_is_within_bounds_or_refused_as_the_clients_fault_and_is_sent_on_unchanged() {
    let mut dice = Dice(3);
    let mut passed = 0;
    for _ in 0..8_000 {
        let bytes = Bytes::from(dice.mutate(REQUESTS, REQUEST_WORDS));
        match parse(Route::Chat, bytes.clone()) {
            Ok(request) => {
                passed += 1;
                let Ask::Chat(chat) = &request.ask else { panic!("a chat became {request:?}") };
                assert!(!chat.messages.is_empty() && !request.model.is_empty(), "{bytes:?}");
                check_bounds(&chat.sampling);
                check_splice(&request.body);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Invalid, "{bytes:?}: {error}");
                assert!(error.detail().message.len() < 1_000, "{bytes:?}: {error}");
                assert!(api::reject(&error).status().is_client_error());
            }
        }
    }
    assert!(passed > 300, "only {passed} got through");
}

#[test]
fn what_nests_deep_is_refused() {
    for open in ["[", "{\"a\":", "[{\"a\":["] {
        for count in [100, 1_000, 100_000] {
            let deep = format!(r#"{{"model":"m","messages":{}"#, open.repeat(count));
            assert_eq!(parse(Route::Chat, deep.clone().into()).unwrap_err().kind(), Kind::Invalid);
            let _ = scan(deep.into());
        }
    }
}

const POLICIES: &[&str] = &[
    include_str!("../policies/private-first.toml"),
    "name = \"p\"\n[[rule]]\nname = \"a\"\nwhen = 'request.tools > 0 && request.model.startsWith(\"x\") || size(request.headers) > 2'\nthen = { serve = [\"up/m\", \"local/qwen-0.5b\"] }\n[[rule]]\nname = \"b\"\nthen = { cascade = [\"local/qwen-0.5b\", \"up/m\"], accept = { score = \"margin\", at_least = 0.5 }, hold_back = 4 }\n",
];
const POLICY_WORDS: &[&str] = &[
    "\n",
    "[[rule]]\n",
    "when = ",
    "'",
    "\"",
    "'''",
    "then = ",
    "{ serve = \"up/m\" }",
    "{",
    "}",
    "[",
    "]",
    "=",
    "(",
    ")",
    "((((((((((((((((",
    "!",
    "!!!!!!!!!!!!!!!!",
    "&&",
    "||",
    "?",
    ":",
    "request.",
    "models[\"up/m\"].ready",
    "in",
    "size(",
    ".matches('(')",
    ".map(x, x)",
    "1",
    "-1",
    "0.5",
    "1e999",
    "9223372036854775807",
    " + ",
    " % ",
    "at_least = nan",
    "hold_back = \"all\"",
    "\u{1f30a}",
];

#[test]
fn a_policy_is_refused_with_its_line_or_decides() {
    let mut dice = Dice(4);
    let request = parse(Route::Chat, Bytes::from_static(REQUESTS[0].as_bytes())).unwrap();
    let names = Names {
        models: ["local/qwen-0.5b", "openai/gpt-4.1-mini", "up/m"].map(ModelId::new).into(),
        headers: ["x-confidential".to_owned()].into(),
        ..Names::default()
    };
    let (mut compiled, mut refused) = (0, 0);
    for _ in 0..500 {
        let bytes = dice.mutate(POLICIES, POLICY_WORDS);
        let source = String::from_utf8_lossy(&bytes);
        match Policy::compile("p.toml", &source, &names) {
            Ok(policy) => {
                compiled += 1;
                policy.decide(&request, &Facts::default());
            }
            Err(problems) => {
                refused += 1;
                assert!(!problems.is_empty(), "{source}");
                for problem in problems {
                    let line = problem.place.strip_prefix("p.toml:").and_then(|line| line.parse::<usize>().ok());
                    let lines = source.matches('\n').count() + 1;
                    assert!(
                        line.is_some_and(|line| (1..=lines).contains(&line)) || problem.place == "p.toml",
                        "{problem}\n{source}"
                    );
                }
            }
        }
    }
    assert!(compiled > 25 && refused > 200, "{compiled} compiled, {refused} refused");
}

#[test]
fn a_policy_that_nests_deep_is_refused() {
    let names = Names { any: true, ..Names::default() };
    for (open, close) in [("(", ")"), ("[", "]"), ("1 + (", ")"), ("true ? true : (", ")")] {
        for count in [1_000, 20_000] {
            let when = format!("{}1{} == 1", open.repeat(count), close.repeat(count));
            let source = format!(
                "name = \"p\"\n[[rule]]\nname = \"a\"\nwhen = '{when}'\nthen = {{ serve = \"up/m\" }}\n[[rule]]\nname = \"b\"\nthen = {{ serve = \"up/m\" }}\n"
            );
            let problems = Policy::compile("p.toml", &source, &names).unwrap_err();
            assert_eq!(problems[0].place, "p.toml:4", "{open} {count}: {}", problems[0]);
        }
    }
    for count in [100, 10_000, 100_000] {
        let source = format!("name = {}", "[".repeat(count));
        assert!(Policy::compile("p.toml", &source, &names).is_err(), "{count}");
    }
}
