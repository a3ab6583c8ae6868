//! W3C Trace Context, both ways: the headers `traceparent` and `tracestate`.
//!
//! Strict, as the recommendation asks (level 1): what is malformed is as if it were not there, and a
//! `tracestate` counts only beside a good `traceparent`. Promises: what is written parses to the same
//! value. Read by `api` of a client's head, written by `upstream`.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::request::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;
/// Members of a `tracestate`, at most.
const MOST_MEMBERS: usize = 32;
/// Bytes of a `tracestate` that are passed on; a longer one is dropped.
const LONGEST_STATE: usize = 8192;

/// The place in a trace that these headers name; `None` where they name none.
pub fn parse(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (given.next()?, given.next());
    if second.is_some() {
        return None;
    }
    let (trace_id, span_id, sampled) = parse_parent(first.as_bytes())?;
    Some(TraceContext { trace_id, span_id, sampled, state: parse_state(headers) })
}

/// Names this place in the headers; other flags than "sampled" are not passed on.
pub fn write(context: &TraceContext, headers: &mut HeaderMap) {
    let TraceContext { trace_id, span_id, sampled, state } = context;
    let parent = format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*sampled) * SAMPLED);
    headers.extend(HeaderValue::try_from(parent).ok().map(|value| (TRACEPARENT, value)));
    let state = state.as_deref().and_then(|state| HeaderValue::from_str(state).ok());
    headers.extend(state.map(|value| (TRACESTATE, value)));
}

/// `VERSION-TRACE-PARENT-FLAGS`. A version that is not known yet may go on after the flags.
fn parse_parent(text: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2)?;
    let (trace_id, span_id) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
    let flags = hex(parts.next()?, 2)?;
    let more = parts.next().is_some();
    let fits = version != 0xff && !(version == 0 && more) && trace_id != 0 && span_id != 0;
    fits.then_some((trace_id, span_id as u64, flags & u128::from(SAMPLED) != 0))
}

/// So many lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

/// All `tracestate` headers as one; `None` where there is none, or something in it is wrong.
fn parse_state(headers: &HeaderMap) -> Option<Arc<str>> {
    let values = headers.get_all(TRACESTATE).iter();
    let texts: Vec<&str> = values.map(|value| value.to_str().ok()).collect::<Option<_>>()?;
    let all = texts.iter().flat_map(|text| text.split(','));
    let members: Vec<&str> =
        all.map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()).collect();
    let keys: Vec<&str> = members.iter().map(|member| key_of(member)).collect::<Option<_>>()?;
    let twice = keys.iter().enumerate().any(|(place, key)| keys[..place].contains(key));
    if members.is_empty() || members.len() > MOST_MEMBERS || twice {
        return None;
    }
    let state = members.join(",");
    (state.len() <= LONGEST_STATE).then(|| state.into())
}

/// The key of a well-formed member.
fn key_of(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    let printable = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b',' && byte != b'=';
    let value_fits = (1..=256).contains(&value.len()) && value.bytes().all(printable);
    (value_fits && is_key(key)).then_some(key)
}

/// `vendor`, or `tenant@vendor`.
fn is_key(key: &str) -> bool {
    let rest =
        |text: &str| text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let begins = |text: &str, digit: bool| {
        text.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || digit && first.is_ascii_digit())
    };
    match key.split_once('@') {
        None => key.len() <= 256 && begins(key, false) && rest(key),
        Some((tenant, vendor)) => {
            let tenant_fits = tenant.len() <= 241 && begins(tenant, true) && rest(tenant);
            tenant_fits && vendor.len() <= 14 && begins(vendor, false) && rest(vendor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).fold(
            HeaderMap::new(),
            |mut all, (name, value)| {
                all.append(name, value);
                all
            },
        )
    }

    fn state_of(given: &[&str]) -> Option<String> {
        let all: Vec<_> = given.iter().map(|text| ("tracestate", *text)).chain([("traceparent", GOOD)]).collect();
        parse(&headers(&all)).unwrap().state.map(|state| state.to_string())
    }

    #[test]
    fn a_good_parent_is_read_and_written_as_it_was() {
        let given = headers(&[("traceparent", GOOD), ("tracestate", "congo=t61rcWkgMzE")]);
        let context = parse(&given).unwrap();
        assert_eq!(context.trace_id, 0x0af7651916cd43dd8448eb211c80319c);
        assert_eq!((context.span_id, context.sampled), (0xb7ad6b7169203331, true));
        let mut written = HeaderMap::new();
        write(&context, &mut written);
        assert_eq!(written, given);
    }

    #[test]
    fn other_flags_are_read_over_and_a_later_version_may_say_more() {
        for (text, sampled) in [
            (GOOD.replace("-01", "-00"), false),
            (GOOD.replace("-01", "-02"), false),
            (GOOD.replace("-01", "-03"), true),
            (GOOD.replace("00-0af", "01-0af"), true),
            (format!("{}-what-ever", GOOD.replace("00-0af", "cc-0af")), true),
        ] {
            assert_eq!(
                parse(&headers(&[("traceparent", &text)])).map(|context| context.sampled),
                Some(sampled),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_parent_is_as_if_it_were_not_there() {
        for text in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("00-0af", "ff-0af"),
            &GOOD.replace("00-0af", "0-0af"),
            &GOOD.replace("-01", "-1"),
            &GOOD.replace("-01", "-0g"),
            &GOOD.replace("-01", ""),
            &format!("{GOOD}-more"),
            &format!("{GOOD}-"),
            &GOOD.replace("c-b7", "-b7"),
            &GOOD.replace("00-0af", "00-+af"),
        ] {
            assert_eq!(parse(&headers(&[("traceparent", text)])), None, "{text}");
        }
        assert_eq!(parse(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])), None);
        assert_eq!(parse(&headers(&[("tracestate", "a=b")])), None);
    }

    #[test]
    fn several_states_are_one_and_a_bad_one_is_dropped_alone() {
        assert_eq!(state_of(&["a=1, b=2 ,,", "t1@v=3"]).as_deref(), Some("a=1,b=2,t1@v=3"));
        let long = format!("a={}", "x".repeat(257));
        let many = (0..33).map(|member| format!("k{member}=v")).collect::<Vec<_>>().join(",");
        for bad in ["a", "=b", "A=b", "1a=b", "a=b=c", "a=", "a@1=b", "@v=b", "a=1,a=2", &long, &many, ""] {
            assert_eq!(state_of(&[bad]), None, "{bad}");
        }
    }
}
