//! What a replay found, as a table for a person and as JSON and CSV for a machine.
//!
//! Shares, qualities and spends are fractions in the files and in the table; nothing is rounded in
//! the files. Called by `replay`, which fills it, and `cli`, which prints and writes it.

use std::fmt::Write;

use serde::Serialize;

use super::logs::Log;
use super::metrics::Point;
use super::replay::Settings;
use super::routers::Knows;

/// What every router of a replay came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    local: String,
    upstream: String,
    rows: usize,
    left_out: usize,
    folds: usize,
    seed: u64,
    resamples: usize,
    /// Mean quality of every model in the log, best first.
    models: Vec<(String, f64)>,
    pub(super) routers: Vec<Figures>,
}

/// The middle 95 % of resamples.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// What one router came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) router: String,
    pub(super) knows: Knows,
    pub(super) apgr: Option<f64>,
    pub(super) apgr_interval: Option<Interval>,
    /// Of its APGR minus that of prompt length (of random, where there are no prompts), paired.
    pub(super) gain_interval: Option<Interval>,
    pub(super) cpt50: Option<f64>,
    pub(super) cpt80: Option<f64>,
    pub(super) spend_at_95: Option<f64>,
    pub(super) spend_at_99: Option<f64>,
    pub(super) at_shares: Vec<Point>,
    /// Where the router itself would stand: every row with a predicted gap above 0, or in doubt.
    pub(super) chosen: Option<Point>,
    #[serde(skip)]
    pub(super) curve: Vec<Point>,
}

impl Report {
    pub(super) fn new(log: &Log, settings: &Settings, routers: Vec<Figures>) -> Report {
        let mut models = log.models.clone();
        models.sort_by(|a, b| b.1.total_cmp(&a.1));
        Report {
            local: log.local.clone(),
            upstream: log.upstream.clone(),
            rows: log.rows.len(),
            left_out: log.left_out,
            folds: settings.folds,
            seed: settings.seed,
            resamples: settings.resamples,
            models,
            routers,
        }
    }

    /// The table that a person reads.
    pub fn render_table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} → {}: {} rows, {} left out; seed {}, {} folds",
            self.local, self.upstream, self.rows, self.left_out, self.seed, self.folds
        );
        let ends =
            self.routers.first().and_then(|first| Some((first.curve.first()?.quality, first.curve.last()?.quality)));
        if let Some((local, upstream)) = ends {
            let _ = writeln!(text, "quality: all local {local:.3}, all upstream {upstream:.3}");
        }
        if let Some((name, quality)) = self.models.first() {
            let _ = writeln!(text, "best single model: {name} {quality:.3}");
        }
        let _ = writeln!(text, "\n{}", self.head());
        for figures in &self.routers {
            let _ = writeln!(text, "{}", figures.line());
        }
        text.push_str(LEGEND);
        text
    }

    fn head(&self) -> String {
        let mut head = format!(
            "{:<22} {:<17} {:>5} {:>11} {:>13} {:>5} {:>5} {:>6} {:>6}",
            "router", "knows", "APGR", "95 %", "over length", "CPT50", "CPT80", "$@95 %", "$@99 %"
        );
        for point in self.routers.iter().take(1).flat_map(|figures| &figures.at_shares) {
            let _ = write!(head, " {:>6}", format!("q@{:.2}", point.share));
        }
        head + "  its own choice"
    }

    /// One row per router and percent of upstream calls: `router,knows,share,quality,spend`.
    pub fn render_curves(&self) -> String {
        let mut text = "router,knows,share,quality,spend\n".to_owned();
        for figures in &self.routers {
            for point in &figures.curve {
                let (router, knows) = (&figures.router, label(figures.knows));
                let _ = writeln!(text, "\"{router}\",{knows},{},{},{}", point.share, point.quality, point.spend);
            }
        }
        text
    }
}

const LEGEND: &str = "\nknows      what the router saw: prompt alone, or after learning on the same domains (in-domain),\n\
     \x20          on other domains only (left-out); answers: the local model was asked first\n\
     APGR       mean share of the quality gap closed, over all shares of upstream calls; random is .5\n\
     over length  95 % interval of its APGR minus that of prompt length, on the same resampled rows\n\
     CPT50/80   smallest share of upstream calls that closes 50 / 80 % of the gap\n\
     $@95/99 %  smallest spend, as a share of all upstream, with 95 / 99 % of the upstream's quality\n\
     q@S        quality when the share S goes upstream\n";

fn label(knows: Knows) -> &'static str {
    match knows {
        Knows::Nothing => "nothing",
        Knows::Prompt => "prompt",
        Knows::InDomain => "in-domain",
        Knows::LeftOut => "left-out",
        Knows::Answers => "answers",
        Knows::AnswersInDomain => "answers+in-domain",
        Knows::Given => "given",
        Knows::Outcome => "outcome",
    }
}

impl Figures {
    fn line(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let range = |interval: Option<Interval>| {
            interval.map_or_else(|| "-".to_owned(), |Interval { low, high }| format!("{low:.3}–{high:.3}"))
        };
        let gain =
            self.gain_interval.map_or_else(|| "-".to_owned(), |Interval { low, high }| format!("{low:+.3} {high:+.3}"));
        let mut line = format!(
            "{:<22} {:<17} {:>5} {:>11} {:>13} {:>5} {:>5} {:>6} {:>6}",
            self.router,
            label(self.knows),
            number(self.apgr),
            range(self.apgr_interval),
            gain,
            number(self.cpt50),
            number(self.cpt80),
            number(self.spend_at_95),
            number(self.spend_at_99),
        );
        for point in &self.at_shares {
            let _ = write!(line, " {:>6.3}", point.quality);
        }
        if let Some(Point { share, quality, .. }) = self.chosen {
            let _ = write!(line, "  {quality:.3} at {share:.3} of the calls");
        }
        line
    }
}
