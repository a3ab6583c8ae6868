//! What was found: medians over the rounds, and ratios within a round.

use serde_json::{Value, json};

use crate::pass::{Pass, Shape};

/// All passes of one model in one shape.
pub(crate) struct Row {
    model: String,
    shape: Shape,
    rounds: Vec<[Pass; 3]>,
    idle: Vec<f64>,
}

/// Whose pass it is: its place in a round.
const ENGINE: usize = 0;
const FULL: usize = 1;
const EMPTY: usize = 2;

impl Row {
    /// Nothing measured yet.
    pub(crate) fn new(model: &str, shape: Shape) -> Row {
        let name = model.trim_end_matches(".gguf").to_owned();
        Row { model: name, shape, rounds: Vec::new(), idle: Vec::new() }
    }

    /// A round: the engine, the loop with as full a cache, the loop with an empty one; `idle`: the
    /// tokens in the cache beside the prompts.
    pub(crate) fn add(&mut self, passes: [Pass; 3], idle: usize) {
        self.rounds.push(passes);
        self.idle.push(idle as f64);
    }

    /// The median of a figure over the rounds.
    fn middle(&self, figure: impl Fn(&[Pass; 3]) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// Every figure of the table.
    fn figures(&self) -> [f64; 10] {
        let ratio = |other: usize, figure: fn(&Pass) -> f64| {
            self.middle(|round| figure(&round[ENGINE]) / figure(&round[other]))
        };
        [
            self.middle(|round| round[ENGINE].per_second),
            self.middle(|round| round[FULL].per_second),
            ratio(FULL, |pass| pass.per_second),
            ratio(FULL, |pass| pass.per_cpu_second),
            self.middle(|round| round[EMPTY].per_second),
            ratio(EMPTY, |pass| pass.per_second),
            ratio(EMPTY, |pass| pass.per_cpu_second),
            median(self.idle.clone()),
            1e3 * self.middle(|round| median(round[ENGINE].first_tokens.clone())),
            1e3 * self.middle(|round| median(round[EMPTY].first_tokens.clone())),
        ]
    }
}

/// The names of [`Row::figures`] in JSON.
const NAMES: [&str; 10] = [
    "engine_per_second",
    "loop_per_second",
    "ratio",
    "ratio_of_cpu_time",
    "empty_loop_per_second",
    "ratio_to_empty",
    "ratio_to_empty_of_cpu_time",
    "idle_tokens",
    "engine_first_token_ms",
    "loop_first_token_ms",
];

/// A table in Markdown: one line per model and shape.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "| model | at once | engine tok/s | loop, cache as full | ratio | of CPU time | loop, cache empty | ratio | \
         of CPU time | idle tokens | engine TTFT ms | loop TTFT ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|",
    );
    for row in rows {
        let [engine, full, ratio, cpu, empty, to_empty, to_empty_cpu, idle, first, loop_first] = row.figures();
        text += &format!(
            "\n| {} | {} | {engine:.1} | {full:.1} | {ratio:.3} | {cpu:.3} | {empty:.1} | {to_empty:.3} | \
             {to_empty_cpu:.3} | {idle:.0} | {first:.0} | {loop_first:.0} |",
            row.model, row.shape.sequences,
        );
    }
    text
}

/// Medians and every pass.
pub(crate) fn numbers(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let medians: serde_json::Map<String, Value> =
            NAMES.iter().zip(row.figures()).map(|(name, figure)| ((*name).to_owned(), rounded(figure))).collect();
        let passes: Vec<Value> = row.rounds.iter().map(|round| round.iter().map(pass).collect()).collect();
        json!({
            "model": row.model,
            "at_once": row.shape.sequences,
            "steps": row.shape.steps,
            "medians": medians,
            "rounds": passes,
        })
    };
    rows.iter().map(row).collect()
}

fn pass(pass: &Pass) -> Value {
    json!({
        "per_second": rounded(pass.per_second),
        "per_cpu_second": rounded(pass.per_cpu_second),
        "first_token_ms": rounded(1e3 * median(pass.first_tokens.clone())),
    })
}

fn rounded(figure: f64) -> Value {
    json!((figure * 1e4).round() / 1e4)
}

/// The middle one, or the mean of the two.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[half] } else { (figures[half - 1] + figures[half]) / 2.0 }
}
