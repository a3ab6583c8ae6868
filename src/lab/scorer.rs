//! The learned scorer: from a prompt's words, how much better the upstream's answer will be.
//!
//! Ridge regression of the *gap* (quality upstream − quality here) on hashed TF-IDF of words and
//! pairs and on the prompt's shape: what is worth escalating is the gap, not the chance that the
//! small model is wrong; words tell the subject, shape carries over to subjects never seen. Pure, no
//! I/O; a decision is one pass over the prompt. Its JSON holds only buckets that a training text had.
//! Called by `replay` and `routers`; a door of the room.

use serde::{Deserialize, Serialize};

use super::ridge;
use super::terms::{BUCKETS, SHAPES, Text, Weights};

/// The only form of the file so far.
const VERSION: u32 = 1;
/// λ of the ridge; texts have length 1, so it needs no scaling. Of .5, 1, 3 and 10 this did best, or
/// next to it, on the public logs (`docs/replay.md`), in-domain and on domains left out.
const PENALTY: f64 = 10.0;
/// A bucket counts when this many texts have it.
const LEAST_TEXTS: u32 = 1;
/// A shape further from the training texts' mean, in standard deviations, is taken as this far.
const FURTHEST: f32 = 3.0;

/// What one bucket contributes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Term {
    idf: f32,
    weight: f32,
}

/// What one number of the shape contributes: weight · (value − mean) / deviation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    mean: f32,
    /// Above 0.
    deviation: f32,
    weight: f32,
}

impl Shape {
    /// Mean and deviation of one number over texts; without variation the deviation is 1.
    fn learn(values: impl Iterator<Item = f32> + Clone) -> Shape {
        let n = values.clone().count().max(1) as f32;
        let mean = values.clone().sum::<f32>() / n;
        let deviation = (values.map(|value| (value - mean).powi(2)).sum::<f32>() / n).sqrt();
        Shape { mean, deviation: if deviation > 1e-6 { deviation } else { 1.0 }, weight: 0.0 }
    }

    fn standard(&self, value: f32) -> f32 {
        ((value - self.mean) / self.deviation).clamp(-FURTHEST, FURTHEST)
    }
}

/// What a scorer learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Words alone: the plain TF-IDF ridge of the literature.
    Words,
    /// Words and shape.
    WordsAndShape,
}

/// Predicts the gap between upstream and local from the prompt alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub struct Scorer {
    constant: f32,
    shapes: [Shape; SHAPES],
    terms: Vec<Term>,
}

impl Scorer {
    /// Fits prompts and their gaps (quality upstream − quality here, in the log's unit). Without
    /// examples it predicts 0 for everything.
    pub fn train<'a>(examples: impl IntoIterator<Item = (&'a str, f64)>) -> Scorer {
        Scorer::train_at(PENALTY, examples)
    }

    /// As [`Scorer::train`], with this penalty in place of the usual one: for measuring what it does.
    pub fn train_at<'a>(penalty: f64, examples: impl IntoIterator<Item = (&'a str, f64)>) -> Scorer {
        let (texts, gaps): (Vec<Text>, Vec<f64>) =
            examples.into_iter().map(|(prompt, gap)| (Text::read(prompt), gap)).unzip();
        Scorer::fit_at(&texts.iter().collect::<Vec<_>>(), &gaps, Sight::WordsAndShape, penalty)
    }

    /// As [`Scorer::train`], from texts already read.
    pub(super) fn fit(texts: &[&Text], gaps: &[f64], sight: Sight) -> Scorer {
        Scorer::fit_at(texts, gaps, sight, PENALTY)
    }

    fn fit_at(texts: &[&Text], gaps: &[f64], sight: Sight, penalty: f64) -> Scorer {
        let idf = Weights::learn(texts, LEAST_TEXTS);
        let mut shapes: [Shape; SHAPES] =
            std::array::from_fn(|at| Shape::learn(texts.iter().map(|text| text.shape[at])));
        let mut rows: Vec<Vec<(u32, f32)>> = texts.iter().map(|text| idf.vector(text)).collect();
        if sight == Sight::WordsAndShape {
            for (row, text) in rows.iter_mut().zip(texts) {
                let columns = (BUCKETS as u32..).zip(shapes.iter().zip(text.shape));
                row.extend(columns.map(|(column, (shape, value))| (column, shape.standard(value))));
            }
        }
        let (weights, constant) = ridge::solve(&rows, gaps, BUCKETS + SHAPES, penalty);
        let (words, shape) = weights.split_at(BUCKETS);
        shapes.iter_mut().zip(shape).for_each(|(shape, weight)| shape.weight = *weight as f32);
        let terms = idf.0.iter().zip(words).map(|(&idf, weight)| Term { idf, weight: *weight as f32 }).collect();
        Scorer { constant: constant as f32, shapes, terms }
    }

    /// The predicted gap: above 0, the upstream is expected to answer better. Total: of a prompt
    /// without a known word only the shape counts.
    pub fn gap(&self, prompt: &str) -> f64 {
        self.gap_of(&Text::read(prompt))
    }

    /// As [`Scorer::gap`], of a text already read.
    pub(super) fn gap_of(&self, text: &Text) -> f64 {
        let (mut length, mut sum) = (0.0_f32, 0.0_f32);
        for run in text.buckets.chunk_by(|a, b| a == b) {
            let term = self.terms[run[0] as usize];
            let value = run.len() as f32 * term.idf;
            length += value * value;
            sum += value * term.weight;
        }
        let words = if length > 0.0 { sum / length.sqrt() } else { 0.0 };
        let shape: f32 =
            self.shapes.iter().zip(text.shape).map(|(shape, value)| shape.weight * shape.standard(value)).sum();
        f64::from(self.constant + words + shape)
    }
}

