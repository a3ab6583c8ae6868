//! A linear function of a prompt, and of an answer's features where there are some.
//!
//! Ridge regression of the *gap* (quality upstream − quality here) on hashed TF-IDF of words and
//! pairs and on the prompt's shape: what is worth escalating is the gap, not the chance that the
//! small model is wrong; words tell the subject, shape carries over to subjects never seen. Pure, no
//! I/O; a decision is one pass over the prompt. Its JSON holds only buckets that a training text had.
//! Called by [`super::Predictor`] and by the routers of a replay.

use serde::{Deserialize, Serialize};

use super::ridge;
use super::terms::{BUCKETS, SHAPES, Text, Weights};

/// λ of the ridge; texts have length 1, so it needs no scaling. Of .5, 1, 3 and 10 this did best, or
/// next to it, on the public logs (`docs/replay.md`), in-domain and on domains left out.
pub(super) const PENALTY: f64 = 10.0;
/// A bucket counts when this many texts have it.
const LEAST_TEXTS: u32 = 1;
/// A number further from the training rows' mean, in standard deviations, is taken as this far.
const FURTHEST: f64 = 3.0;

/// What one bucket contributes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Term {
    idf: f32,
    weight: f32,
}

/// What one number contributes: weight · (value − mean) / deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Column {
    mean: f64,
    /// Above 0.
    deviation: f64,
    weight: f64,
}

impl Column {
    const NOTHING: Column = Column { mean: 0.0, deviation: 1.0, weight: 0.0 };

    /// Mean and deviation of one number over rows; without variation the deviation is 1.
    fn learn(values: impl Iterator<Item = f64> + Clone) -> Column {
        let n = values.clone().count().max(1) as f64;
        let mean = values.clone().sum::<f64>() / n;
        let deviation = (values.map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
        Column { mean, deviation: if deviation > 1e-6 { deviation } else { 1.0 }, weight: 0.0 }
    }

    fn standard(&self, value: f64) -> f64 {
        ((value - self.mean) / self.deviation).clamp(-FURTHEST, FURTHEST)
    }

    /// NaN for NaN.
    pub(super) fn part(&self, value: f64) -> f64 {
        self.weight * self.standard(value)
    }

    pub(super) fn is_sound(&self) -> bool {
        self.deviation > 0.0 && (self.mean * self.weight / self.deviation).is_finite()
    }
}

/// What a scorer learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Words alone: the plain TF-IDF ridge of the literature.
    Words,
    /// Words and shape.
    WordsAndShape,
}

/// Predicts the gap between upstream and local from the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub(crate) struct Scorer {
    constant: f64,
    shapes: [Column; SHAPES],
    terms: Vec<Term>,
}

impl Scorer {
    /// Fits texts and their gaps (quality upstream − quality here, in any unit). Without examples it
    /// predicts 0 for everything.
    pub(crate) fn fit(texts: &[&Text], gaps: &[f64], sight: Sight) -> Scorer {
        Scorer::fit_at(PENALTY, texts, gaps, sight)
    }

    /// The same with this penalty on weights in place of the usual one.
    pub(super) fn fit_at(penalty: f64, texts: &[&Text], gaps: &[f64], sight: Sight) -> Scorer {
        let shapes = |text: &&Text| match sight {
            Sight::Words => Vec::new(),
            Sight::WordsAndShape => text.shape.map(f64::from).to_vec(),
        };
        Scorer::fit_with(penalty, texts, &texts.iter().map(shapes).collect::<Vec<_>>(), gaps).0
    }

