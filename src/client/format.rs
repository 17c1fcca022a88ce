//! Formats table cells for people: durations, sizes and rates, chosen by column name.

use crate::client::listing::printable;
use crate::client::table::{Kind, flag, lossy, number};

/// Heading of a column: its name without the unit, since each cell shows its own.
pub(super) fn heading(column: &str) -> String {
    let name = column.strip_suffix("_per_s").map(|name| format!("{name}/s"));
    printable(&name.unwrap_or_else(|| without_unit(column).to_owned())).to_uppercase()
}

/// Label of a key.
pub(super) fn words(key: &str) -> String {
    let is_past = key.ends_with("_unix_ms") && key != "deadline_unix_ms";
    let name = if key.ends_with("_per_s") { key } else { without_unit(key) };
    format!("{}{}", printable(name).replace('_', " "), if is_past { " (ago)" } else { "" })
}

fn without_unit(name: &str) -> &str {
    ["_unix_ms", "_unix_s", "_bytes", "_s"].iter().find_map(|unit| name.strip_suffix(unit)).unwrap_or(name)
}

/// Formats a cell for people. `now_unix_ms` is the time of the query, in milliseconds since 1970.
pub(super) fn shown(column: &str, cell: &[u8], now_unix_ms: u64) -> String {
    if cell == b"-" {
        return "-".to_owned();
    }
    let plain = || printable(&lossy(cell));
    if Kind::of(column) == Kind::Flag {
        return flag(cell).map_or_else(plain, |set| if set { "yes" } else { "no" }.to_owned());
    }
    let Some(number) = number(cell).filter(|_| Kind::of(column) == Kind::Number) else { return plain() };
    // Until the year 287396 an f64 represents milliseconds exactly.
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
    let now_s = now_unix_ms as f64 / 1e3;
    if column.ends_with("_per_s") {
        format!("{number:.1}")
    } else if column == "deadline_unix_ms" {
        ahead(number / 1e3 - now_s)
    } else if column.ends_with("_unix_ms") {
        duration((now_s - number / 1e3).max(0.0))
    } else if column.ends_with("_unix_s") {
        ahead(number - now_s)
    } else if column.ends_with("_s") {
        duration(number)
    } else if column.ends_with("bytes") {
        size(number)
    } else {
        plain()
    }
}

/// Formats a time in the future.
fn ahead(seconds: f64) -> String {
    if seconds <= 0.0 { "due".to_owned() } else { format!("in {}", duration(seconds)) }
}

/// Formats a time of `seconds`, with two or three digits.
pub(super) fn duration(seconds: f64) -> String {
    // No server's clock counts further; larger values are shown as this limit.
    let seconds = seconds.clamp(0.0, 1e12);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10^12")]
    let whole = seconds.round() as u64;
    if seconds == 0.0 {
        "0s".to_owned()
    } else if seconds < 0.001 {
        format!("{:.2}ms", seconds * 1e3)
    } else if seconds < 0.01 {
        format!("{:.1}ms", seconds * 1e3)
    } else if seconds < 0.9995 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 9.95 {
        format!("{seconds:.1}s")
    } else if whole < 60 {
        format!("{whole}s")
    } else if whole < 3600 {
        format!("{}m{:02}s", whole / 60, whole % 60)
    } else if whole < 86_400 {
        format!("{}h{:02}m", whole / 3600, whole / 60 % 60)
    } else {
        format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24)
    }
}

/// Formats a number of bytes, with two or three digits.
pub(super) fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.5 {
            return if unit == "B" || value >= 9.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.000_25, "0.25ms"),
            (0.0042, "4.2ms"),
            (0.25, "250ms"),
            (0.9996, "1.0s"),
            (9.99, "10s"),
            (59.6, "1m00s"),
            (75.0, "1m15s"),
            (3600.0, "1h00m"),
            (90_000.0, "1d01h"),
            (f64::MAX, "11574074d01h"),
            (-1.0, "0s"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        assert_eq!(
            [0.0, 1023.0, 1024.0, 10_240.0, 3e9, 5e12].map(size),
            ["0 B", "1023 B", "1.0 KiB", "10 KiB", "2.8 GiB", "4.5 TiB"]
        );
    }

    #[test]
    fn the_name_of_a_column_says_what_it_holds() {
        for (column, cell, text) in [
            ("name", "75", "75"),
            ("oldest_s", "75", "1m15s"),
            ("oldest_s", "-", "-"),
            ("in_per_s", "3", "3.0"),
            ("since_unix_ms", "1000", "9.0s"),
            ("since_unix_ms", "99000", "0s"),
            ("due_unix_s", "70", "in 1m00s"),
            ("due_unix_s", "9", "due"),
            ("deadline_unix_ms", "70000", "in 1m00s"),
            ("bytes", "2048", "2.0 KiB"),
            ("paused", "1", "yes"),
            ("oldest_s", "what?", "what?"),
            ("running", "12", "12"),
            ("handle", "a\x1bb", "a\\x1bb"),
        ] {
            assert_eq!(shown(column, cell.as_bytes(), 10_000), text, "{column} {cell}");
        }
    }
}
