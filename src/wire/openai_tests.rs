//! What passes through keeps every byte that need not change.

use super::*;

fn body(text: &str) -> ClientBody {
    #[derive(Deserialize)]
    struct Given<'a> {
        #[serde(borrow)]
        model: &'a RawValue,
        #[serde(borrow, default, deserialize_with = "given")]
        stream_options: Option<&'a RawValue>,
    }
    let parsed: Given<'_> = serde_json::from_str(text).unwrap();
    let range = |raw: &RawValue| span(text.as_bytes(), raw.get());
    ClientBody {
        bytes: Bytes::copy_from_slice(text.as_bytes()),
        model: range(parsed.model),
        stream: None,
        stream_options: parsed.stream_options.map(range),
    }
}

#[test]
fn a_request_changes_only_where_it_must() {
    let ask = r#""stream_options":{"include_usage":true}"#;
    let table = [
        (r#"{"model":"a","x":1}"#, false, r#"{"model":"up","x":1}"#.to_owned()),
        (r#" { "model" : "a" , "unknown" : 1.50 } "#, false, r#" { "model" : "up" , "unknown" : 1.50 } "#.to_owned()),
        (
            r#"{"stream_options":{"x":1},"model":"\u0061"}"#,
            false,
            r#"{"stream_options":{"x":1},"model":"up"}"#.to_owned(),
        ),
        (r#"{"model":"a","stream":true}"#, true, format!(r#"{{"model":"up",{ask},"stream":true}}"#)),
        (r#"{"stream_options":null,"model":"a"}"#, true, format!(r#"{{{ask},"model":"up"}}"#)),
        (r#"{"stream_options":{},"model":"a"}"#, true, format!(r#"{{{ask},"model":"up"}}"#)),
        (r#"{"stream_options":{"include_usage":false},"model":"a"}"#, true, format!(r#"{{{ask},"model":"up"}}"#)),
        (r#"{"model":"a","stream_options":{"include_usage":true}}"#, true, format!(r#"{{"model":"up",{ask}}}"#)),
        (
            r#"{"model":"a","stream_options":{ "include_obfuscation":false }}"#,
            true,
            r#"{"model":"up","stream_options":{"include_usage":true, "include_obfuscation":false }}"#.to_owned(),
        ),
    ];
    for (given, ask_usage, expected) in table {
        let spliced = splice(&body(given), "up", ask_usage);
        assert_eq!(std::str::from_utf8(&spliced).unwrap(), expected, "{given}");
    }
}

#[test]
fn a_request_that_needs_no_change_is_not_copied() {
    let given = body(r#"{"model":"up","stream_options":{"include_usage":true}}"#);
    assert_eq!(splice(&given, "up", true).as_ptr(), given.bytes.as_ptr());
}

#[test]
fn a_models_name_is_escaped() {
    assert_eq!(splice(&body(r#"{"model":"a"}"#), "q\"\\\n", false), r#"{"model":"q\"\\\n"}"#);
}

fn scanned(bytes: &'static [u8]) -> Scan {
    scan(Bytes::from_static(bytes)).unwrap()
}

#[test]
fn a_scan_tells_where_things_stand() {
    let bytes = br#"{"model":"m","choices":[ ],"usage":{"prompt_tokens":3,"completion_tokens":4},"new":[1]}"#;
    let Scan { raw, usage, error } = scanned(bytes);
    assert_eq!(&bytes[raw.model.clone().unwrap()], br#""m""#);
    assert_eq!(&bytes[raw.usage.clone().unwrap()], br#"{"prompt_tokens":3,"completion_tokens":4}"#);
    assert_eq!(usage, Some(Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 4 }));
    assert!(raw.choices_empty && raw.only_usage() && !error);
}

#[test]
fn a_chunk_with_choices_or_without_usage_is_not_only_usage() {
    let with_choices = br#"{"choices":[{"index":0}],"usage":{"prompt_tokens":3}}"#;
    assert!(!scanned(with_choices).raw.only_usage());
    let filter_results = br#"{"choices":[],"prompt_filter_results":[],"usage":null}"#;
    let found = scanned(filter_results).raw;
    assert!(found.choices_empty && found.usage.is_some() && !found.only_usage());
    assert!(!scanned(b"{}").raw.choices_empty);
    assert!(!scanned(br#"{"choices":17}"#).raw.choices_empty);
}

#[test]
fn what_is_no_json_object_is_refused() {
    for bytes in
        [b"".as_slice(), b"[]", b"[1,2,3,4]", b"null", b"<html>", b"{\"choices\":", b"{} x", b"{\"model\":\"\xff\"}"]
    {
        assert!(scan(Bytes::from_static(bytes)).is_err(), "{bytes:?}");
    }
}

#[test]
fn an_error_in_a_chunk_is_seen() {
    assert!(scanned(br#"{"error":{"message":"x"}}"#).error);
    assert!(!scanned(br#"{"error":null,"choices":[]}"#).error);
}

#[test]
fn an_answer_is_respelled_only_in_model_and_usage() {
    let table = [
        (r#"{"model":"m","usage":null,"choices":[]}"#, r#"{"model":"local/x","choices":[]}"#),
        (r#"{"usage":null,"choices":[]}"#, r#"{"choices":[]}"#),
        (r#"{ "usage" : {"prompt_tokens":1} , "model" : null }"#, r#"{  "model" : "local/x" }"#),
        (r#"{"usage":null}"#, r#"{}"#),
        (r#"{"a":"\"usage\":1,","\u0075sage":2,"b":[{"usage":3}]}"#, r#"{"a":"\"usage\":1,","b":[{"usage":3}]}"#),
        (r#"{"obfuscation":"zz","model":"m-2025"}"#, r#"{"obfuscation":"zz","model":"local/x"}"#),
    ];
    for (given, expected) in table {
        let respelled = respell(&scanned(given.as_bytes()).raw, "local/x", false);
        assert_eq!(respelled, expected);
    }
}

#[test]
fn usage_stays_where_the_client_asked_for_it() {
    let given = br#"{"model":"m","usage":{"prompt_tokens":1}}"#;
    assert_eq!(respell(&scanned(given).raw, "m", true).as_ptr(), given.as_ptr());
}

#[test]
fn usage_is_read_with_tolerance() {
    let usage = |prompt_tokens, cached_tokens, completion_tokens| {
        Some(Usage { prompt_tokens, cached_tokens, completion_tokens })
    };
    let table = [
        (r#"{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}"#, usage(9, 4, 3)),
        (r#"{"prompt_tokens":9,"total_tokens":9}"#, usage(9, 0, 0)),
        (r#"{"prompt_tokens":9.0,"completion_tokens":null,"prompt_tokens_details":null}"#, usage(9, 0, 0)),
        (r#"{"prompt_tokens":9,"prompt_tokens_details":"none"}"#, usage(9, 0, 0)),
        (r#"{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":null}}"#, usage(9, 0, 0)),
        (r#"{"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}"#, usage(2, 2, 0)),
        (r#"{"prompt_tokens":9,"prompt_cache_hit_tokens":5,"completion_tokens":1}"#, usage(9, 5, 1)),
        (r#"{"prompt_tokens":-1,"completion_tokens":"7"}"#, None),
        (r#"{"prompt_tokens":1000000000}"#, usage(1_000_000_000, 0, 0)),
        (r#"{"prompt_tokens":1000000001,"completion_tokens":1}"#, None),
        (r#"{"prompt_tokens":1,"completion_tokens":1e300}"#, None),
        (r#"{}"#, None),
        (r#"null"#, None),
        (r#"17"#, None),
    ];
    for (json, expected) in table {
        assert_eq!(parse_usage(json), expected, "{json}");
    }
}

#[test]
fn a_finish_is_seen() {
    assert!(is_finish(br#"{"choices":[{"index":0,"finish_reason":null},{"index":1,"finish_reason":"stop"}]}"#));
    assert!(!is_finish(br#"{"choices":[{"index":0,"finish_reason":null}]}"#));
    assert!(!is_finish(br#"{"choices":[]}"#));
}

#[test]
fn an_error_body_always_has_its_four_keys() {
    let error =
        ErrorBody { message: "a \"b\"".to_owned(), class: "invalid_request_error".to_owned(), ..ErrorBody::default() };
    let rendered = error.render();
    assert_eq!(rendered, r#"{"error":{"message":"a \"b\"","type":"invalid_request_error","param":null,"code":null}}"#);
    assert_eq!(ErrorBody::parse(&rendered), Some(error));
}

#[test]
fn error_bodies_of_other_servers_are_read() {
    let message = |body: &str| ErrorBody::parse(body.as_bytes()).map(|error| (error.message, error.code));
    let some = |text: &str, code: Option<&str>| Some((text.to_owned(), code.map(str::to_owned)));
    assert_eq!(message(r#"{"error":{"message":"m","code":400}}"#), some("m", Some("400")));
    assert_eq!(message(r#"{"error":"m"}"#), some("m", None));
    assert_eq!(message(r#"{"object":"error","message":"m","code":40303}"#), some("m", Some("40303")));
    assert_eq!(message(r#"{"detail":"m"}"#), some("m", None));
    assert_eq!(message(r#"{"error":{}}"#), None);
    assert_eq!(message("<html>"), None);
}

#[test]
fn a_list_of_models_is_read() {
    let ids = parse_models(br#"{"object":"list","data":[{"id":"a","object":"model"},{"id":"org/b"}]}"#).unwrap();
    assert_eq!(ids, ["a", "org/b"]);
    assert!(parse_models(br#"{"error":"x"}"#).is_err());
}

#[test]
fn a_whole_answer_becomes_one_chunk_that_says_the_same() {
    let answer = br#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c"}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1}}"#;
    let chunk: serde_json::Value = serde_json::from_slice(&chunk_of(answer).unwrap().raw.bytes).unwrap();
    assert_eq!(chunk["object"], "chat.completion.chunk");
    assert_eq!(chunk["choices"][0]["delta"]["tool_calls"][0], serde_json::json!({"id": "c", "index": 0}));
    assert_eq!(chunk["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(chunk["choices"][0].get("message"), None);
    assert_eq!(chunk["usage"]["prompt_tokens"], 1);
    let text = chunk_of(br#"{"object":"text_completion","choices":[{"text":"t","finish_reason":"stop"}]}"#).unwrap();
    assert_eq!(text.raw.bytes, r#"{"object":"text_completion","choices":[{"text":"t","finish_reason":"stop"}]}"#);
    assert_eq!(chunk_of(b"{}"), None);
}

#[test]
fn what_an_answer_says_is_read_from_its_first_choice_whole_or_in_chunks() {
    for (raw, text) in [
        (r#"{"choices":[{"index":0,"message":{"content":"a b"}}]}"#, "a b"),
        (r#"{"choices":[{"index":1,"delta":{"content":"x"}},{"index":0,"delta":{"content":"y"}}]}"#, "y"),
        (r#"{"choices":[{"index":0,"delta":{}}]}"#, ""),
        (r#"{"choices":[],"usage":{}}"#, ""),
        ("nonsense", ""),
    ] {
        assert_eq!(said(raw.as_bytes()), text, "{raw}");
    }
}

#[test]
fn a_question_of_our_own_takes_the_name_of_the_model_that_is_asked() {
    let body = question("is \"a\" b?", 4);
    let sent = splice(&body, "large", false);
    let value: serde_json::Value = serde_json::from_slice(&sent).unwrap();
    let wanted = serde_json::json!({
        "model": "large",
        "messages": [{"role": "user", "content": "is \"a\" b?"}],
        "max_tokens": 4,
        "temperature": 0
    });
    assert_eq!(value, wanted);
}
