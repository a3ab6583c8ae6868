//! Turns the bytes of sampled tokens into text: whole UTF-8 only, ended by the client's stop texts.
//!
//! How the bytes are cut into pushes never changes the total text. Of several stop texts the one
//! that is complete first wins (of those complete at once, the longest); it and what follows are
//! not part of the answer. Held back is only an unfinished character and what may still become a
//! stop text. The engine has one per choice.

#[cfg(test)]
mod tests;

/// The text of one choice, as it grows.
#[derive(Debug)]
pub(crate) struct TextOut {
    stops: Vec<String>,
    /// Bytes of an unfinished character, at most 3.
    tail: Vec<u8>,
    /// Text that may be the start of a stop text.
    held: String,
    stopped: bool,
}

/// What a push brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Emitted {
    /// Text that is certainly part of the answer; may be empty.
    pub(crate) text: String,
    /// Whether a stop text has been met, now or before.
    pub(crate) stopped: bool,
}

impl TextOut {
    /// Empty stop texts are ignored.
    pub(crate) fn new(mut stops: Vec<String>) -> TextOut {
        stops.retain(|stop| !stop.is_empty());
        TextOut { stops, tail: Vec::new(), held: String::new(), stopped: false }
    }

    /// Adds bytes. Invalid ones become U+FFFD, as `String::from_utf8_lossy` of the whole would
    /// have it. After a stop text nothing is emitted any more.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Emitted {
        if !self.stopped {
            self.tail.extend_from_slice(bytes);
            self.decode();
        }
        Emitted { text: self.release(), stopped: self.stopped }
    }

    /// The rest of the text: what was held back, unless it was a stop text. Call it once, at the
    /// end.
    pub(crate) fn finish(&mut self) -> String {
        let tail = std::mem::take(&mut self.tail);
        self.held.push_str(&String::from_utf8_lossy(&tail));
        let text = self.release();
        if self.stopped { text } else { text + &std::mem::take(&mut self.held) }
    }

    /// Moves all finished characters from the tail to the held text.
    fn decode(&mut self) {
        let mut unfinished = Vec::new();
        let mut chunks = self.tail.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.held.push_str(chunk.valid());
            match std::str::from_utf8(chunk.invalid()) {
                Ok(_) => {}
                Err(error) if error.error_len().is_none() && chunks.peek().is_none() => {
                    unfinished = chunk.invalid().to_vec();
                }
                Err(_) => self.held.push('\u{fffd}'),
            }
        }
        self.tail = unfinished;
    }

    /// Takes out of the held text what is certain.
    fn release(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        if let Some(start) = self.find_stop() {
            self.stopped = true;
            self.tail.clear();
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let uncertain = self.stops.iter().map(|stop| overlap(&self.held, stop)).max();
        let certain = self.held.len() - uncertain.unwrap_or(0);
        self.held.drain(..certain).collect()
    }

    /// Where the stop text starts that is complete first.
    fn find_stop(&self) -> Option<usize> {
        let found = |stop: &String| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at));
        self.stops.iter().filter_map(found).min().map(|(_, start)| start)
    }
}

/// How many bytes at the end of `text` are the beginning of `pattern`, but not all of it.
pub(crate) fn overlap(text: &str, pattern: &str) -> usize {
    let longest = text.len().min(pattern.len().saturating_sub(1));
    let begins = |len: &usize| text.as_bytes().ends_with(&pattern.as_bytes()[..*len]);
    (1..=longest).rev().filter(|len| pattern.is_char_boundary(*len)).find(begins).unwrap_or(0)
}
