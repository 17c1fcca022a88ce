//! The table on standard output, and the same as JSON.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use serde::Serialize;

use crate::failure::Result;
use crate::measuring::median;
use crate::options::Options;

/// Requirement of a line.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// The median of the rounds' ratios, ours to the best of theirs, is at most this.
    Ratio(f64),
    /// The median of the rounds' ratios is at least this: larger is better.
    Times(f64),
    /// The median of ours is at most this.
    Absolute(f64),
    /// No requirement: the line explains others.
    Information,
}

/// Values of one metric of a server, one per round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) rounds: Vec<f64>,
}

/// Median and range of some values.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// Whether a bar is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    Miss,
    Information,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    row: &'static str,
    metric: &'static str,
    ours: Series,
    theirs: Vec<Series>,
    ours_median: f64,
    /// The median over the rounds of the best of theirs.
    theirs_median: f64,
    /// The one of theirs with the best median.
    theirs_best: &'static str,
    ratio: Spread,
    bar: Bar,
    verdict: Verdict,
}

/// A row that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Broken {
    pub(crate) row: String,
    pub(crate) failure: String,
}

/// All results.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) one_cpu: bool,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// Directory of the stores of the durable rows, and its file system.
    pub(crate) disk: String,
    pub(crate) lines: Vec<Line>,
    pub(crate) broken: Vec<Broken>,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self {
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl Line {
    /// Compares `ours` with the best of `theirs`, round by round. Smaller is better, except for
    /// [`Bar::Times`]; on a line of information with several of theirs the smallest counts.
    pub(crate) fn new(row: &'static str, metric: &'static str, ours: Series, theirs: Vec<Series>, bar: Bar) -> Self {
        let more = matches!(bar, Bar::Times(_));
        let better = |one: &f64, other: &f64| if more { other.total_cmp(one) } else { one.total_cmp(other) };
        let best: Vec<f64> = (0..ours.rounds.len())
            .map(|round| theirs.iter().map(|series| series.rounds[round]).min_by(better).unwrap_or(f64::NAN))
            .collect();
        let ratios: Vec<f64> = ours.rounds.iter().zip(&best).map(|(ours, best)| ours / best).collect();
        let ratio = Spread::of(&ratios);
        let ours_median = median(&ours.rounds);
        let cleared = |value: f64, limit: f64| {
            if value <= limit { Verdict::Pass } else { Verdict::Miss }
        };
        let verdict = match bar {
            Bar::Ratio(limit) => cleared(ratio.median, limit),
            // A NaN never passes.
            Bar::Times(limit) if ratio.median >= limit => Verdict::Pass,
            Bar::Times(_) => Verdict::Miss,
            Bar::Absolute(limit) => cleared(ours_median, limit),
            Bar::Information => Verdict::Information,
        };
        let theirs_best = theirs
            .iter()
            .min_by(|one, other| better(&median(&one.rounds), &median(&other.rounds)))
            .map_or("", |series| series.name);
        Self { row, metric, ours, theirs, ours_median, theirs_median: median(&best), theirs_best, ratio, bar, verdict }
    }

    /// Formats the line for the table.
    pub(crate) fn text(&self) -> String {
        let bar = match self.bar {
            Bar::Ratio(limit) => format!("≤ {limit} x"),
            Bar::Times(limit) => format!("≥ {limit} x"),
            Bar::Absolute(limit) => format!("≤ {limit}"),
            Bar::Information => String::new(),
        };
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Miss => "MISS",
            Verdict::Information => "",
        };
        let spread = format!("{:.2} [{:.2}..{:.2}]", self.ratio.median, self.ratio.min, self.ratio.max);
        let text = format!(
            "{:<12} {:<30} {:>9} {:>9} {:<17} {:<20} {:<8} {}",
            self.row,
            self.metric,
            short(self.ours_median),
            short(self.theirs_median),
            self.theirs_best,
            spread,
            bar,
            verdict
        );
        text.trim_end().to_owned()
    }
}

impl Report {
    /// Formats the column names.
    pub(crate) fn heading() -> String {
        format!(
            "{:<12} {:<30} {:>9} {:>9} {:<17} {:<20} {:<8} {}",
            "row", "metric", "ours", "theirs", "(which)", "ratio [min..max]", "bar", "verdict"
        )
    }

    /// Prints the table, writes the JSON and returns the exit code of the process.
    pub(crate) fn conclude(&self, options: &Options) -> ExitCode {
        let mut table =
            format!("\n{} rounds; ours {}; theirs {}; stores {}\n\n", self.rounds, self.ours, self.theirs, self.disk);
        table.push_str(&Self::heading());
        for line in &self.lines {
            let _infallible = write!(table, "\n{}", line.text());
        }
        for broken in &self.broken {
            let _infallible = write!(table, "\n{:<12} FAILED: {}", broken.row, broken.failure);
        }
        println!("{table}");
        if self.quick {
            println!("Quick: the sizes are too small for these numbers to mean anything.");
        }
        if let Err(failure) = self.write(options) {
            eprintln!("wire: the JSON could not be written: {failure}");
            return ExitCode::FAILURE;
        }
        let missed = self.lines.iter().any(|line| line.verdict == Verdict::Miss);
        if self.broken.is_empty() && !(missed && options.gate) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn write(&self, options: &Options) -> Result<()> {
        fs::create_dir_all(&options.output)?;
        fs::write(options.output.join("wire.json"), serde_json::to_string_pretty(self)?)?;
        Ok(())
    }
}

/// Formats a value with three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
