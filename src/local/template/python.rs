//! What chat templates expect of Python: `json.dumps` and `strftime`.
//!
//! `tojson` writes what Hugging Face's does: `", "` and `": "` as separators, no ASCII or HTML
//! escapes, numbers as Python prints them. Dates are UTC. Called by templates.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The filter `tojson(indent=None, ensure_ascii=False)`; other arguments are errors.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        let message = "tojson(ensure_ascii=True) is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let style = Dumps { indent, level: 0, filled: false };
    let written = value.serialize(&mut Serializer::with_formatter(&mut bytes, style));
    let failed = |message: String| Error::new(ErrorKind::BadSerialization, message);
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
}

/// The layout of Python's `json.dumps`.
struct Dumps {
    indent: Option<usize>,
    level: usize,
    /// Whether the container that was open last has an item.
    filled: bool,
}

impl Dumps {
    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.filled {
            self.new_line(out)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }

    fn separate<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        let separator = match (first, self.indent) {
            (true, _) => "",
            (false, Some(_)) => ",",
            (false, None) => ", ",
        };
        out.write_all(separator.as_bytes())?;
        self.new_line(out)
    }

    fn new_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(out, "\n{:1$}", "", width * self.level),
            None => Ok(()),
        }
    }
}

impl Formatter for Dumps {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.separate(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _out: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.separate(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _out: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(repr(value).as_bytes())
    }
}

/// A number as Python writes it: Rust's shortest form, but the exponent has a sign and at least
/// two digits.
fn repr(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

/// The function `strftime_now(format)`.
pub(super) fn strftime_now(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    strftime(format, now.as_secs())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From the day of the epoch on.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The moment in this format, in UTC. Knows `%a %A %b %B %d %e %H %I %j %m %M %p %S %y %Y %%` and
/// `%-…` without leading zeros; leaves others as they are.
fn strftime(format: &str, unix_seconds: u64) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (bare, after) = match after.strip_prefix('-') {
            Some(after) => (true, after),
            None => (false, after),
        };
        let mut letters = after.chars();
        let field = letters.next().and_then(|letter| field(letter, unix_seconds));
        match field {
            Some(text) if bare => out.push_str(text.trim_start_matches(['0', ' '])),
            Some(text) => out.push_str(&text),
            None => {
                out.push_str(if bare { "%-" } else { "%" });
                rest = after;
                continue;
            }
        }
        rest = letters.as_str();
    }
    out + rest
}

fn field(letter: char, unix_seconds: u64) -> Option<String> {
    let days = unix_seconds / 86_400;
    let (hour, minute, second) = (unix_seconds / 3600 % 24, unix_seconds / 60 % 60, unix_seconds % 60);
    let (year, month, day) = date(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days % 7) as usize];
    let mut text = String::new();
    let written = match letter {
        'a' => write!(text, "{}", &day_name[..3]),
        'A' => write!(text, "{day_name}"),
        'b' => write!(text, "{}", &month_name[..3]),
        'B' => write!(text, "{month_name}"),
        'd' => write!(text, "{day:02}"),
        'e' => write!(text, "{day:2}"),
        'H' => write!(text, "{hour:02}"),
        'I' => write!(text, "{:02}", (hour + 11) % 12 + 1),
        'j' => write!(text, "{:03}", day_of_year(year, month, day)),
        'm' => write!(text, "{month:02}"),
        'M' => write!(text, "{minute:02}"),
        'p' => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
        'S' => write!(text, "{second:02}"),
        'y' => write!(text, "{:02}", year % 100),
        'Y' => write!(text, "{year}"),
        '%' => write!(text, "%"),
        _ => return None,
    };
    written.ok().map(|()| text)
}

/// Year, month and day of a number of days since 1970-01-01, counted year by year.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

fn day_of_year(year: u64, month: u64, day: u64) -> u64 {
    (1..month).map(|month| month_days(year, month)).sum::<u64>() + day
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + leap(year),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// 1 in a leap year, else 0.
fn leap(year: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    u64::from(is_leap)
}

#[cfg(test)]
mod tests {
    use super::{repr, strftime};

    #[test]
    fn numbers_look_as_python_prints_them() {
        for (value, wanted) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (1e15, "1000000000000000.0"),
        ] {
            assert_eq!(repr(value), wanted);
        }
    }

    #[test]
    fn dates_look_as_python_prints_them() {
        // Each checked against datetime.fromtimestamp(…, timezone.utc).strftime(…).
        let all = "%Y-%m-%d %H:%M:%S %a %A %b %B %y %j %I %p %e %%";
        for (seconds, format, wanted) in [
            (0, all, "1970-01-01 00:00:00 Thu Thursday Jan January 70 001 12 AM  1 %"),
            (951_827_696, all, "2000-02-29 12:34:56 Tue Tuesday Feb February 00 060 12 PM 29 %"),
            (1_735_689_599, all, "2024-12-31 23:59:59 Tue Tuesday Dec December 24 366 11 PM 31 %"),
            (4_107_542_400, all, "2100-03-01 00:00:00 Mon Monday Mar March 00 060 12 AM  1 %"),
            (1_721_952_000, "%d %b %Y", "26 Jul 2024"),
            (1_720_000_000, "%-d.%-m.%Y", "3.7.2024"),
            (0, "no fields, é %Q %-Q %", "no fields, é %Q %-Q %"),
        ] {
            assert_eq!(strftime(format, seconds), wanted);
        }
    }
}
