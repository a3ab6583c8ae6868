//! `[telemetry]` as it was written → where traces are sent, and how many of them.
//!
//! Nothing is traced unless the table is there. What the collector wants in its headers comes from the
//! environment (`OTEL_EXPORTER_OTLP_HEADERS`), since it may hold a key. Called by `check`; `observe` sends.

use http::Uri;
use http::header::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::Environment;
use super::read::{Placed, RawTelemetry};
use crate::error::Problem;

/// The variable that names headers for the collector: `key=value,key=value`, percent-encoded.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// What the path of OTLP over HTTP ends with.
const HTTP_PATH: &str = "/v1/traces";
/// The only method of OTLP over gRPC that Weir calls.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The share of requests that is traced where nobody says.
const USUAL_SAMPLE: f64 = 0.1;

/// Where traces are sent, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// The whole address that batches are posted to.
    pub endpoint: Uri,
    /// How they are framed.
    pub protocol: Protocol,
    /// The share of traces that begin here and are recorded, 0 … 1; those of clients go by their client.
    pub sample: f64,
    /// What the process is called (`service.name`).
    pub service: String,
    /// Whether prompts and answers are sent too.
    pub content: bool,
    /// What the collector wants to see; never shown.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The two forms of OTLP with protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One call per batch, on HTTP/2.
    Grpc,
    /// One POST per batch.
    Http,
}

/// Checks the table; every problem is told, and then there is no value.
pub(super) fn check(raw: &Placed<RawTelemetry>, env: &Environment, told: &mut Vec<Problem>) -> Option<Telemetry> {
    let RawTelemetry { otlp, protocol, sample, service, content } = &raw.value;
    let mut problems = Vec::new();
    let protocol = match protocol.as_deref() {
        None | Some("grpc") => Protocol::Grpc,
        Some("http") => Protocol::Http,
        Some(other) => {
            problems.push(format!("protocol = \"{other}\" is unknown; known: grpc, http"));
            Protocol::Grpc
        }
    };
    let endpoint = parse_address(otlp, protocol).unwrap_or_else(|problem| {
        problems.push(problem);
        Uri::default()
    });
    let sample = sample.unwrap_or(USUAL_SAMPLE);
    if !(0.0..=1.0).contains(&sample) {
        problems.push(format!("sample = {sample}; want 0 to 1"));
    }
    let service = service.clone().unwrap_or_else(|| "weir".to_owned());
    if service.is_empty() {
        problems.push("service is empty; want a name".to_owned());
    }
    let headers = env.get(HEADERS).map_or(Ok(Vec::new()), |text| parse_headers(&text)).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    let sound = problems.is_empty();
    told.extend(problems.into_iter().map(|what| raw.problem(format!("telemetry: {what}"))));
    sound.then(|| Telemetry { endpoint, protocol, sample, service, content: content.unwrap_or(false), headers })
}

/// The collector's address, with the path that the protocol wants.
fn parse_address(text: &str, protocol: Protocol) -> Result<Uri, String> {
    if text.contains('@') {
        return Err(format!("otlp holds credentials; want them in the environment variable {HEADERS}"));
    }
    let want = match protocol {
        Protocol::Grpc => "http://127.0.0.1:4317, without a path",
        Protocol::Http => "http://127.0.0.1:4318",
    };
    let problem = || format!("otlp = \"{text}\": want a URL such as {want}");
    let trimmed = text.trim_end_matches('/');
    let uri: Uri = trimmed.parse().map_err(|_| problem())?;
    let bare = uri.path() == "/" || uri.path().is_empty();
    let path = match protocol {
        Protocol::Grpc if !bare => return Err(problem()),
        Protocol::Grpc => GRPC_PATH,
        Protocol::Http if uri.path().ends_with(HTTP_PATH) => "",
        Protocol::Http => HTTP_PATH,
    };
    match (uri.scheme_str(), uri.authority(), uri.query()) {
        (Some("http" | "https"), Some(_), None) => format!("{trimmed}{path}").parse().map_err(|_| problem()),
        _ => Err(problem()),
    }
}

/// `key=value,key=value`; the values are not told, since they may be keys.
fn parse_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let parsed = pairs.enumerate().map(|(place, pair)| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value)).filter(|_| place < 64)
    });
    parsed
        .collect::<Option<_>>()
        .ok_or_else(|| format!("the environment variable {HEADERS} is malformed; want key=value,key=value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(otlp: &str, protocol: Option<&str>, headers: &str) -> Result<Telemetry, Vec<String>> {
        let value = RawTelemetry {
            otlp: otlp.to_owned(),
            protocol: protocol.map(str::to_owned),
            sample: None,
            service: None,
            content: None,
        };
        let (place, mut problems) = ("weir.toml:1".to_owned(), Vec::new());
        let checked = check(&Placed { value, place }, &Environment::fixed([(HEADERS, headers)]), &mut problems);
        checked.ok_or_else(|| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_path_is_that_of_the_protocol() {
        let grpc = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        for (otlp, protocol, path) in [
            ("http://c:4317", None, grpc),
            ("https://c/", Some("grpc"), grpc),
            ("http://c:4318", Some("http"), "/v1/traces"),
            ("http://c:4318/otlp/", Some("http"), "/otlp/v1/traces"),
            ("http://c:4318/v1/traces", Some("http"), "/v1/traces"),
        ] {
            assert_eq!(checked(otlp, protocol, "").unwrap().endpoint.path(), path, "{otlp}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_way_out() {
        for otlp in ["", "c:4317", "ftp://c", "http://c/path", "http://c?x=1", "http://"] {
            let [problem] = &checked(otlp, None, "").unwrap_err()[..] else { panic!("{otlp}") };
            assert!(problem.ends_with("want a URL such as http://127.0.0.1:4317, without a path"), "{problem}");
        }
        let [problem] = &checked("http://a:b@c", Some("http"), "").unwrap_err()[..] else { panic!() };
        assert_eq!(
            problem,
            "weir.toml:1: telemetry: otlp holds credentials; want them in the environment variable OTEL_EXPORTER_OTLP_HEADERS"
        );
    }

    #[test]
    fn headers_come_from_the_environment_and_are_not_shown() {
        let telemetry = checked("http://c:4317", None, "Authorization=Bearer%20secret, x-team=a").unwrap();
        let told: Vec<_> = telemetry.headers.iter().map(|(name, it)| (name.as_str(), it.to_str().unwrap())).collect();
        assert_eq!(told, [("authorization", "Bearer secret"), ("x-team", "a")]);
        assert!(!format!("{telemetry:?}").contains("secret"));
        for malformed in ["secret", "a b=secret", "a=%0A"] {
            let [problem] = &checked("http://c:4317", None, malformed).unwrap_err()[..] else { panic!() };
            assert!(problem.contains("is malformed") && !problem.contains("secret"), "{problem}");
        }
    }
}