    /// Fits texts together with rows of other numbers, each as long as the others; the first
    /// numbers are the shape, unless there are none. The columns of the rest come back beside.
    pub(super) fn fit_with(penalty: f64, texts: &[&Text], others: &[Vec<f64>], gaps: &[f64]) -> (Scorer, Vec<Column>) {
        let idf = Weights::learn(texts, LEAST_TEXTS);
        let width = others.first().map_or(0, Vec::len);
        let mut columns: Vec<Column> =
            (0..width).map(|at| Column::learn(others.iter().map(move |row| row[at]))).collect();
        let mut rows: Vec<Vec<(u32, f32)>> = texts.iter().map(|text| idf.vector(text)).collect();
        for (row, other) in rows.iter_mut().zip(others) {
            let standard = columns.iter().zip(other).map(|(column, value)| column.standard(*value) as f32);
            row.extend((BUCKETS as u32..).zip(standard));
        }
        let (weights, constant) = ridge::solve(&rows, gaps, BUCKETS + width, penalty);
        let (words, other) = weights.split_at(BUCKETS);
        columns.iter_mut().zip(other).for_each(|(column, weight)| column.weight = *weight);
        let terms = idf.0.iter().zip(words).map(|(&idf, weight)| Term { idf, weight: *weight as f32 }).collect();
        let rest = columns.split_off(SHAPES.min(width));
        let mut shapes = [Column::NOTHING; SHAPES];
        shapes.iter_mut().zip(columns).for_each(|(shape, column)| *shape = column);
        (Scorer { constant, shapes, terms }, rest)
    }

    /// The predicted gap: above 0, the upstream is expected to answer better. Total: of a prompt
    /// without a known word only the shape counts.
    pub(crate) fn gap_of(&self, text: &Text) -> f64 {
        let (mut length, mut sum) = (0.0_f32, 0.0_f32);
        for run in text.buckets.chunk_by(|a, b| a == b) {
            let term = self.terms[run[0] as usize];
            let value = run.len() as f32 * term.idf;
            length += value * value;
            sum += value * term.weight;
        }
        let words = if length > 0.0 { sum / length.sqrt() } else { 0.0 };
        let shape: f64 = self.shapes.iter().zip(text.shape).map(|(shape, value)| shape.part(value.into())).sum();
        self.constant + f64::from(words) + shape
    }
}

/// What is written: only what is not zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    buckets: usize,
    constant: f64,
    shapes: [Column; SHAPES],
    /// (bucket, idf, weight), by bucket.
    terms: Vec<(u32, f32, f32)>,
}

impl From<Scorer> for Form {
    fn from(scorer: Scorer) -> Form {
        let known = scorer.terms.iter().enumerate().filter(|(_, term)| term.idf > 0.0);
        let terms = known.map(|(bucket, term)| (bucket as u32, term.idf, term.weight)).collect();
        Form { buckets: BUCKETS, constant: scorer.constant, shapes: scorer.shapes, terms }
    }
}

impl TryFrom<Form> for Scorer {
    type Error = String;

