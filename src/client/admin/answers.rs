//! Answers of the text protocol as tables, as JSON or as they came.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::action::{Action, Form};
use crate::client::ToolError;
use crate::client::admin_text::{RawAnswer, TextAnswer};
use crate::client::listing;
use crate::client::table::{Facts, Table};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// For people.
    Text,
    /// One document a line.
    Json,
    /// As they are on the wire.
    Raw,
}

/// What goes to standard output for an answer.
///
/// # Errors
/// A column is wanted that there is not.
pub(super) fn shown(style: Style, action: &Action, answer: RawAnswer) -> Result<Vec<u8>, ToolError> {
    let form = action.form();
    if style == Style::Raw || (form == Form::Unknown && style == Style::Text) {
        return Ok(answer.wire);
    }
    if style == Style::Json {
        return Ok(format!("{}\n", as_json(form, &answer.answer)).into_bytes());
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    Ok(match (&answer.answer, form) {
        // Said on standard error.
        (TextAnswer::Err(_), _) => Vec::new(),
        (TextAnswer::Ok(text), _) if text.is_empty() => b"OK\n".to_vec(),
        (TextAnswer::Ok(text), Form::Done) => {
            format!("OK {}\n", listing::printable(&String::from_utf8_lossy(text))).into_bytes()
        }
        (TextAnswer::Ok(text), _) => format!("{}\n", listing::printable(&String::from_utf8_lossy(text))).into_bytes(),
        (TextAnswer::Listing(lines), Form::List(listing)) => listing.table(lines).into_bytes(),
        (TextAnswer::Listing(lines), Form::Table(columns) | Form::Page(columns)) => match Table::parse(lines) {
            Some(table) => table_text(table, action.columns(), columns, now_unix_ms)?.into_bytes(),
            None => answer.wire,
        },
        (TextAnswer::Listing(lines), Form::Facts(_)) => Facts::parse(lines).text(now_unix_ms).into_bytes(),
        (TextAnswer::Listing(_), _) => answer.wire,
    })
}

/// The columns that are wanted, else the usual ones, and where the list goes on.
fn table_text(mut table: Table, wanted: &[String], usual: &[&str], now_unix_ms: u64) -> Result<String, ToolError> {
    let mut text = match wanted {
        [all] if all == "all" => table.text(now_unix_ms),
        [] if usual.is_empty() => table.text(now_unix_ms),
        [] => {
            table.add_failures("failed");
            table.select(usual).text(now_unix_ms)
        }
        names => {
            if let Some(unknown) = names.iter().find(|name| table.column(name).is_none()) {
                let known = listing::printable(&table.columns.join(", "));
                return Err(ToolError::Usage(format!("--columns: there is no {unknown}, but {known}")));
            }
            table.select(names).text(now_unix_ms)
        }
    };
    if let Some(next) = &table.next {
        text.extend(["(there are more: --after ", &listing::printable(next), ")\n"]);
    }
    Ok(text)
}

fn as_json(form: Form, answer: &TextAnswer) -> Value {
    match (answer, form) {
        (TextAnswer::Err(why), _) => json!({ "error": String::from_utf8_lossy(why) }),
        (TextAnswer::Listing(lines), Form::List(listing)) => listing.json(lines),
        (TextAnswer::Listing(lines), Form::Table(_)) => {
            Table::parse(lines).map_or_else(|| listing::plain_json(lines), |table| table.json())
        }
        (TextAnswer::Listing(lines), Form::Page(_)) => Table::parse(lines)
            .map_or_else(|| listing::plain_json(lines), |table| json!({ "jobs": table.json(), "next": table.next })),
        (TextAnswer::Listing(lines), Form::Facts(lists)) => Facts::parse(lines).json(lists),
        (TextAnswer::Listing(lines), _) => listing::plain_json(lines),
        (TextAnswer::Ok(text), Form::Value(name)) => {
            let text = String::from_utf8_lossy(text);
            let value = if name == "pid" { text.parse::<u64>().ok().map(Value::from) } else { None };
            json!({ name: value.unwrap_or_else(|| Value::from(text)) })
        }
        (TextAnswer::Ok(text), _) if text.is_empty() => json!({ "ok": true }),
        (TextAnswer::Ok(text), Form::Done) => {
            let text = String::from_utf8_lossy(text);
            text.parse::<u64>()
                .map_or_else(|_| json!({ "ok": true, "value": text }), |count| json!({ "affected": count }))
        }
        (TextAnswer::Ok(text), _) => json!({ "ok": true, "value": String::from_utf8_lossy(text) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_one_json_form() {
        let ok = |text: &str| TextAnswer::Ok(text.as_bytes().to_vec());
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
        let more = "(there are more: --after 5)\n";
        let text = |wanted: &[&str], usual: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            table_text(table.clone(), &wanted, usual, 0)
        };
        assert_eq!(text(&[], &["name", "workers"]).unwrap(), format!("NAME  WORKERS\nrev         2\n{more}"));
        assert_eq!(text(&["high"], &["name"]).unwrap(), format!("HIGH\n   1\n{more}"));
        let why = text(&["high", "bogus"], &["name"]).unwrap_err();
        assert!(
            matches!(why, ToolError::Usage(_)) && why.to_string().contains("bogus, but name, high, workers, later")
        );
        let all = text(&["all"], &["name"]).unwrap();
        assert!(all.starts_with("NAME  HIGH  WORKERS  LATER\n"), "{all}");
        let json = as_json(Form::Page(&[]), &TextAnswer::Listing(lines.to_vec()));
        assert_eq!(json, json!({"jobs": [{"name": "rev", "high": 1, "workers": 2, "later": 3}], "next": "5"}));
    }
}
