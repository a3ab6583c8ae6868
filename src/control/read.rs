//! Bytes of a configuration file → the raw form: every table as it was written, each with its line.
//!
//! Nothing is resolved here. Each table is deserialised by itself, so that every problem of a
//! file is found in one reading. Called by `check`.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::overlay::Candidate;
use crate::error::Problem;

/// A configuration file as it was written.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) listen: Option<Placed<String>>,
    pub(super) admin: Option<Placed<String>>,
    pub(super) engine_threads: Option<Placed<usize>>,
    pub(super) workers: Option<Placed<usize>>,
    pub(super) max_body: Option<Placed<bytesize::ByteSize>>,
    pub(super) max_bodies: Option<Placed<bytesize::ByteSize>>,
    pub(super) policy_headers: Option<Placed<Vec<String>>>,
    pub(super) prices: Option<Placed<String>>,
    pub(super) state: Option<Placed<String>>,
    pub(super) admin_token: Option<Placed<RawKey>>,
    pub(super) watch: Option<Placed<bool>>,
    pub(super) memory: Option<Placed<bytesize::ByteSize>>,
    pub(super) load_wait: Option<Placed<RawWait>>,
    pub(super) price: Vec<Placed<RawPrice>>,
    pub(super) models: Vec<Placed<RawModel>>,
    pub(super) upstreams: Vec<Placed<RawUpstream>>,
    pub(super) virtuals: Vec<Placed<RawVirtual>>,
    pub(super) tenants: Vec<Placed<RawTenant>>,
    pub(super) capture: Option<Placed<RawCapture>>,
    pub(super) telemetry: Option<Placed<RawTelemetry>>,
    /// What could not be read, and stands in none of the above.
    pub(super) problems: Vec<Problem>,
}

/// A value and where it stands: `FILE:LINE`.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: String,
}

impl<T> Placed<T> {
    /// A problem that stands here.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { place: self.place.clone(), message: message.into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) name: String,
    /// Not of an adapter's model.
    pub(super) file: Option<String>,
    pub(super) adapter: Option<RawAdapter>,
    pub(super) context: Option<u32>,
    pub(super) slots: Option<u32>,
    pub(super) queue: Option<usize>,
    pub(super) residency: Option<RawResidency>,
    pub(super) canary: Option<Candidate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapter {
    pub(super) of: String,
    pub(super) file: String,
    pub(super) scale: Option<f32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawResidency {
    Pinned,
    OnDemand,
}

/// A time to wait.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct RawWait(#[serde(deserialize_with = "duration")] pub(super) Option<Duration>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) name: String,
    pub(super) dialect: Option<String>,
    pub(super) endpoints: Vec<String>,
    pub(super) api_key: Option<RawKey>,
    pub(super) models: Vec<String>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) connect_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) first_byte_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) idle_timeout: Option<Duration>,
    pub(super) retries: Option<u32>,
}

/// Where a key comes from; exactly one field is set.
#[derive(Debug, Clone)]
pub(super) struct RawKey {
    pub(super) env: Option<String>,
    pub(super) file: Option<String>,
    pub(super) client: Option<bool>,
}

/// A key that stands in the file itself is refused without being shown: problems are logged.
impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyForm)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    env: Option<String>,
    file: Option<String>,
    client: Option<bool>,
}

struct KeyForm;

