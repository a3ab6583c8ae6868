//! What is read of a request. What is refused stands in `tests/bad_input.rs`.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{Full, StreamBody};

use super::super::{Asker, Limits, Route, parse};
use super::read;
use crate::error::Kind;
use crate::request::{Ask, Chat, Embed, Format, Prompt, Role, TenantId, Text, ToolChoice};

async fn chat(fields: &str) -> Chat {
    let body = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}]{fields}}}"#);
    match read(Route::Chat, &body).await.unwrap().0.ask {
        Ask::Chat(chat) => chat,
        other => panic!("{other:?}"),
    }
}

async fn messages(json: &str) -> Chat {
    match read(Route::Chat, &format!(r#"{{"model":"auto","messages":{json}}}"#)).await.unwrap().0.ask {
        Ask::Chat(chat) => chat,
        other => panic!("{other:?}"),
    }
}

async fn text(fields: &str) -> Text {
    match read(Route::Text, &format!(r#"{{"model":"m",{fields}}}"#)).await.unwrap().0.ask {
        Ask::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

async fn embed(fields: &str) -> Embed {
    match read(Route::Embed, &format!(r#"{{"model":"m",{fields}}}"#)).await.unwrap().0.ask {
        Ask::Embed(embed) => embed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_head_and_the_places_that_may_change_are_kept() {
    let body = r#" {"stream" : true, "stream_options":{"include_usage":true}, "model":"a/b\u0021", "new":[1],
        "messages":[{"role":"user","content":"hi"}]} "#;
    let (request, shape) = read(Route::Chat, body).await.unwrap();
    let part = |range: std::ops::Range<usize>| &body[range];
    assert_eq!(request.model, "a/b!");
    assert_eq!(part(request.body.model.clone()), r#""a/b\u0021""#);
    assert_eq!(part(request.body.stream.clone().unwrap()), "true");
    assert_eq!(part(request.body.stream_options.clone().unwrap()), r#"{"include_usage":true}"#);
    assert_eq!(request.body.bytes, body);
    assert!(request.stream && shape.stream && shape.include_usage);
    assert_eq!(request.headers.len(), 1);
    assert_eq!(request.headers["x-team"], "red");
    assert_eq!(request.authorization.unwrap().expose(), "Bearer k");
}

#[tokio::test]
async fn null_is_as_good_as_absent_and_its_place_is_known() {
    let all = [
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "max_tokens",
        "logit_bias",
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "user",
        "stream",
        "stream_options",
        "audio",
        "functions",
    ];
    let fields: String = all.iter().map(|name| format!(r#","{name}":null"#)).collect();
    let body = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}]{fields}}}"#);
    let (request, shape) = read(Route::Chat, &body).await.unwrap();
    assert!(!shape.stream && !request.stream);
    assert_eq!(&body[request.body.stream_options.unwrap()], "null");
    let Ask::Chat(chat) = request.ask else { panic!() };
    assert_eq!(chat.sampling, crate::request::Sampling { n: 1, ..Default::default() });
    assert_eq!(chat.upstream_only, None);
}

#[tokio::test]
async fn sampling_is_read_as_given() {
    let chat = chat(
        r#","max_tokens":5,"max_completion_tokens":7,"temperature":0,"top_p":1,"top_k":40,"min_p":0.1,"seed":-1,
        "stop":["a","b"],"presence_penalty":-2,"frequency_penalty":2.0,"repeat_penalty":1.1,
        "logit_bias":{"50256":-100,"1":2.5},"n":128,"logprobs":true,"top_logprobs":20"#,
    )
    .await;
    let sampling = chat.sampling;
    assert_eq!(sampling.max_tokens, Some(7));
    assert_eq!((sampling.temperature, sampling.top_p), (Some(0.0), Some(1.0)));
    assert_eq!((sampling.top_k, sampling.min_p), (Some(40), Some(0.1)));
    assert_eq!(sampling.seed, Some(u64::MAX));
    assert_eq!(sampling.stop, ["a", "b"]);
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (Some(-2.0), Some(2.0)));
    assert_eq!(sampling.repeat_penalty, Some(1.1));
    assert_eq!(sampling.logit_bias, [(50256, -100.0), (1, 2.5)]);
    assert_eq!((sampling.n, sampling.logprobs, sampling.top_logprobs), (128, true, 20));
}

#[tokio::test]
async fn what_a_client_may_ask_for_is_bounded() {
    let biases = |count: usize| (0..count).map(|token| format!("\"{token}\":1")).collect::<Vec<_>>().join(",");
    let bias = |count: usize| format!(r#"{{"model":"m","prompt":"a","logit_bias":{{{}}}}}"#, biases(count));
    let stop = |length: usize| format!(r#"{{"model":"m","prompt":"a","stop":["a","{}"]}}"#, "s".repeat(length));
    let answers = |n: usize, prompts: usize| {
        format!(r#"{{"model":"m","n":{n},"prompt":[{}"a"]}}"#, r#""a","#.repeat(prompts - 1))
    };
    for allowed in [
        bias(1024),
        stop(1024),
        answers(128, 16),
        answers(1, 2048),
        r#"{"model":"m","prompt":"a","top_p":0}"#.to_owned(),
    ] {
        assert!(read(Route::Text, &allowed).await.is_ok(), "{allowed:.80}");
    }
    for (body, param, says) in [
        (bias(1025), "logit_bias", "at most that many"),
        (stop(1025), "stop[1]", "1025 bytes, expected at most 1024"),
        (answers(128, 17), "n", "128 answers to each of 17 prompts, expected at most 2048"),
    ] {
        let error = read(Route::Text, &body).await.unwrap_err();
        assert_eq!((error.kind(), error.detail().param.as_deref()), (Kind::Invalid, Some(param)));
        assert!(error.detail().message.contains(says), "{error}");
    }
}

#[tokio::test]
async fn messages_are_read_in_every_form() {
    let chat = messages(
        r#"[{"role":"developer","content":"rules","name":"op"},
        {"role":"user","content":[{"type":"text","text":"look: \"x\""},{"text":"and","type":"text"},
            {"type":"image_url","image_url":{"url":"data:,"}},{"type":"input_audio","input_audio":{}},
            {"type":"file","file":{}},{"type":"hologram"}]},
        {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",
            "function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","content":"42","tool_call_id":"c1"},
        {"role":"function","content":"42","name":"g"},
        {"role":"assistant","refusal":"no"}]"#,
    )
    .await;
    let [system, user, calls, tool, function, refusal] = &chat.messages[..] else { panic!() };
    assert_eq!((system.role, system.text.as_str(), system.name.as_deref()), (Role::System, "rules", Some("op")));
    assert_eq!(user.text, "look: \"x\"\nand");
    assert_eq!((user.images, user.other_parts), (1, 3));
    assert!(calls.text.is_empty() && calls.tool_calls.as_ref().unwrap().get().contains("c1"));
    assert_eq!((tool.role, tool.tool_call_id.as_deref()), (Role::Tool, Some("c1")));
    assert_eq!((function.role, function.name.as_deref()), (Role::Tool, Some("g")));
    assert_eq!(refusal.text, "no");
    assert_eq!(chat.upstream_only, None);
}

#[tokio::test]
async fn tools_are_counted_and_the_choice_is_read() {
    let offered = r#","tools":[{"type":"function","function":{"name":"f","parameters":{}}}]"#;
    let with = |choice: &str| format!("{offered}{choice}");
    let tools = chat(offered).await.tools.unwrap();
    assert_eq!((tools.count, tools.choice), (1, ToolChoice::Auto));
    assert!(tools.raw.get().starts_with(r#"[{"type""#));
    let named = r#","tool_choice":{"type":"function","function":{"name":"f"}}"#;
    assert_eq!(chat(&with(named)).await.tools.unwrap().choice, ToolChoice::Function("f".to_owned()));
    assert_eq!(chat(&with(r#","tool_choice":"required""#)).await.tools.unwrap().choice, ToolChoice::Required);
    assert!(chat(&with(r#","tool_choice":"none""#)).await.tools.is_none());
    for (said, parallel) in
        [("", true), (r#","parallel_tool_calls":true"#, true), (r#","parallel_tool_calls":false"#, false)]
    {
        assert_eq!(chat(&with(said)).await.tools.unwrap().parallel_tool_calls, parallel, "{said}");
    }
    assert!(chat(r#","tools":[],"tool_choice":"auto""#).await.tools.is_none());
}

#[tokio::test]
async fn the_form_of_the_answer_is_read() {
    assert!(matches!(chat(r#","response_format":{"type":"text"}"#).await.format, Format::Text));
    assert!(matches!(chat(r#","response_format":{"type":"json_object"}"#).await.format, Format::JsonObject));
    let given = r#","response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object"}}}"#;
    match chat(given).await.format {
        Format::JsonSchema(schema) => assert_eq!(schema.get(), r#"{"type":"object"}"#),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_only_an_upstream_knows_is_noted_and_not_refused() {
    for (fields, only) in [
        (r#","audio":{"voice":"a"}"#, Some("audio")),
        (r#","modalities":["text","audio"]"#, Some("modalities")),
        (r#","modalities":["text"]"#, None),
        (r#","prediction":{}"#, Some("prediction")),
        (r#","web_search_options":{}"#, Some("web_search_options")),
        (r#","functions":[],"audio":{}"#, Some("functions")),
        (r#","response_format":{"type":"grammar","grammar":"g"}"#, Some("response_format")),
        (r#","tools":[{"type":"custom","custom":{"name":"x"}}]"#, Some("tools")),
        (
            r#","tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"allowed_tools"}"#,
            Some("tool_choice"),
        ),
        (r#","reasoning_effort":"low","service_tier":"auto","store":true,"metadata":{"a":"b"},"verbosity":1"#, None),
    ] {
        assert_eq!(chat(fields).await.upstream_only.as_deref(), only, "{fields}");
    }
    assert_eq!(text(r#""prompt":"a","suffix":"b""#).await.upstream_only.as_deref(), Some("suffix"));
    assert_eq!(text(r#""prompt":"a","best_of":2"#).await.upstream_only.as_deref(), Some("best_of"));
    assert_eq!(text(r#""prompt":"a","best_of":1"#).await.upstream_only, None);
}

#[tokio::test]
async fn prompts_and_inputs_are_read_in_every_form() {
    let one = |text: &str| Prompt::Text(text.to_owned());
    assert_eq!(text(r#""prompt":"a","echo":true"#).await.prompts, [one("a")]);
    assert_eq!(text(r#""prompt":["a",""]"#).await.prompts, [one("a"), one("")]);
    assert_eq!(text(r#""prompt":[1,2]"#).await.prompts, [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(text(r#""prompt":[[1],[2,3]]"#).await.prompts, [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    let probable = text(r#""prompt":"a","logprobs":0"#).await.sampling;
    assert_eq!((probable.logprobs, probable.top_logprobs), (true, 0));
    let embed = embed(r#""input":["a","b"],"encoding_format":"base64","dimensions":3"#).await;
    assert_eq!(embed.inputs, [one("a"), one("b")]);
    assert_eq!((embed.base64, embed.dimensions), (true, Some(3)));
}

#[tokio::test]
async fn a_body_in_pieces_is_joined_and_one_in_a_piece_is_not_copied() {
    let limits = Limits::of(100);
    let asker = || Asker { id: "r".into(), tenant: TenantId::anonymous() };
    let json = r#"{"model":"m","input":"é"}"#;
    let pieces: Vec<Result<Frame<Bytes>, std::io::Error>> =
        json.as_bytes().chunks(3).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let body = StreamBody::new(stream::iter(pieces));
    let (request, _) = parse(Route::Embed, &HeaderMap::new(), body, &limits, asker()).await.unwrap();
    assert_eq!(request.body.bytes, json);

    let whole = Bytes::from_static(json.as_bytes());
    let body = Full::new(whole.clone());
    let (request, _) = parse(Route::Embed, &HeaderMap::new(), body, &limits, asker()).await.unwrap();
    assert_eq!(request.body.bytes.as_ptr(), whole.as_ptr());
}

#[tokio::test]
async fn a_body_without_declared_length_is_cut_off_at_the_cap() {
    let limits = Limits::of(100);
    let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"          "))));
    let error = parse(Route::Chat, &HeaderMap::new(), StreamBody::new(endless), &limits, asker).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_client_leaving() {
    let limits = Limits::of(100);
    let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
    let pieces = [Ok(Frame::data(Bytes::from_static(b"{"))), Err(std::io::Error::other("reset"))];
    let body = StreamBody::new(stream::iter(pieces));
    let error = parse(Route::Chat, &HeaderMap::new(), body, &limits, asker).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Canceled);
}

#[tokio::test]
async fn what_curl_declares_is_taken_if_it_is_an_object() {
    let limits = Limits::of(100);
    let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    let body = Full::new(Bytes::from_static(br#" {"model":"m","input":"a"}"#));
    assert!(parse(Route::Embed, &headers, body, &limits, asker).await.is_ok());
}

#[tokio::test]
async fn a_web_page_must_declare_json() {
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    for (content_type, name, value, allowed) in [
        (Some(form), "origin", "https://evil.example", false),
        (Some(form), "origin", "null", false),
        (None, "origin", "https://evil.example", false),
        (None, "sec-fetch-site", "cross-site", false),
        (Some(form), "sec-fetch-site", "same-site", false),
        (Some(form), "sec-fetch-site", "none", true),
        (Some(json), "origin", "https://app.example", true),
        (Some(json), "sec-fetch-site", "cross-site", true),
    ] {
        let limits = Limits::of(100);
        let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers.extend(content_type.map(|text| (http::header::CONTENT_TYPE, text.parse().unwrap())));
        let body = Full::new(Bytes::from_static(br#"{"model":"m","input":"a"}"#));
        let refused = parse(Route::Embed, &headers, body, &limits, asker).await.err();
        let kind = refused.as_ref().map(|error| error.kind());
        assert_eq!(kind, (!allowed).then_some(Kind::Forbidden), "{content_type:?} {name}: {value}");
        assert!(refused.is_none_or(|error| error.detail().message.contains(json)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_given_up_and_a_slow_one_is_not() {
    let read = async |pause: u64| {
        let limits = Limits::of(100);
        let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
        let pieces = stream::iter([r#"{"model""#, r#":"m","input""#, r#":"a"}"#]).then(move |piece| async move {
            tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(piece.as_bytes())))
        });
        parse(Route::Embed, &HeaderMap::new(), StreamBody::new(pieces), &limits, asker).await
    };
    assert!(read(29).await.is_ok());
    let error = read(31).await.unwrap_err();
    assert_eq!((error.kind(), error.detail().code), (Kind::Invalid, Some("request_timeout")));
    assert_eq!(error.detail().status, Some(http::StatusCode::REQUEST_TIMEOUT));
}
