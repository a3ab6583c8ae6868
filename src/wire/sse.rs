//! Server-sent events: the framing of streamed answers, in both directions.
//!
//! [`Decoder`] takes bytes in any pieces and gives whole events; an event whose lines lie in one
//! piece is not copied. It follows the WHATWG rules (CR, LF and CRLF; comments; a byte-order
//! mark; several `data` lines), keeps of the other fields only whether the event is named
//! `error`, and bounds the size of one event. Any re-chunking of a stream gives the same events.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The last event of an OpenAI stream, framed.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// The longest event that is read by default, bytes.
pub const MAX_EVENT: usize = 8 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The values of its `data` lines, joined with LF.
    pub data: Bytes,
    /// Whether its name is `error`.
    pub error: bool,
}

impl Event {
    /// Whether it is the end mark of an OpenAI stream.
    pub fn is_done(&self) -> bool {
        self.data.trim_ascii() == b"[DONE]"
    }
}

/// An event, or a line of one, exceeds the decoder's limit; the stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// The limit, bytes.
    pub limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a server-sent event is longer than {} bytes", self.limit)
    }
}

impl std::error::Error for TooLong {}

/// Cuts a stream of bytes into events.
///
/// Call [`Decoder::next`] until it gives `None`, then [`Decoder::push`] the next piece.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// What is left of the last piece.
    input: Bytes,
    /// The beginning of a line whose end has not come yet.
    carry: BytesMut,
    /// The data lines of the event so far.
    data: Option<Bytes>,
    error: bool,
    first_line: bool,
    /// The last line ended with CR: an LF that follows belongs to it.
    after_cr: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new(MAX_EVENT)
    }
}

impl Decoder {
    /// A decoder that refuses lines and events longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Decoder {
            limit,
            input: Bytes::new(),
            carry: BytesMut::new(),
            data: None,
            error: false,
            first_line: true,
            after_cr: false,
        }
    }

    /// Hands over the next piece of the stream. The one before must have been read to its end.
    pub fn push(&mut self, piece: Bytes) {
        if self.input.is_empty() {
            self.input = piece;
        } else {
            let rest = std::mem::take(&mut self.input);
            let mut joined = BytesMut::with_capacity(rest.len() + piece.len());
            joined.put(rest);
            joined.put(piece);
            self.input = joined.freeze();
        }
    }

    /// The next whole event; `None` when more bytes are needed.
    #[expect(clippy::should_implement_trait, reason = "`None` means more input, not the end")]
    pub fn next(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                if let Some(event) = self.dispatch() {
                    return Ok(Some(event));
                }
            } else {
                self.field(&line)?;
            }
        }
        Ok(None)
    }

    /// The stream has ended: the event that its last bytes make, though no empty line closed it
    /// (some servers leave that out after `[DONE]`).
    pub fn finish(&mut self) -> Result<Option<Event>, TooLong> {
        let line = self.carry.split().freeze();
        if !line.is_empty() {
            self.field(&line)?;
        }
        Ok(self.dispatch())
    }

    /// Takes one line off the input, without its end.
    fn line(&mut self) -> Result<Option<Bytes>, TooLong> {
        if self.after_cr && !self.input.is_empty() {
            self.after_cr = false;
            if self.input[0] == b'\n' {
                self.input.advance(1);
            }
        }
        let Some(end) = self.input.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.carry.extend_from_slice(&self.input);
            self.input.clear();
            self.bound(self.carry.len())?;
            return Ok(None);
        };
        self.after_cr = self.input[end] == b'\r';
        let mut line = self.input.split_to(end);
        self.input.advance(1);
        if !self.carry.is_empty() {
            self.carry.extend_from_slice(&line);
            line = self.carry.split().freeze();
        }
        self.bound(line.len())?;
        Ok(Some(line))
    }

    fn field(&mut self, line: &Bytes) -> Result<(), TooLong> {
        let skip = if self.first_line && line.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        self.first_line = false;
        let line = line.slice(skip..);
        let colon = line.iter().position(|byte| *byte == b':');
        let name = &line[..colon.unwrap_or(line.len())];
        let start = match colon {
            Some(colon) if line.get(colon + 1) == Some(&b' ') => colon + 2,
            Some(colon) => colon + 1,
            None => line.len(),
        };
        match name {
            b"data" => self.add(line.slice(start..))?,
            b"event" => self.error = &line[start..] == b"error",
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, value: Bytes) -> Result<(), TooLong> {
        let Some(before) = self.data.take() else {
            self.data = Some(value);
            return Ok(());
        };
        self.bound(before.len() + 1 + value.len())?;
        // Usually unique from the second line on, so that many lines are not copied many times.
        let mut joined = before.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        joined.put_u8(b'\n');
        joined.put(value);
        self.data = Some(joined.freeze());
        Ok(())
    }

    fn dispatch(&mut self) -> Option<Event> {
        let error = std::mem::take(&mut self.error);
        self.first_line = false;
        self.data.take().map(|data| Event { data, error })
    }

    fn bound(&self, length: usize) -> Result<(), TooLong> {
        if length > self.limit { Err(TooLong { limit: self.limit }) } else { Ok(()) }
    }
}

/// Frames one event: `data: …` and an empty line, a `data` line per line of `data`.
pub fn render(data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 8);
    render_into(&mut out, data);
    out.freeze()
}

/// As [`render`], appended to `out`.
pub fn render_into(out: &mut BytesMut, data: &[u8]) {
    let mut rest = data;
    out.put_slice(b"data: ");
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        out.put_slice(&rest[..end]);
        out.put_slice(b"\ndata: ");
        let ended = if rest[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        rest = &rest[ended..];
    }
    out.put_slice(rest);
    out.put_slice(b"\n\n");
}

/// Frames a comment, which clients skip: `: TEXT` and an empty line. Line ends in `text` become
/// spaces.
pub fn render_comment(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 4);
    out.put_slice(b": ");
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    out.put_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
