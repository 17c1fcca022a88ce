//! Formats responses of the text protocol as tables, as JSON or unchanged.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::action::{Action, Form};
use crate::client::ToolError;
use crate::client::admin_text::{RawAnswer, TextAnswer};
use crate::client::listing;
use crate::client::table::{Facts, Table};
use crate::client::terminal;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// For people.
    Text,
    /// One JSON document per line.
    Json,
    /// As received.
    Raw,
}

/// Formats a response for standard output.
///
/// # Errors
/// When a selected column does not exist.
pub(super) fn shown(style: Style, action: &Action, answer: &RawAnswer) -> Result<Vec<u8>, ToolError> {
    let form = action.form();
    if style == Style::Raw || (form == Form::Unknown && style == Style::Text) {
        return Ok(terminal::harmless_on_stdout(&answer.wire));
    }
    if style == Style::Json {
        return Ok((as_json(form, &answer.answer) + "\n").into_bytes());
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    let room = terminal::room();
    // A response in an unexpected format is shown unchanged.
    let plain = || terminal::harmless(&answer.wire, true);
    Ok(match (&answer.answer, form) {
        // Reported on standard error.
        (TextAnswer::Err(_), _) => Vec::new(),
        (TextAnswer::Ok(text), _) if text.is_empty() => b"OK\n".to_vec(),
        (TextAnswer::Ok(text), Form::Done) => {
            format!("OK {}\n", listing::printable(&String::from_utf8_lossy(text))).into_bytes()
        }
        (TextAnswer::Ok(text), _) => format!("{}\n", listing::printable(&String::from_utf8_lossy(text))).into_bytes(),
        (TextAnswer::Listing(lines), Form::List(listing)) => listing.table(lines, room).into_bytes(),
        (TextAnswer::Listing(lines), Form::Table(columns) | Form::Page(columns)) => match Table::parse(lines) {
            Some(table) => table_text(table, action.columns(), columns, now_unix_ms, room)?.into_bytes(),
            None => plain(),
        },
        (TextAnswer::Listing(lines), Form::Facts(_)) => Facts::parse(lines).text_within(now_unix_ms, room).into_bytes(),
        (TextAnswer::Listing(_), _) => plain(),
    })
}

/// Formats the selected columns, or the usual ones, and the position of the next page.
fn table_text(
    mut table: Table,
    wanted: &[String],
    usual: &[&str],
    now_unix_ms: u64,
    room: Option<usize>,
) -> Result<String, ToolError> {
    let mut text = match wanted {
        [all] if all == "all" => table.text_within(now_unix_ms, room),
        [] if usual.is_empty() => table.text_within(now_unix_ms, room),
        [] => {
            table.add_failures("failed");
            table.select(usual).text_within(now_unix_ms, room)
        }
        names => {
            if let Some(unknown) = names.iter().find(|name| table.column(name).is_none()) {
                let known = listing::printable(&table.columns.join(", "));
                return Err(ToolError::Usage(format!("--columns: unknown column {unknown}; known: {known}")));
            }
            table.select(names).text_within(now_unix_ms, room)
        }
    };
    if let Some(next) = &table.next {
        text.extend(["(more: --after ", &listing::printable(next), ")\n"]);
    }
    Ok(text)
}

/// Formats a response as a JSON document.
fn as_json(form: Form, answer: &TextAnswer) -> String {
    let plain = |lines| listing::json_text(&listing::plain_json(lines));
    match (answer, form) {
        (TextAnswer::Listing(lines), Form::List(listing)) => listing.json(lines),
        (TextAnswer::Listing(lines), Form::Table(_)) => {
            Table::parse(lines).map_or_else(|| plain(lines), |table| listing::json_array(table.objects()))
        }
        (TextAnswer::Listing(lines), Form::Page(_)) => Table::parse(lines).map_or_else(
            || plain(lines),
            |table| {
                let next = listing::json_text(&json!(table.next));
                format!("{{\"jobs\":{},\"next\":{next}}}", listing::json_array(table.objects()))
            },
        ),
        (TextAnswer::Listing(lines), Form::Facts(lists)) => listing::json_text(&Facts::parse(lines).json(lists)),
        (TextAnswer::Listing(lines), _) => plain(lines),
        (TextAnswer::Ok(text), form) => listing::json_text(&ok_json(form, &String::from_utf8_lossy(text))),
        (TextAnswer::Err(why), _) => listing::json_text(&json!({ "error": String::from_utf8_lossy(why) })),
    }
}

/// Converts the text after OK.
fn ok_json(form: Form, text: &str) -> Value {
    match form {
        Form::Value(name) => {
            let value = if name == "pid" { text.parse::<u64>().ok().map(Value::from) } else { None };
            json!({ name: value.unwrap_or_else(|| Value::from(text)) })
        }
        _ if text.is_empty() => json!({ "ok": true }),
        Form::Done => text
            .parse::<u64>()
            .map_or_else(|_| json!({ "ok": true, "value": text }), |count| json!({ "affected": count })),
        _ => json!({ "ok": true, "value": text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_one_json_form() {
        let ok = |text: &str| TextAnswer::Ok(text.as_bytes().to_vec());
        let as_json = |form, answer: &TextAnswer| serde_json::from_str::<Value>(&as_json(form, answer)).unwrap();
        assert_eq!(as_json(Form::Value("pid"), &ok("12")), json!({"pid": 12}));
        assert_eq!(as_json(Form::Value("version"), &ok("2.0.0")), json!({"version": "2.0.0"}));
        assert_eq!(as_json(Form::Done, &ok("")), json!({"ok": true}));
        assert_eq!(as_json(Form::Done, &ok("12")), json!({"affected": 12}));
        assert_eq!(as_json(Form::Done, &TextAnswer::Err(b"UNKNOWN_JOB".to_vec())), json!({"error": "UNKNOWN_JOB"}));
        assert_eq!(as_json(Form::Unknown, &TextAnswer::Listing(vec![b"a".to_vec()])), json!({"lines": ["a"]}));
    }

    #[test]
    fn a_table_has_the_columns_that_are_wanted() {
        let lines = [&b"# name high workers later"[..], b"rev\t1\t2\t3", b"# next 5"].map(<[u8]>::to_vec);
        let table = Table::parse(&lines).unwrap();
        let more = "(more: --after 5)\n";
        let text = |wanted: &[&str], usual: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            table_text(table.clone(), &wanted, usual, 0, None)
        };
        assert_eq!(text(&[], &["name", "workers"]).unwrap(), format!("NAME  WORKERS\nrev         2\n{more}"));
        assert_eq!(text(&["high"], &["name"]).unwrap(), format!("HIGH\n   1\n{more}"));
        let why = text(&["high", "bogus"], &["name"]).unwrap_err();
        assert!(
            matches!(why, ToolError::Usage(_))
                && why.to_string().contains("unknown column bogus; known: name, high, workers, later")
        );
        let all = text(&["all"], &["name"]).unwrap();
        assert!(all.starts_with("NAME  HIGH  WORKERS  LATER\n"), "{all}");
        let json = as_json(Form::Page(&[]), &TextAnswer::Listing(lines.to_vec()));
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json, json!({"jobs": [{"name": "rev", "high": 1, "workers": 2, "later": 3}], "next": "5"}));
    }
}
