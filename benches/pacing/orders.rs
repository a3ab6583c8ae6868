//! The same dollars spent in several orders: what quality they buy.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::rows::{Requests, Row};

const SHARES: [f64; 6] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.6];
const RESAMPLES: usize = 500;

type Order = (&'static str, fn(&Row) -> f64);

/// By what is predicted, and by that per dollar that is expected (the answer's length taken as the
/// mean). By the gap, nothing is bought that is predicted to gain nothing.
static ORDERS: [Order; 5] = [
    ("answer's log-probability", |row| row.doubt.unwrap_or(0.0)),
    ("P(local wrong)", |row| row.wrong),
    ("P(local wrong) per dollar", |row| row.wrong / row.expected_usd),
    ("gap", |row| gaining(row, row.gap)),
    ("gap per dollar", |row| gaining(row, row.gap / row.expected_usd)),
];

fn gaining(row: &Row, rank: f64) -> f64 {
    if row.gap > 0.0 { rank } else { f64::NEG_INFINITY }
}

/// Mean quality when the first rows of the order go up, as far as this share of all dollars reaches.
fn quality(rows: &[&Row], order: &Order, share: f64) -> f64 {
    let mut sorted: Vec<&&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| (order.1)(b).total_cmp(&(order.1)(a)));
    let mut left = share * rows.iter().map(|row| row.usd()).sum::<f64>();
    let mut sum = 0.0;
    for row in sorted {
        // The last one that is begun is taken in part: an expectation.
        let is_wanted = (order.1)(row) > f64::NEG_INFINITY;
        let part = if is_wanted { (left / row.usd()).clamp(0.0, 1.0) } else { 0.0 };
        sum += row.local + part * (row.upstream - row.local);
        left -= part * row.usd();
    }
    sum / rows.len() as f64
}

pub(crate) fn report(log: &Requests, seed: u64) -> String {
    let all: Vec<&Row> = log.rows.iter().collect();
    let mean = |value: fn(&Row) -> f64| log.rows.iter().map(value).sum::<f64>() / log.rows.len() as f64;
    let usd = mean(Row::usd);
    let spread = (log.rows.iter().map(|row| (row.usd() - usd).powi(2)).sum::<f64>() / log.rows.len() as f64).sqrt();
    let mut text = format!(
        "### What do the same dollars buy?\n\nQuality at equal spend (share of all up): local alone {:.3}, all up {:.3}; a call's cost varies \
         by {:.2} of its mean.\n\n| order |{}\n|---|{}\n",
        mean(|row| row.local),
        mean(|row| row.upstream),
        spread / usd,
        SHARES.map(|share| format!(" {share} |")).concat(),
        "---|".repeat(SHARES.len())
    );
    let has_answers = log.rows.iter().all(|row| row.doubt.is_some());
    let orders: Vec<&Order> = ORDERS.iter().filter(|order| has_answers || order.0 != ORDERS[0].0).collect();
    for order in &orders {
        let cells = SHARES.map(|share| format!(" {:.4} |", quality(&all, order, share)));
        text += &format!("| {} |{}\n", order.0, cells.concat());
    }
    let random =
        SHARES.map(|share| format!(" {:.4} |", mean(|row| row.local) + share * mean(|row| row.upstream - row.local)));
    text += &format!("| at random |{}\n\n", random.concat());
    let last = &ORDERS[ORDERS.len() - 1];
    text += &format!(
        "Gain of \"{}\" over each order, 95 % interval over {RESAMPLES} resamples of the rows:\n\n| over |{}\n|---|{}\n",
        last.0,
        SHARES.map(|share| format!(" {share} |")).concat(),
        "---|".repeat(SHARES.len())
    );
    for order in orders.iter().filter(|order| order.0 != last.0) {
        text += &format!("| {} |{}\n", order.0, SHARES.map(|share| gain(&all, last, order, (share, seed))).concat());
    }
    text + "\n"
}

fn gain(rows: &[&Row], one: &Order, other: &Order, (share, seed): (f64, u64)) -> String {
    // The largest logs are resampled in part: their intervals need no more.
    let size = rows.len().min(2000);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let scale = (size as f64 / rows.len() as f64).sqrt();
    let whole = quality(rows, one, share) - quality(rows, other, share);
    let mut gains: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<&Row> = (0..size).map(|_| rows[random.random_range(0..rows.len())]).collect();
            whole + (quality(&drawn, one, share) - quality(&drawn, other, share) - whole) * scale
        })
        .collect();
    gains.sort_by(f64::total_cmp);
    let at = |share: f64| gains[(share * (gains.len() - 1) as f64).round() as usize];
    format!(" {whole:+.4} ({:+.4} … {:+.4}) |", at(0.025), at(0.975))
}
