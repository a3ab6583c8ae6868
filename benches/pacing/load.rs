//! Three days of requests at several budgets: what is spent, and what a price fixed beforehand spends.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use weir::account::Pace;

use super::rows::{Requests, Row};

const HOUR: f64 = 3600.0;
const DAYS: f64 = 3.0;
/// Requests per second in the usual hours.
const USUAL: f64 = 1.0;

/// One request of the load: when, which, and how much dearer everything is by then.
struct Arrival {
    at: f64,
    row: Row,
    dearer: f64,
}

/// Nights with a tenth of the requests, bursts of ten times as many for five minutes, three a day or
/// so, and prices that rise by half over the days.
fn load(rows: &[Row], random: &mut Xoshiro256PlusPlus) -> Vec<Arrival> {
    let end = DAYS * 24.0 * HOUR;
    let mut arrivals = Vec::new();
    let (mut at, mut burst_until) = (0.0, 0.0);
    while at < end {
        if random.random::<f64>() < 3.0 / (24.0 * HOUR * USUAL) {
            burst_until = at + 300.0;
        }
        let hour = at / HOUR % 24.0;
        let rate = if at < burst_until {
            10.0
        } else if hour < 7.0 {
            0.1
        } else {
            1.0
        } * USUAL;
        at += -random.random::<f64>().max(f64::MIN_POSITIVE).ln() / rate;
        let row = rows[random.random_range(0..rows.len())];
        arrivals.push(Arrival { at, row, dearer: 1.0 + 0.5 * at / end });
    }
    arrivals
}

struct Outcome {
    spent: f64,
    escalated: usize,
    quality: f64,
}

/// Decides each request, its expected cost given.
fn replay(load: &[Arrival], mut decide: impl FnMut(&Arrival, f64) -> bool) -> Outcome {
    let mut outcome = Outcome { spent: 0.0, escalated: 0, quality: 0.0 };
    // The output's length is not known beforehand: its running mean is.
    let usual = load.iter().map(|arrival| arrival.row.output_usd).sum::<f64>() / load.len() as f64;
    let (mut output, mut seen) = (usual, 1.0_f64);
    for arrival in load {
        let expected = (arrival.row.prompt_usd + output) * arrival.dearer;
        if decide(arrival, expected) {
            outcome.spent += arrival.row.usd() * arrival.dearer;
            outcome.escalated += 1;
            outcome.quality += arrival.row.upstream;
            seen = (seen + 1.0).min(200.0);
            output += (arrival.row.output_usd - output) / seen;
        } else {
            outcome.quality += arrival.row.local;
        }
    }
    outcome
}

fn paced(load: &[Arrival], usd_per_hour: f64, credit_hours: u64) -> Outcome {
    let mut pace = Pace::new(usd_per_hour, Duration::from_secs(credit_hours * 3600), 0.0);
    replay(load, |arrival, expected| {
        pace.weigh(arrival.row.gap, expected);
        let escalates = arrival.row.gap > pace.lambda(arrival.at) * expected;
        if escalates {
            pace.spend(arrival.row.usd() * arrival.dearer, arrival.at);
        }
        escalates
    })
}

/// The price that would have spent the budget in the first usual hours, kept for good.
fn fixed_price(load: &[Arrival], usd_per_hour: f64) -> Outcome {
    let first: Vec<&Arrival> = load.iter().filter(|it| (7.0..12.0).contains(&(it.at / HOUR))).collect();
    let mut by_worth: Vec<(f64, f64)> =
        first.iter().map(|it| (it.row.gap / (it.row.usd() * it.dearer), it.row.usd() * it.dearer)).collect();
    by_worth.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut left = usd_per_hour * 5.0;
    let affordable = by_worth.iter().find(|(_, usd)| {
        left -= usd;
        left < 0.0
    });
    let price = affordable.map_or(0.0, |found| found.0.max(0.0));
    replay(load, |arrival, expected| arrival.row.gap > price * expected)
}

pub(crate) fn report(log: &Requests, seed: u64) -> String {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let load = load(&log.rows, &mut random);
    let all = replay(&load, |_, _| true).spent;
    let wanted = replay(&load, |arrival, _| arrival.row.gap > 0.0).spent;
    let hours = DAYS * 24.0;
    let mut text = format!(
        "### Does the budget hold?\n\n{} requests in {DAYS} days: a tenth of them per hour in the night, bursts of ten \
         times as many, prices rising by half. Sending all up costs ${all:.2}, all whose predicted gap is above 0 \
         {:.2} of that. Target: the rate times the time.\n\n\
         | budget (share of all up) | target | paced, 12 h of credit: spent | off by | escalated | quality | 1 h: off by | quality | fixed price: off by | quality |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        load.len(),
        wanted / all
    );
    for share in [0.05, 0.1, 0.2, 0.3, 0.4, 0.6] {
        let target = share * all;
        let [day, hour] = [12, 1].map(|credit| paced(&load, target / hours, credit));
        let fixed = fixed_price(&load, target / hours);
        let off = |spent: f64| format!("{:+.1} %", 100.0 * (spent / target - 1.0));
        let quality = |outcome: &Outcome| outcome.quality / load.len() as f64;
        text += &format!(
            "| {share} | ${target:.3} | ${:.3} | {} | {:.3} | {:.4} | {} | {:.4} | {} | {:.4} |\n",
            day.spent,
            off(day.spent),
            day.escalated as f64 / load.len() as f64,
            quality(&day),
            off(hour.spent),
            quality(&hour),
            off(fixed.spent),
            quality(&fixed)
        );
    }
    text + "\nA budget above what predicted gains are worth cannot be spent: it is off by what nobody wanted.\n\n"
}