impl<'de> Visitor<'de> for KeyForm {
    type Value = RawKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ env = \"NAME\" } or { file = \"PATH\" }")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<RawKey, E> {
        Err(E::custom("a key may not stand here; want { env = \"NAME\" } or { file = \"PATH\" }"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawKey, A::Error> {
        let KeyTable { env, file, client } = KeyTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawKey { env, file, client })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVirtual {
    pub(super) name: String,
    pub(super) policy: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTenant {
    pub(super) name: String,
    pub(super) key: RawKey,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCapture {
    pub(super) file: String,
    pub(super) max_bytes: Option<bytesize::ByteSize>,
    pub(super) keep: Option<u32>,
    pub(super) redact: Option<Vec<String>>,
    pub(super) text: Option<bool>,
    pub(super) share: Option<f64>,
    pub(super) acknowledged: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTelemetry {
    pub(super) otlp: String,
    pub(super) protocol: Option<String>,
    pub(super) sample: Option<f64>,
    pub(super) service: Option<String>,
    pub(super) content: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrice {
    pub(super) model: String,
    pub(super) input: f64,
    pub(super) cached_input: Option<f64>,
    pub(super) output: f64,
}

/// Reads `250ms`, `5s`, `2m`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match humantime::parse_duration(&text) {
        Ok(Duration::ZERO) => Err(serde::de::Error::custom(format!("`{text}` is no time to wait; want more than 0"))),
        Ok(duration) => Ok(Some(duration)),
        Err(error) => {
            Err(serde::de::Error::custom(format!("`{text}` is not a duration like \"5s\" or \"250ms\": {error}")))
        }
    }
}

/// Reads a configuration file; `place` is the file's name in problems. Only what is no TOML at all
/// is an error.
pub(super) fn parse(place: &str, source: &str) -> Result<Raw, Problem> {
    let mut reader = Reader::open(place, source)?;
    Ok(Raw {
        listen: reader.one("listen"),
        admin: reader.one("admin"),
        engine_threads: reader.one("engine_threads"),
        workers: reader.one("workers"),
        max_body: reader.one("max_body"),
        max_bodies: reader.one("max_bodies"),
        policy_headers: reader.one("policy_headers"),
        prices: reader.one("prices"),
        state: reader.one("state"),
        admin_token: reader.one("admin_token"),
        watch: reader.one("watch"),
        memory: reader.one("memory"),
        load_wait: reader.one("load_wait"),
        price: reader.many("price"),
        models: reader.many("model"),
        upstreams: reader.many("upstream"),
        virtuals: reader.many("virtual"),
        tenants: reader.many("tenant"),
        capture: reader.one("capture"),
        telemetry: reader.one("telemetry"),
        problems: reader.close(),
    })
}

/// Reads a price file: only `[[price]]` tables.
pub(super) fn parse_prices(place: &str, source: &str) -> Result<Vec<Placed<RawPrice>>, Vec<Problem>> {
    let mut reader = Reader::open(place, source).map_err(|problem| vec![problem])?;
    let prices = reader.many("price");
    let problems = reader.close();
    if problems.is_empty() { Ok(prices) } else { Err(problems) }
}

/// Takes keys out of a document, one by one, and keeps the problems.
struct Reader<'a> {
    place: &'a str,
    source: &'a str,
    table: DeTable<'a>,
    taken: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn open(place: &'a str, source: &'a str) -> Result<Self, Problem> {
        match DeTable::parse(source) {
            Ok(table) => {
                Ok(Reader { place, source, table: table.into_inner(), taken: Vec::new(), problems: Vec::new() })
            }
            Err(error) => Err(Problem {
                place: place_of(place, source, error.span().map_or(0, |span| span.start)),
                message: error.message().to_owned(),
            }),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.taken.push(key);
        self.table.remove(key)
    }

    fn one<T: Deserialize<'a>>(&mut self, key: &'static str) -> Option<Placed<T>> {
        let value = self.take(key)?;
        self.read(key, value)
    }

    fn many<T: Deserialize<'a>>(&mut self, key: &'static str) -> Vec<Placed<T>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Array(items) => items.into_iter().filter_map(|item| self.read(key, item)).collect(),
            other => {
                let message = format!("`{key}` is a {}, want tables: [[{key}]]", other.type_str());
                self.problems.push(Problem { place: place_of(self.place, self.source, start), message });
                Vec::new()
            }
        }
    }

    fn read<T: Deserialize<'a>>(&mut self, key: &str, value: Spanned<DeValue<'a>>) -> Option<Placed<T>> {
        let start = value.span().start;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(Placed { value, place: place_of(self.place, self.source, start) }),
            Err(error) => {
                let at = error.span().map_or(start, |span| span.start);
                let message = format!("{key}: {}", error.message().replace('\n', " "));
                self.problems.push(Problem { place: place_of(self.place, self.source, at), message });
                None
            }
        }
    }

    fn close(mut self) -> Vec<Problem> {
        for (key, _) in self.table.iter() {
            let place = place_of(self.place, self.source, key.span().start);
            let message = format!("unknown key `{}`; known: {}", key.get_ref(), self.taken.join(", "));
            self.problems.push(Problem { place, message });
        }
        self.problems
    }
}

/// `FILE:LINE` of a byte offset.
fn place_of(place: &str, source: &str, offset: usize) -> String {
    let line = source.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1;
    format!("{place}:{line}")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_problem_of_a_file_is_reported_with_its_line() {
        let source = "listen = 5\nwhat = 1\n[[model]]\nfile = \"a\"\n[[upstream]]\nname = \"u\"\nendpoints = []\nmodels = []\nidle_timeout = \"soon\"\n";
        let problems: Vec<String> =
            parse("weir.toml", source).unwrap().problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems[0].starts_with("weir.toml:1: listen: invalid type"), "{}", problems[0]);
        assert!(problems[1].starts_with("weir.toml:3: model: missing field `name`"), "{}", problems[1]);
        assert!(problems[2].starts_with("weir.toml:9: upstream: `soon` is not a duration"), "{}", problems[2]);
        assert!(problems[3].starts_with("weir.toml:2: unknown key `what`; known: listen, "), "{}", problems[3]);
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let problem = parse("weir.toml", "listen = \"a\"\nadmin = = 3\n").unwrap_err();
        assert_eq!(problem.place, "weir.toml:2");
    }
}