/// The file: only what is not zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    buckets: usize,
    constant: f32,
    shapes: [Shape; SHAPES],
    /// (bucket, idf, weight), by bucket.
    terms: Vec<(u32, f32, f32)>,
}

impl From<Scorer> for File {
    fn from(scorer: Scorer) -> File {
        let known = scorer.terms.iter().enumerate().filter(|(_, term)| term.idf > 0.0);
        let terms = known.map(|(bucket, term)| (bucket as u32, term.idf, term.weight)).collect();
        File { version: VERSION, buckets: BUCKETS, constant: scorer.constant, shapes: scorer.shapes, terms }
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
        let sound = |shape: &Shape| shape.deviation > 0.0 && (shape.mean * shape.weight / shape.deviation).is_finite();
        if !(file.constant.is_finite() && file.shapes.iter().all(sound)) {
            return Err("constant or shapes of a scorer: out of range".to_owned());
        }
        Ok(Scorer { constant: file.constant, shapes: file.shapes, terms })
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
        assert!(scorer.gap("prove the claim") > 0.5 + 0.02);
        assert!(scorer.gap("what is the capital of chad") < 0.5 - 0.02);
    }

    #[test]
    fn a_prompt_without_a_known_word_gets_the_constant_and_its_shape() {
        let scorer = Scorer::train([("aa", 0.3), ("aa", 0.5)]);
        assert!((scorer.gap("zz") - 0.4).abs() < 1e-6, "of the shape that all had");
        let by_length = Scorer::train([("aa", 0.0), ("aa aa aa aa", 1.0), ("aa aa", 0.4), ("aa aa aa", 0.6)]);
        assert!(by_length.gap("zz zz zz zz") > by_length.gap("zz") + 0.1);
        assert!(by_length.gap(&"zz ".repeat(100_000)) < 3.0, "far from what was seen it does not run away");
        assert_eq!(Scorer::train([]).gap("zz"), 0.0);
    }

    /// Two texts of one word each: X̄ᵀX̄ + 10·I = [10.5 −.5; −.5 10.5], X̄ᵀȳ = [.5, −.5], so w = ±1/22, b = .5.
    #[test]
    fn a_small_case_equals_the_closed_form() {
        let [aa, bb] = ["aa", "bb"].map(Text::read);
        for sight in [Sight::Words, Sight::WordsAndShape] {
            let scorer = Scorer::fit(&[&aa, &bb], &[1.0, 0.0], sight);
            assert!((scorer.gap("aa") - (0.5 + 1.0 / 22.0)).abs() < 1e-6);
            assert!((scorer.gap("bb") - (0.5 - 1.0 / 22.0)).abs() < 1e-6);
        }
    }

    #[test]
    fn a_scorer_survives_its_file_unchanged() {
        let scorer = trained();
        let text = serde_json::to_string(&scorer).unwrap();
        assert_eq!(serde_json::from_str::<Scorer>(&text).unwrap(), scorer);
        assert!(text.len() < 5000, "only what is not zero is written: {} bytes", text.len());
    }

    #[test]
    fn a_file_that_cannot_be_served_is_refused() {
        let text = serde_json::to_string(&Scorer::train([("aa", 1.0)])).unwrap();
        let refused = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            serde_json::from_str::<Scorer>(&text.replace(from, to)).unwrap_err().to_string()
        };
        assert!(refused("\"version\":1", "\"version\":2").contains("train it again"));
        assert!(refused("\"terms\":[", "\"terms\":[[262144,1,1],").contains("out of range"));
        assert!(refused("\"terms\":[", "\"terms\":[[1,-1,1],").contains("out of range"));
        assert!(refused("\"deviation\":1.0", "\"deviation\":0.0").contains("out of range"));
    }
}