    fn try_from(form: Form) -> Result<Scorer, String> {
        if form.buckets != BUCKETS {
            return Err(format!("{} buckets; known: {BUCKETS}; train it again", form.buckets));
        }
        let mut terms = vec![Term::default(); BUCKETS];
        for (bucket, idf, weight) in form.terms {
            let sound = idf.is_finite() && idf > 0.0 && weight.is_finite();
            match terms.get_mut(bucket as usize) {
                Some(term) if sound => *term = Term { idf, weight },
                _ => return Err(format!("term [{bucket}, {idf}, {weight}]: out of range")),
            }
        }
        if !(form.constant.is_finite() && form.shapes.iter().all(Column::is_sound)) {
            return Err("constant or shapes: out of range".to_owned());
        }
        Ok(Scorer { constant: form.constant, shapes: form.shapes, terms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(examples: &[(&str, f64)]) -> Scorer {
        let (texts, gaps): (Vec<Text>, Vec<f64>) = examples.iter().map(|(text, gap)| (Text::read(text), *gap)).unzip();
        Scorer::fit(&texts.iter().collect::<Vec<_>>(), &gaps, Sight::WordsAndShape)
    }

    fn gap(scorer: &Scorer, text: &str) -> f64 {
        scorer.gap_of(&Text::read(text))
    }

    fn trained() -> Scorer {
        let hard = ["prove the theorem of galois", "prove that the group is cyclic", "prove the lemma"];
        let easy = ["what is the capital of france", "what is the capital of peru", "what is the colour"];
        let all = hard.into_iter().map(|text| (text, 1.0)).chain(easy.into_iter().map(|text| (text, 0.0)));
        fitted(&all.collect::<Vec<_>>())
    }

    #[test]
    fn prompts_like_those_with_a_large_gap_score_higher() {
        let scorer = trained();
        assert!(gap(&scorer, "prove the claim") > 0.5 + 0.02);
        assert!(gap(&scorer, "what is the capital of chad") < 0.5 - 0.02);
    }

    #[test]
    fn a_prompt_without_a_known_word_gets_the_constant_and_its_shape() {
        let scorer = fitted(&[("aa", 0.3), ("aa", 0.5)]);
        assert!((gap(&scorer, "zz") - 0.4).abs() < 1e-6, "of the shape that all had");
        let by_length = fitted(&[("aa", 0.0), ("aa aa aa aa", 1.0), ("aa aa", 0.4), ("aa aa aa", 0.6)]);
        assert!(gap(&by_length, "zz zz zz zz") > gap(&by_length, "zz") + 0.1);
        assert!(gap(&by_length, &"zz ".repeat(100_000)) < 3.0, "far from what was seen it does not run away");
        assert_eq!(gap(&fitted(&[]), "zz"), 0.0);
    }

    /// Two texts of one word each: X̄ᵀX̄ + 10·I = [10.5 −.5; −.5 10.5], X̄ᵀȳ = [.5, −.5], so w = ±1/22, b = .5.
    #[test]
    fn a_small_case_equals_the_closed_form() {
        let [aa, bb] = ["aa", "bb"].map(Text::read);
        for sight in [Sight::Words, Sight::WordsAndShape] {
            let scorer = Scorer::fit(&[&aa, &bb], &[1.0, 0.0], sight);
            assert!((gap(&scorer, "aa") - (0.5 + 1.0 / 22.0)).abs() < 1e-6);
            assert!((gap(&scorer, "bb") - (0.5 - 1.0 / 22.0)).abs() < 1e-6);
        }
    }

    /// One other column of ±1, uncorrelated with the words: w = Σ x̄ȳ / (Σ x̄² + 10) = 2 / 14.
    #[test]
    fn another_column_is_fitted_beside_the_words() {
        let [aa, bb] = ["aa", "bb"].map(Text::read);
        let shaped = |text: &Text, other: f64| text.shape.map(f64::from).into_iter().chain([other]).collect();
        let others: Vec<Vec<f64>> = [(&aa, 5.0), (&aa, 7.0), (&bb, 5.0), (&bb, 7.0)].map(|(t, x)| shaped(t, x)).into();
        let (scorer, columns) = Scorer::fit_with(PENALTY, &[&aa, &aa, &bb, &bb], &others, &[0.0, 1.0, 0.0, 1.0]);
        let [column] = columns[..] else { panic!("{columns:?}") };
        assert!((column.part(7.0) - 2.0 / 14.0).abs() < 1e-6 && (column.part(5.0) + 2.0 / 14.0).abs() < 1e-6);
        assert!((gap(&scorer, "aa") - 0.5).abs() < 1e-6);
        assert!(column.part(f64::NAN).is_nan());
    }

    #[test]
    fn a_scorer_survives_its_file_unchanged() {
        let scorer = trained();
        let text = serde_json::to_string(&scorer).unwrap();
        assert_eq!(serde_json::from_str::<Scorer>(&text).unwrap(), scorer);
        assert!(text.len() < 5000, "only what is not zero is written: {} bytes", text.len());
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let text = serde_json::to_string(&fitted(&[("aa", 1.0)])).unwrap();
        let refused = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            serde_json::from_str::<Scorer>(&text.replace(from, to)).unwrap_err().to_string()
        };
        assert!(refused("\"buckets\":262144", "\"buckets\":64").contains("train it again"));
        assert!(refused("\"terms\":[", "\"terms\":[[262144,1,1],").contains("out of range"));
        assert!(refused("\"terms\":[", "\"terms\":[[1,-1,1],").contains("out of range"));
        assert!(refused("\"deviation\":1.0", "\"deviation\":0.0").contains("out of range"));
    }
}
