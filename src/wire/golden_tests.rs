//! Streams as servers of the OpenAI dialect send them (`tests/golden/wire`), against what a client
//! gets of them.

use bytes::{Bytes, BytesMut};

use super::openai::{respell, scan};
use super::sse::{DONE, Decoder, render_into};
use crate::request::Usage;

const fn usage(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Option<Usage> {
    Some(Usage { prompt_tokens, cached_tokens, completion_tokens })
}

/// Name of the stream and the usage it tells.
const STREAMS: [(&str, Option<Usage>); 5] = [
    ("openai", usage(1200, 1024, 8)),
    ("filter-results-first", None),
    ("usage-with-choices", usage(5, 0, 2)),
    ("timings", usage(30, 0, 4)),
    ("kept-alive", usage(90, 64, 3)),
];

fn read(name: &str) -> Bytes {
    let path = format!("{}/tests/golden/wire/{name}.sse", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")).into()
}

fn pass(stream: Bytes, keep_usage: bool) -> (String, Option<Usage>) {
    let mut decoder = Decoder::default();
    decoder.push(stream);
    let mut out = BytesMut::new();
    let mut told = None;
    while let Some(event) = decoder.next().unwrap() {
        if event.is_done() {
            out.extend_from_slice(DONE);
            continue;
        }
        let found = scan(event.data).unwrap();
        told = found.usage.or(told);
        if keep_usage || !found.raw.only_usage() {
            render_into(&mut out, &respell(&found.raw, "up/large", keep_usage));
        }
    }
    (String::from_utf8(out.to_vec()).unwrap(), told)
}

#[test]
fn known_servers_streams_reach_the_client_as_written_down() {
    for (name, usage) in STREAMS {
        for (suffix, keep_usage) in [("with-usage", true), ("without-usage", false)] {
            let (out, told) = pass(read(name), keep_usage);
            assert_eq!(out.as_bytes(), read(&format!("{name}.{suffix}")), "{name}.{suffix}: {out}");
            assert_eq!(told, usage, "{name}");
        }
    }
}
