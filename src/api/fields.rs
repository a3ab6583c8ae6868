//! Reads JSON objects field by field, in one pass, and explains what is wrong with one.
//!
//! The first pass is plain serde_json and costs nothing extra; only when it fails is the text
//! read again with the path recorded, so that the error's `param` is like
//! `messages[1].content[0].type`. An object's keys may stand once only: two readers of the same
//! bytes must not be able to see two different requests. The files of each endpoint call it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use crate::error::{Error, Kind, Origin};

/// An object whose keys are taken one by one.
pub(super) trait Fields<'de>: Default {
    /// Takes the value of this key, or leaves it and says so.
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<Taken, A::Error>;
}

/// Whether a key was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// The value was read.
    Yes,
    /// Nobody here knows the key; the value still has to be skipped.
    No,
}

/// Puts the next value into its place; `null` is as good as absent.
pub(super) fn set<'de, A, T>(place: &mut Option<T>, map: &mut A) -> Result<Taken, A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    *place = map.next_value()?;
    Ok(Taken::Yes)
}

/// Puts the next value into its place; `null` is a value too.
pub(super) fn keep<'de, A, T>(place: &mut Option<T>, map: &mut A) -> Result<Taken, A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    *place = Some(map.next_value()?);
    Ok(Taken::Yes)
}

/// Notes the key in `place` if it is the first of its sort with a value other than `null`.
pub(super) fn note<'de, A: MapAccess<'de>>(
    place: &mut Option<String>,
    key: &str,
    map: &mut A,
) -> Result<Taken, A::Error> {
    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
        place.get_or_insert_with(|| key.to_owned());
    }
    Ok(Taken::Yes)
}

/// Makes [`Fields`] readable by serde.
struct Object<F>(F);

impl<'de, F: Fields<'de>> Deserialize<'de> for Object<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<F>(PhantomData<F>);

impl<'de, F: Fields<'de>> Visitor<'de> for ObjectVisitor<F> {
    type Value = F;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<F, A::Error> {
        let mut fields = F::default();
        let mut seen: Vec<Cow<'de, str>> = Vec::with_capacity(16);
        while let Some(Key(key)) = map.next_key()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            if seen.len() == MOST_KEYS {
                return Err(A::Error::custom(format_args!("more than {MOST_KEYS} fields")));
            }
            if fields.take(&key, &mut map)? == Taken::No {
                map.next_value::<IgnoredAny>()?;
            }
            seen.push(key);
        }
        Ok(fields)
    }
}

/// Bounds the search for duplicates.
const MOST_KEYS: usize = 256;

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integer(pub(super) i128);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Integer;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_i64<E>(self, number: i64) -> Result<Integer, E> {
                Ok(Integer(number.into()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Integer, E> {
                Ok(Integer(number.into()))
            }
        }
        deserializer.deserialize_i64(Whole)
    }
}

/// A number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number(pub(super) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }
        }
        deserializer.deserialize_f64(Any)
    }
}

/// Checks a whole number's range; `expected` says it in words.
pub(super) fn integer(
    name: &str,
    value: Option<Integer>,
    range: RangeInclusive<u32>,
    expected: &str,
) -> Result<Option<u32>, Error> {
    let Some(Integer(number)) = value else {
        return Ok(None);
    };
    match u32::try_from(number) {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => Err(wrong(name, format!("{number} is out of range, expected {expected}"))),
    }
}

/// Checks a number's range; `expected` says it in words.
pub(super) fn number(
    name: &str,
    value: Option<Number>,
    range: RangeInclusive<f32>,
    expected: &str,
) -> Result<Option<f32>, Error> {
    let Some(Number(number)) = value else {
        return Ok(None);
    };
    if range.contains(&(number as f32)) {
        Ok(Some(number as f32))
    } else {
        Err(wrong(name, format!("{number} is out of range, expected {expected}")))
    }
}

/// A value that has the right type and is wrong all the same.
pub(super) fn wrong(param: impl Into<String>, what: impl fmt::Display) -> Error {
    let param = param.into();
    let message = format!("{param}: {what}");
    Error::invalid(param, message).code("invalid_value")
}

/// A field that must be there and is not.
pub(super) fn missing(param: impl Into<String>) -> Error {
    let param = param.into();
    let message = format!("{param}: this field is required");
    Error::invalid(param, message).code("missing_required_parameter")
}

/// Reads the whole body.
pub(super) fn object<'a, F: Fields<'a>>(text: &'a str) -> Result<F, Error> {
    if text.trim_ascii().is_empty() {
        let message = "the body is empty; send a JSON object";
        return Err(Error::new(Kind::Invalid, Origin::Client, message).code("invalid_json"));
    }
    decode::<Object<F>>(text, "").map(|object| object.0)
}

/// Reads a value that stands at the path `at` of the body.
pub(super) fn decode<'a, T: Deserialize<'a>>(text: &'a str, at: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| explain::<T>(text, at).unwrap_or_else(|| fault(at, &error)))
}

/// Reads the text again to find where it is wrong.
#[cold]
fn explain<'a, T: Deserialize<'a>>(text: &'a str, at: &str) -> Option<Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let error = serde_path_to_error::deserialize::<_, T>(&mut reader).err()?;
    let path = error.path().to_string();
    let path = match (at, path.as_str()) {
        (at, ".") => at.to_owned(),
        ("", path) => path.to_owned(),
        (at, path) if path.starts_with('[') => format!("{at}{path}"),
        (at, path) => format!("{at}.{path}"),
    };
    Some(fault(&path, error.inner()))
}

/// Turns what serde_json says into an error of ours.
#[cold]
fn fault(path: &str, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    if error.classify() != Category::Data {
        let message = format!("the body is not valid JSON: {}", shorten(&text));
        return Error::new(Kind::Invalid, Origin::Client, message).code("invalid_json");
    }
    let what = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let field = |prefix: &str| what.strip_prefix(prefix)?.strip_suffix('`').map(|name| join(path, name));
    if let Some(param) = field("missing field `") {
        return missing(param);
    }
    let (param, code) = match field("duplicate field `") {
        Some(param) => (param, "duplicate_field"),
        None if what.starts_with("invalid type") => (path.to_owned(), "invalid_type"),
        None => (path.to_owned(), "invalid_value"),
    };
    let (param, what) = (shorten(&param).into_owned(), shorten(what));
    if param.is_empty() {
        return Error::new(Kind::Invalid, Origin::Client, format!("the body: {what}")).code(code);
    }
    let message = format!("{param}: {what}");
    Error::invalid(param, message).code(code)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Leaves out the middle of what quotes a long value: the reason stands at the end.
fn shorten(text: &str) -> Cow<'_, str> {
    const SHOWN: usize = 120;
    let count = text.chars().count();
    if count <= 2 * SHOWN {
        return Cow::Borrowed(text);
    }
    let head: String = text.chars().take(SHOWN).collect();
    let tail: String = text.chars().skip(count - SHOWN).collect();
    Cow::Owned(format!("{head}…{tail}"))
}
