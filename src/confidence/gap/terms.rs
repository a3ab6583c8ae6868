//! Text as numbers: what the learned scorer and the nearest neighbours see of a prompt.
//!
//! Words (runs of letters, digits and `_`, lower-cased) and pairs of neighbouring words are hashed
//! into a fixed number of buckets (Weinberger et al., "Feature hashing for large scale multitask
//! learning", 2009), so nothing but numbers has to be kept to serve. A bucket weighs its count times
//! idf = 1 + ln((1 + n) / (1 + df)); a vector has length 1. Beside the words stands the text's shape.
//! Pure; called by the scorer and by the routers of a replay.

use std::hash::Hasher;

use fnv::FnvHasher;

/// How many buckets words and pairs fall into.
pub(crate) const BUCKETS: usize = 1 << 18;

/// How many numbers describe a text's shape.
pub(crate) const SHAPES: usize = 5;

/// How many bytes of a text are read, so that a decision takes microseconds whatever is sent.
const MOST_BYTES: usize = 4096;

/// A text as it is read once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Text {
    /// The buckets of its words and pairs, sorted; one per occurrence, so that runs are counts.
    pub(crate) buckets: Vec<u32>,
    /// ln(1 + n) of characters, words and lines; shares of digits and of signs among the characters.
    pub(crate) shape: [f32; SHAPES],
}

impl Text {
    /// Reads the first 4 KiB of a text.
    pub(crate) fn read(text: &str) -> Text {
        let text = &text[..text.floor_char_boundary(MOST_BYTES)];
        let (mut characters, mut lines, mut digits, mut signs) = (0_u32, 0_u32, 0_u32, 0_u32);
        for c in text.chars() {
            characters += 1;
            lines += u32::from(c == '\n');
            digits += u32::from(c.is_ascii_digit());
            signs += u32::from(!c.is_alphanumeric() && !c.is_whitespace());
        }
        let (buckets, words) = buckets(text);
        let share = |part: u32| part as f32 / characters.max(1) as f32;
        let size = |count: u32| (count as f32).ln_1p();
        Text { buckets, shape: [size(characters), size(words), size(lines), share(digits), share(signs)] }
    }
}

/// Finishes the hash of a word or of a pair: its bucket.
fn bucket(hash: u64) -> u32 {
    ((hash ^ (hash >> 32)) as usize % BUCKETS) as u32
}

/// The buckets of a text, and how many words it has.
fn buckets(text: &str) -> (Vec<u32>, u32) {
    let mut found = Vec::with_capacity(text.len() / 2);
    let mut words = 0;
    let mut before: Option<u64> = None;
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()) {
        let mut hasher = FnvHasher::default();
        if word.is_ascii() {
            word.bytes().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
        } else {
            for c in word.chars().flat_map(char::to_lowercase) {
                hasher.write(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        let hash = hasher.finish();
        found.push(bucket(hash));
        if let Some(before) = before {
            let mut pair = FnvHasher::with_key(before);
            pair.write(&hash.to_le_bytes());
            found.push(bucket(pair.finish()));
        }
        before = Some(hash);
        words += 1;
    }
    found.sort_unstable();
    (found, words)
}

/// How much each bucket weighs: inverse document frequencies, 0 where no text had it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights(pub(crate) Vec<f32>);

impl Weights {
    /// Learns them from texts. Buckets of fewer than `least` texts weigh 0.
    pub(crate) fn learn(texts: &[&Text], least: u32) -> Weights {
        let mut frequency = vec![0_u32; BUCKETS];
        for text in texts {
            for run in text.buckets.chunk_by(|a, b| a == b) {
                frequency[run[0] as usize] += 1;
            }
        }
        let n = texts.len() as f32;
        let weigh = |&df: &u32| if df < least.max(1) { 0.0 } else { 1.0 + ((1.0 + n) / (1.0 + df as f32)).ln() };
        Weights(frequency.iter().map(weigh).collect())
    }

    /// The text's vector: (bucket, value) by bucket, of Euclidean length 1; empty where nothing is known.
    pub(crate) fn vector(&self, text: &Text) -> Vec<(u32, f32)> {
        let weigh = |run: &[u32]| (run[0], run.len() as f32 * self.0[run[0] as usize]);
        let mut vector: Vec<(u32, f32)> =
            text.buckets.chunk_by(|a, b| a == b).map(weigh).filter(|term| term.1 > 0.0).collect();
        let length = vector.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|(_, value)| *value /= length);
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(text: &str) -> Vec<u32> {
        Text::read(text).buckets
    }

    #[test]
    fn a_shape_counts_characters_words_lines_digits_and_signs() {
        let shape = Text::read("a b?\n12").shape;
        let near = |at: usize, wanted: f32| (shape[at] - wanted).abs() < 1e-6;
        assert!(near(0, 8.0_f32.ln()) && near(1, 4.0_f32.ln()) && near(2, 2.0_f32.ln()));
        assert!(near(3, 2.0 / 7.0) && near(4, 1.0 / 7.0));
        assert_eq!(Text::read("").shape, [0.0; SHAPES]);
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_order_does() {
        assert_eq!(buckets("How many, THEN?"), buckets("how many then"));
        assert_ne!(buckets("many how"), buckets("how many"));
        assert_eq!(buckets("one two three").len(), 5);
        assert!(buckets(" ?! ").is_empty());
    }

    #[test]
    fn no_more_than_four_kibibytes_are_read() {
        let long = "é".repeat(4096);
        assert_eq!(Text::read(&long), Text::read(&long[..4096]));
        assert_eq!(Text::read(&format!("{}x", "a ".repeat(2048))), Text::read(&"a ".repeat(2048)));
    }

    #[test]
    fn a_rare_word_weighs_more_than_one_in_every_text() {
        let texts = [Text::read("the cat"), Text::read("the dog")];
        let weights = Weights::learn(&[&texts[0], &texts[1]], 1);
        let [the, cat] = [buckets("the")[0], buckets("cat")[0]].map(|bucket| weights.0[bucket as usize]);
        assert!((the - 1.0).abs() < 1e-6, "ln(3/3) + 1");
        assert!((cat - (1.0 + 1.5_f32.ln())).abs() < 1e-6);
        let least = Weights::learn(&[&texts[0], &texts[1]], 2);
        assert_eq!(least.0[buckets("cat")[0] as usize], 0.0);
    }

    #[test]
    fn a_vector_has_length_one_and_an_unknown_text_none() {
        let text = Text::read("a rose is a rose");
        let weights = Weights::learn(&[&text], 1);
        let length: f32 = weights.vector(&text).iter().map(|(_, value)| value * value).sum();
        assert!((length - 1.0).abs() < 1e-6);
        assert!(weights.vector(&Text::read("nothing known")).is_empty());
    }
}
