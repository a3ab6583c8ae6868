//! How good an order of escalation is: what quality each share of upstream calls buys.
//!
//! A router orders requests; the first of them go upstream. Rows that it cannot tell apart go up
//! in random order, and every figure is the exact expectation over that order. PGR, APGR and CPT are
//! RouteLLM's (Ong et al., "RouteLLM: learning to route LLMs with preference data", 2024): PGR(c) is
//! the share of the quality gap closed when the share c goes up, APGR its mean over c, CPT(x) the
//! smallest c with PGR ≥ x. Pure; called by `replay`.

use serde::Serialize;

/// One past request as a router ranks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// The higher, the earlier it goes upstream.
    pub rank: f64,
    /// Quality of the local answer.
    pub local: f64,
    /// Quality of the upstream's answer.
    pub upstream: f64,
    /// Cost of the upstream's answer.
    pub cost: f64,
}

/// A state between nobody and everybody escalated.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Point {
    /// Share of requests that go up, 0 to 1.
    pub share: f64,
    /// Mean quality of all answers.
    pub quality: f64,
    /// Spend as a share of what it costs to send everything up; 0 where nothing costs.
    pub spend: f64,
}

/// Quality over share, from nobody to everybody.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    points: Vec<Point>,
}

/// Sorts rows so that the first to go upstream come first.
pub fn sort(rows: &mut [Ranked]) {
    rows.sort_by(|a, b| b.rank.total_cmp(&a.rank));
}

impl Curve {
    /// Of sorted rows. One point per group of equal rank: between points quality is linear, which
    /// is the expectation when a group is split at random.
    pub fn of(sorted: &[Ranked]) -> Curve {
        let n = sorted.len() as f64;
        let whole: f64 = sorted.iter().map(|row| row.cost).sum();
        let (mut count, mut cost) = (0, 0.0);
        let mut quality: f64 = sorted.iter().map(|row| row.local).sum();
        let mut points = vec![Point { share: 0.0, quality: quality / n, spend: 0.0 }];
        for group in sorted.chunk_by(|a, b| a.rank == b.rank) {
            count += group.len();
            quality += group.iter().map(|row| row.upstream - row.local).sum::<f64>();
            cost += group.iter().map(|row| row.cost).sum::<f64>();
            let spend = if whole > 0.0 { cost / whole } else { 0.0 };
            points.push(Point { share: count as f64 / n, quality: quality / n, spend });
        }
        Curve { points }
    }

    /// Quality when nothing goes up.
    pub fn local(&self) -> f64 {
        self.points.first().map_or(f64::NAN, |point| point.quality)
    }

    /// Quality when everything goes up.
    pub fn upstream(&self) -> f64 {
        self.points.last().map_or(f64::NAN, |point| point.quality)
    }

    /// The state when this share (0 to 1) goes up.
    pub fn at(&self, share: f64) -> Point {
        self.first(|point| point.share, share).unwrap_or_else(|| self.points.last().copied().unwrap_or_default())
    }

    /// CPT: the smallest share that closes this much of the gap; `None` where upstream is not better.
    pub fn share_closing(&self, gap: f64) -> Option<f64> {
        let (local, upstream) = (self.local(), self.upstream());
        let wanted = local + gap * (upstream - local);
        if upstream > local { self.first(|point| point.quality, wanted).map(|point| point.share) } else { None }
    }

    /// The smallest spend that reaches this share of the upstream's quality; 0 where the local
    /// model does.
    pub fn spend_reaching(&self, share_of_upstream: f64) -> Option<f64> {
        self.first(|point| point.quality, share_of_upstream * self.upstream()).map(|point| point.spend)
    }

    /// The first state where `value` reaches `wanted`, interpolated.
    fn first(&self, value: impl Fn(&Point) -> f64, wanted: f64) -> Option<Point> {
        // Sums of many rows may miss the last point's own value by rounding.
        let wanted = wanted - 1e-12;
        let at = self.points.iter().position(|point| value(point) >= wanted)?;
        let (Some(before), point) = (at.checked_sub(1).map(|at| self.points[at]), self.points[at]) else {
            return Some(self.points[at]);
        };
        let part = (wanted - value(&before)) / (value(&point) - value(&before));
        let between = |from: f64, to: f64| from + part * (to - from);
        Some(Point {
            share: between(before.share, point.share),
            quality: between(before.quality, point.quality),
            spend: between(before.spend, point.spend),
        })
    }
}

/// APGR of sorted rows as RouteLLM's evaluation computes it: thresholds at the deciles of the rank,
/// trapezoids between the shares they send up. 0.5 for a router that knows nothing; an oracle may
/// exceed 1. `None` where both sides are equally good.
pub fn apgr(sorted: &[Ranked]) -> Option<f64> {
    const BINS: usize = 10;
    let n = sorted.len();
    let local: f64 = sorted.iter().map(|row| row.local).sum();
    let upstream: f64 = sorted.iter().map(|row| row.upstream).sum();
    if n == 0 || (upstream - local).abs() < 1e-9 {
        return None;
    }
    // From the highest threshold (nobody goes up) to the lowest (everybody).
    let (mut sent, mut quality, mut area) = (0, local, 0.0);
    for decile in (0..BINS).rev() {
        let threshold = quantile(sorted, decile as f64 / BINS as f64);
        let (before, former) = (sent, quality);
        while sent < n && sorted[sent].rank >= threshold {
            quality += sorted[sent].upstream - sorted[sent].local;
            sent += 1;
        }
        area += (sent - before) as f64 / n as f64 * (former + quality) / 2.0;
    }
    Some((area - local) / (upstream - local))
}

