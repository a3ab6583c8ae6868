//! The learned scorer: from a prompt's words, how much better the upstream's answer will be.
//!
//! Ridge regression of the *gap* (quality upstream − quality here) on hashed TF-IDF of words and
//! pairs: what is worth escalating is the gap, not the chance that the small model is wrong. Pure,
//! no I/O; a decision is one pass over the prompt. Its JSON holds only buckets that a training text
//! had. Called by `replay`; a door of the room.

use serde::{Deserialize, Serialize};

use super::ridge;
use super::terms::{BUCKETS, Weights, buckets};

/// The only form of the file so far.
const VERSION: u32 = 1;
/// λ of the ridge; texts have length 1, so it needs no scaling.
const PENALTY: f64 = 1.0;
/// A bucket counts when this many texts have it.
const LEAST_TEXTS: u32 = 1;

/// What one bucket contributes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Term {
    idf: f32,
    weight: f32,
}

/// Predicts the gap between upstream and local from the prompt alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub struct Scorer {
    constant: f32,
    terms: Vec<Term>,
}

impl Scorer {
    /// Fits prompts and their gaps (quality upstream − quality here, in the log's unit). Without
    /// examples it predicts 0 for everything.
    pub fn train<'a>(examples: impl IntoIterator<Item = (&'a str, f64)>) -> Scorer {
        let (texts, gaps): (Vec<Vec<u32>>, Vec<f64>) =
            examples.into_iter().map(|(prompt, gap)| (buckets(prompt), gap)).unzip();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        Scorer::fit(&texts, &gaps)
    }

    /// As [`Scorer::train`], from texts whose buckets are known.
    pub(super) fn fit(texts: &[&[u32]], gaps: &[f64]) -> Scorer {
        let idf = Weights::learn(texts, LEAST_TEXTS);
        let rows: Vec<Vec<(u32, f32)>> = texts.iter().map(|text| idf.vector(text)).collect();
        let (weights, constant) = ridge::solve(&rows, gaps, BUCKETS, PENALTY);
        let terms = idf.0.iter().zip(weights).map(|(&idf, weight)| Term { idf, weight: weight as f32 }).collect();
        Scorer { constant: constant as f32, terms }
    }

    /// The predicted gap: above 0, the upstream is expected to answer better. Total: a prompt
    /// without a known word gets the mean gap of the training texts.
    pub fn gap(&self, prompt: &str) -> f64 {
        self.gap_of(&buckets(prompt))
    }

    /// As [`Scorer::gap`], of a text whose buckets are known.
    pub(super) fn gap_of(&self, text: &[u32]) -> f64 {
        let (mut length, mut sum) = (0.0_f32, 0.0_f32);
        for run in text.chunk_by(|a, b| a == b) {
            let term = self.terms[run[0] as usize];
            let value = run.len() as f32 * term.idf;
            length += value * value;
            sum += value * term.weight;
        }
        let told = if length > 0.0 { sum / length.sqrt() } else { 0.0 };
        f64::from(self.constant + told)
    }
}

/// The file: only what is not zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    buckets: usize,
    constant: f32,
    /// (bucket, idf, weight), by bucket.
    terms: Vec<(u32, f32, f32)>,
}

impl From<Scorer> for File {
    fn from(scorer: Scorer) -> File {
        let known = scorer.terms.iter().enumerate().filter(|(_, term)| term.idf > 0.0);
        let terms = known.map(|(bucket, term)| (bucket as u32, term.idf, term.weight)).collect();
        File { version: VERSION, buckets: BUCKETS, constant: scorer.constant, terms }
    }
}

impl TryFrom<File> for Scorer {
    type Error = String;

    fn try_from(file: File) -> Result<Scorer, String> {
        if file.version != VERSION || file.buckets != BUCKETS {
            let (version, buckets) = (file.version, file.buckets);
            return Err(format!(
                "a scorer of version {version} with {buckets} buckets; known: version {VERSION} with {BUCKETS}; train it again"
            ));
        }
        let mut terms = vec![Term::default(); BUCKETS];
        for (bucket, idf, weight) in file.terms {
            let sound = idf.is_finite() && idf > 0.0 && weight.is_finite();
            match terms.get_mut(bucket as usize) {
                Some(term) if sound => *term = Term { idf, weight },
                _ => return Err(format!("term [{bucket}, {idf}, {weight}] of a scorer: out of range")),
            }
        }
        if !file.constant.is_finite() {
            return Err(format!("constant {} of a scorer: out of range", file.constant));
        }
        Ok(Scorer { constant: file.constant, terms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained() -> Scorer {
        let hard = ["prove the theorem of galois", "prove that the group is cyclic", "prove the lemma"];
        let easy = ["what is the capital of france", "what is the capital of peru", "what is the colour"];
        Scorer::train(hard.into_iter().map(|text| (text, 1.0)).chain(easy.into_iter().map(|text| (text, 0.0))))
    }

    #[test]
    fn prompts_like_those_with_a_large_gap_score_higher() {
        let scorer = trained();
        assert!(scorer.gap("prove the claim") > 0.5 + 0.05);
        assert!(scorer.gap("what is the capital of chad") < 0.5 - 0.05);
    }

    #[test]
    fn a_prompt_without_a_known_word_gets_the_constant() {
        let scorer = Scorer::train([("aa", 0.3), ("aa", 0.5)]);
        assert!((scorer.gap("zz") - 0.4).abs() < 1e-6);
        assert_eq!(scorer.gap(""), scorer.gap("zz"));
        assert_eq!(Scorer::train([]).gap("zz"), 0.0);
    }

    /// Two texts of one word each: X̄ᵀX̄ + I = [1.5 −.5; −.5 1.5], X̄ᵀȳ = [.5, −.5], so w = [.25, −.25], b = .5.
    #[test]
    fn a_small_case_equals_the_closed_form() {
        let scorer = Scorer::train([("aa", 1.0), ("bb", 0.0)]);
        assert!((scorer.gap("aa") - 0.75).abs() < 1e-6);
        assert!((scorer.gap("bb") - 0.25).abs() < 1e-6);
    }

    #[test]
    fn a_scorer_survives_its_file_unchanged() {
        let scorer = trained();
        let text = serde_json::to_string(&scorer).unwrap();
        assert_eq!(serde_json::from_str::<Scorer>(&text).unwrap(), scorer);
        assert!(text.len() < 4000, "only what is not zero is written: {} bytes", text.len());
    }

    #[test]
    fn a_file_that_cannot_be_served_is_refused() {
        let refused = |text: &str| serde_json::from_str::<Scorer>(text).unwrap_err().to_string();
        assert!(refused(r#"{"version":2,"buckets":262144,"constant":0,"terms":[]}"#).contains("train it again"));
        assert!(
            refused(r#"{"version":1,"buckets":262144,"constant":0,"terms":[[262144,1,1]]}"#).contains("out of range")
        );
        assert!(refused(r#"{"version":1,"buckets":262144,"constant":0,"terms":[[1,-1,1]]}"#).contains("out of range"));
    }
}
