//! Writes the lines of the text format.

use std::fmt::Display;
use std::io::Write as _;
use std::ops::RangeInclusive;

use crate::stats::histogram::{Durations, bound_us};

/// Smallest and largest finite bucket bound of a histogram: 1 ms and 4.8 h. Each bound is twice the previous
/// one. More bounds would be more precise, but each costs one series per function.
const BOUNDS_US: RangeInclusive<u64> = 1 << 10..=1 << 34;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    Histogram,
}

/// Writes the HELP and TYPE lines of a family.
pub(super) fn write_head(name: &str, kind: Kind, help: &str, out: &mut Vec<u8>) {
    let kind = match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    // Writing to memory cannot fail, here and below.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// Writes the samples of one family, for one function or the server.
pub(super) struct Lines<'a> {
    name: &'a str,
    function: Option<&'a str>,
    out: &'a mut Vec<u8>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(name: &'a str, function: Option<&'a str>, out: &'a mut Vec<u8>) -> Self {
        Self { name, function, out }
    }

    /// A sample without a label of its own.
    pub(super) fn value(&mut self, value: impl Display) {
        self.sample("", None, value);
    }

    /// A sample with a label.
    pub(super) fn labelled(&mut self, label: &str, is: &str, value: impl Display) {
        self.sample("", Some((label, is)), value);
    }

    /// A sample for each value of a label.
    pub(super) fn each(&mut self, label: &str, samples: impl IntoIterator<Item = (&'static str, u64)>) {
        for (is, value) in samples {
            self.labelled(label, is, value);
        }
    }

    /// All samples of a histogram; none if it is empty.
    pub(super) fn histogram(&mut self, durations: &Durations) {
        let count = durations.count();
        if count == 0 {
            return;
        }
        let mut below = 0;
        for (bucket, in_bucket) in durations.counts.iter().enumerate() {
            below += in_bucket;
            let bound_us = bound_us(bucket).filter(|bound| bound.is_power_of_two() && BOUNDS_US.contains(bound));
            if let Some(bound_us) = bound_us {
                let bound = Seconds(bound_us.into()).to_string();
                self.sample("_bucket", Some(("le", &bound)), below);
            }
        }
        self.sample("_bucket", Some(("le", "+Inf")), count);
        self.sample("_sum", None, Seconds(durations.sum_us.into()));
        self.sample("_count", None, count);
    }

    fn sample(&mut self, suffix: &str, label: Option<(&str, &str)>, value: impl Display) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        let mut opening = '{';
        for (name, is) in self.function.map(|function| ("function", function)).into_iter().chain(label) {
            let _ = write!(self.out, "{opening}{name}=\"");
            self.escaped(is);
            self.out.push(b'"');
            opening = ',';
        }
        let closing = if opening == ',' { "}" } else { "" };
        let _ = writeln!(self.out, "{closing} {value}");
    }

    fn escaped(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'\\' => self.out.extend_from_slice(b"\\\\"),
                b'"' => self.out.extend_from_slice(b"\\\""),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                byte => self.out.push(byte),
            }
        }
    }
}

/// Microseconds, printed as exact seconds.
struct Seconds(u128);

impl Display for Seconds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(function: Option<&str>, write: impl FnOnce(&mut Lines<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Lines::new("a", function, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(written(None, |lines| lines.value(1)), "a 1\n");
        assert_eq!(written(None, |lines| lines.labelled("x", "y", 0.5)), "a{x=\"y\"} 0.5\n");
        assert_eq!(
            written(Some("q\"\\\n}"), |lines| lines.labelled("x", "y", 2)),
            "a{function=\"q\\\"\\\\\\n}\",x=\"y\"} 2\n"
        );
    }

    #[test]
    fn bounds_are_at_most_a_doubling_apart() {
        let histogram = crate::stats::histogram::Histogram::default();
        histogram.record(1);
        let text = written(None, |lines| lines.histogram(&histogram.read()));
        let bounds = text.lines().filter_map(|line| line.strip_prefix("a_bucket{le=\"")?.split('"').next());
        let bounds: Vec<f64> = bounds.map(|bound| bound.replace("+Inf", "inf").parse().unwrap()).collect();
        assert_eq!((bounds.len(), bounds[0]), (26, 0.001_024));
        assert!(bounds.windows(2).all(|pair| pair[1].is_infinite() || (pair[1] / pair[0] - 2.0).abs() < 1e-9));
    }

    #[test]
    fn buckets_count_what_is_below_them() {
        let histogram = crate::stats::histogram::Histogram::default();
        for duration_us in [1, 64, 65, 300, 1_500_000, u64::MAX / 4] {
            histogram.record(duration_us);
        }
        let text = written(None, |lines| lines.histogram(&histogram.read()));
        assert!(text.starts_with("a_bucket{le=\"0.001024\"} 4\na_bucket{le=\"0.002048\"} 4\n"), "{text}");
        assert!(text.contains("a_bucket{le=\"1.048576\"} 4\na_bucket{le=\"2.097152\"} 5\n"), "{text}");
        assert!(text.contains("a_bucket{le=\"17179.869184\"} 5\n"), "{text}");
        assert!(text.contains("a_bucket{le=\"+Inf\"} 6\n") && text.ends_with("a_count 6\n"), "{text}");
        assert_eq!(written(None, |lines| lines.histogram(&Durations::default())), "");
    }
}
