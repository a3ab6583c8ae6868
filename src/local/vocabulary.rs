//! The bytes of every token of a model, read once, and which tokens end a turn.
//!
//! A token's bytes are a slice of one shared buffer: giving them out costs a reference count.

use bytes::Bytes;

/// The tokens of a model.
#[derive(Debug)]
pub(super) struct Vocabulary {
    bytes: Bytes,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    /// Tokens that end a turn, ascending.
    last: Vec<u32>,
}

impl Vocabulary {
    /// From the bytes of each token in order (empty for control tokens) and those that end a turn.
    pub(super) fn new(pieces: impl Iterator<Item = Vec<u8>>, mut last: Vec<u32>) -> Self {
        let mut bytes = Vec::new();
        let ends = pieces.map(|piece| {
            bytes.extend_from_slice(&piece);
            bytes.len()
        });
        let ends = ends.collect();
        last.sort_unstable();
        Vocabulary { bytes: bytes.into(), ends, last }
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A token's bytes; empty for control tokens and for ids that do not exist.
    pub(super) fn piece(&self, token: u32) -> Bytes {
        let token = token as usize;
        let start = token.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        match (start, self.ends.get(token)) {
            (Some(start), Some(&end)) => self.bytes.slice(start..end),
            _ => Bytes::new(),
        }
    }

    /// Whether the token ends a turn.
    pub(super) fn ends_turn(&self, token: u32) -> bool {
        self.last.binary_search(&token).is_ok()
    }

    /// The bytes of the longest token, at least 1.
    pub(super) fn longest(&self) -> usize {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| end - start).max().unwrap_or(0).max(1)
    }

    /// The text of tokens; bytes that are no UTF-8 become U+FFFD.
    pub(super) fn text(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.piece(token)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_id() {
        let pieces = [&b"a"[..], b"", b"bcd", b"\xe4\xb8"].map(<[u8]>::to_vec);
        let vocabulary = Vocabulary::new(pieces.into_iter(), vec![3, 1]);
        assert_eq!(vocabulary.piece(0), &b"a"[..]);
        assert_eq!(vocabulary.piece(1), &b""[..]);
        assert_eq!(vocabulary.piece(2), &b"bcd"[..]);
        assert_eq!(vocabulary.piece(9), &b""[..]);
        assert_eq!((vocabulary.len(), vocabulary.longest()), (4, 3));
        assert!(vocabulary.ends_turn(1) && vocabulary.ends_turn(3) && !vocabulary.ends_turn(0));
        assert_eq!(vocabulary.text(&[2, 0, 3]), "bcda\u{fffd}");
    }
}