/// The rank below which this share of the rows lies, linear between neighbours.
fn quantile(sorted: &[Ranked], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let value = |from_below: usize| sorted[sorted.len() - 1 - from_below].rank;
    let (low, high) = (value(place.floor() as usize), value(place.ceil() as usize));
    // Equal or infinite neighbours must not make a NaN.
    if low == high { low } else { low + (place - place.floor()) * (high - low) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(table: &[(f64, f64, f64)]) -> Vec<Ranked> {
        let mut rows: Vec<Ranked> =
            table.iter().map(|&(rank, local, upstream)| Ranked { rank, local, upstream, cost: 1.0 }).collect();
        sort(&mut rows);
        rows
    }

    /// Ten rows, upstream always right, the local model right on those ranked last.
    fn ten() -> Vec<Ranked> {
        rows(&(0..10).map(|at| (f64::from(10 - at), if at < 5 { 0.0 } else { 1.0 }, 1.0)).collect::<Vec<_>>())
    }

    #[test]
    fn a_router_that_knows_nothing_has_an_apgr_of_one_half() {
        let table: Vec<_> = (0..37).map(|at| (0.25, f64::from(at % 3 == 0), f64::from(at % 5 != 0))).collect();
        assert!((apgr(&rows(&table)).unwrap() - 0.5).abs() < 1e-12);
        let curve = Curve::of(&rows(&table));
        assert!((curve.share_closing(0.5).unwrap() - 0.5).abs() < 1e-9);
        assert!((curve.share_closing(0.8).unwrap() - 0.8).abs() < 1e-9);
    }

    /// Nine deciles of the ranks 1..=10 lie between the ranks, the lowest at 1: each step sends one row
    /// up. PGR = 0, .2, .4, .6, .8, 1, 1, 1, 1, 1, 1, so APGR = (0/2 + .2 + .4 + .6 + .8 + 5·1 + 1/2)/10.
    #[test]
    fn the_apgr_of_ten_rows_is_what_a_hand_computes() {
        assert!((apgr(&ten()).unwrap() - 0.75).abs() < 1e-12);
    }

    /// Upstream spoils what the local model knows: sent last, that makes PGR exceed 1.
    #[test]
    fn an_oracle_exceeds_one() {
        let table =
            (0..10).map(|at| if at < 4 { (1.0, 0.0, 1.0) } else { (-f64::from(at > 7), 1.0, f64::from(at <= 7)) });
        let rows = rows(&table.collect::<Vec<_>>());
        assert_eq!((Curve::of(&rows).local(), Curve::of(&rows).upstream()), (0.6, 0.8));
        // PGR 0 → 2 while the four go up that gain, 2 while the four that do not matter, 2 → 1 while
        // the two that lose: .4·1 + .4·2 + .2·1.5.
        assert!((apgr(&rows).unwrap() - 1.5).abs() < 1e-12);
    }

    #[test]
    fn without_a_gap_there_is_no_apgr_and_no_cpt() {
        let rows = rows(&[(1.0, 1.0, 0.0), (0.0, 0.0, 1.0)]);
        assert_eq!(apgr(&rows), None);
        assert_eq!(Curve::of(&rows).share_closing(0.5), None);
        assert_eq!(apgr(&[]), None);
    }

    #[test]
    fn the_curve_is_what_a_hand_computes() {
        let curve = Curve::of(&ten());
        assert_eq!(curve.at(0.3), Point { share: 0.3, quality: 0.8, spend: 0.3 }.near(&curve.at(0.3)));
        assert!((curve.share_closing(0.5).unwrap() - 0.25).abs() < 1e-9);
        assert!((curve.share_closing(1.0).unwrap() - 0.5).abs() < 1e-9);
        assert!((curve.spend_reaching(0.95).unwrap() - 0.45).abs() < 1e-9);
        assert_eq!((curve.local(), curve.upstream()), (0.5, 1.0));
    }

    #[test]
    fn ties_are_split_evenly_and_their_order_does_not_count() {
        let one = rows(&[(1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 1.0, 1.0)]);
        let other = rows(&[(1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.0, 0.0, 1.0)]);
        assert_eq!(Curve::of(&one), Curve::of(&other));
        assert_eq!(apgr(&one), apgr(&other));
        assert!((Curve::of(&one).at(0.25).quality - 0.625).abs() < 1e-9);
    }

    #[test]
    fn spend_follows_the_cost_and_not_the_count() {
        let mut rows = rows(&[(2.0, 0.0, 1.0), (1.0, 0.0, 1.0)]);
        rows[0].cost = 3.0;
        let curve = Curve::of(&rows);
        assert!((curve.at(0.5).spend - 0.75).abs() < 1e-9);
        assert!((curve.spend_reaching(0.5).unwrap() - 0.75).abs() < 1e-9);
        rows.iter_mut().for_each(|row| row.cost = 0.0);
        assert_eq!(Curve::of(&rows).at(1.0).spend, 0.0);
    }

    #[test]
    fn infinite_ranks_have_quantiles() {
        let rows = rows(&[(f64::INFINITY, 0.0, 1.0), (0.0, 0.0, 1.0), (f64::NEG_INFINITY, 1.0, 1.0)]);
        assert!(apgr(&rows).unwrap().is_finite());
    }

    impl Point {
        /// This point, with values that differ only by rounding taken from the other.
        fn near(self, other: &Point) -> Point {
            let near = |a: f64, b: f64| if (a - b).abs() < 1e-9 { b } else { a };
            Point {
                share: near(self.share, other.share),
                quality: near(self.quality, other.quality),
                spend: near(self.spend, other.spend),
            }
        }
    }
}
