//! Actions on the selected item: the confirmation before the action, and the text command for it.

use super::app::{AdminAction, App, Prompt, Question, Value};
use super::views::View;
use crate::client::listing::printable;
use crate::client::table::{flag, lossy};
use crate::protocol::text::escaped;

impl App {
    /// The prompt that a key opens for the selected item.
    ///
    /// # Errors
    /// Why the key does nothing here.
    pub(super) fn question(&self, key: char) -> Result<Prompt, String> {
        let view = match key {
            'p' | 'l' => View::Functions,
            'c' | 'm' if self.view == View::Functions => View::Functions,
            'c' | 'm' | 'n' | 'P' => View::Jobs,
            _ => View::Workers,
        };
        if self.view != view {
            return Err(format!("{key} is for {} (key {})", view.name(), view.index() + 1));
        }
        let Some((table, row)) = self.row() else { return Err(format!("no {} selected", view.one())) };
        let name = &row[0];
        if self.data.is_cpp && (view, key) != (View::Jobs, 'c') {
            return Err("a C++ gearmand can only cancel jobs".to_owned());
        }
        if self.details.as_ref().is_some_and(|details| details.key != *name) {
            return Err(format!("{} no longer exists", view.one()));
        }
        let cell = |column: &str| table.cell(row, column);
        let question = match (view, key) {
            (View::Functions, 'l') => return Ok(Prompt::Value(limit(name))),
            (_, 'm') => return Ok(Prompt::Value(of_move(if view == View::Jobs { "job" } else { "jobs" }, name))),
            (View::Functions, 'p') => {
                let is_paused = cell("paused").and_then(flag) == Some(true);
                yes_or_no(if is_paused { "resume" } else { "pause" }, "function", name)
            }
            (View::Functions, _) => {
                let action = AdminAction {
                    line: [b"cancel jobs ", &word(name)[..]].concat(),
                    said: format!("cancel jobs of {}", shown(name)),
                };
                Question { text: format!("cancel ALL jobs of {}?", shown(name)), choices: vec![yes(action)] }
            }
            (View::Jobs, 'c') => yes_or_no("cancel job", "", name),
            (View::Jobs, 'P') => priority(name),
            (View::Jobs, _) => yes_or_no("run job", "", name),
            (_, key) => of_workers(key, name, cell("client_id"), cell("address")),
        };
        Ok(Prompt::Confirm(question))
    }
}

impl Value {
    /// The action with the value that was typed.
    ///
    /// # Errors
    /// Why the value is invalid.
    pub(super) fn action(&self) -> Result<AdminAction, String> {
        if self.typed.is_empty() {
            return Err("empty input, nothing done".to_owned());
        }
        if self.is_number && self.typed.parse::<u32>().is_err() {
            return Err(format!("{} exceeds the largest limit; 0 means no limit", self.typed));
        }
        let line = [&self.line[..], &word(self.typed.as_bytes())].concat();
        Ok(AdminAction { said: printable(&lossy(&line)), line })
    }
}

fn limit(function: &[u8]) -> Value {
    Value {
        text: format!("maximum running jobs of {}, 0 for no limit", shown(function)),
        typed: String::new(),
        is_number: true,
        line: [b"limit running ", &word(function)[..], b" "].concat(),
    }
}

/// Prompt for moving a job, or all waiting jobs of a function.
fn of_move(what: &str, name: &[u8]) -> Value {
    let of = if what == "jobs" { "jobs of" } else { "job" };
    Value {
        text: format!("move {of} {} to function", shown(name)),
        typed: String::new(),
        is_number: false,
        line: [b"move ", what.as_bytes(), b" ", &word(name), b" "].concat(),
    }
}

fn priority(handle: &[u8]) -> Question {
    let choice = |(key, name): (char, &str)| {
        let line = [b"priority job ", &word(handle)[..], b" ", name.as_bytes()].concat();
        (key, name.to_owned(), AdminAction { said: printable(&lossy(&line)), line })
    };
    Question {
        text: format!("priority of job {}?", shown(handle)),
        choices: [('h', "high"), ('n', "normal"), ('l', "low")].map(choice).to_vec(),
    }
}

fn yes(action: AdminAction) -> (char, String, AdminAction) {
    ('y', "yes".to_owned(), action)
}

fn yes_or_no(verb: &str, what: &str, name: &[u8]) -> Question {
    let line = [verb.as_bytes(), b" ", &word(name)].concat();
    let words = [verb, what, &shown(name)].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    Question {
        text: format!("{words}?"),
        choices: vec![yes(AdminAction { line, said: format!("{verb} {}", shown(name)) })],
    }
}

/// Confirmation for one connection, or for all with its client id or host.
fn of_workers(key: char, id: &[u8], client: Option<&[u8]>, address: Option<&[u8]>) -> Question {
    let verb = match key {
        'd' => "disable",
        'D' => "drain",
        'e' => "enable",
        _ => "kick",
    };
    let mut choices = Vec::new();
    for (choice, kind, value) in [('y', "connection", Some(id)), ('c', "client", client), ('h', "host", address)] {
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        let line = [verb.as_bytes(), b" ", kind.as_bytes(), b":", &word(value)].concat();
        let what = if choice == 'y' { "yes, this one".to_owned() } else { format!("all of {kind} {}", shown(value)) };
        choices.push((choice, what, AdminAction { said: printable(&lossy(&line)), line }));
    }
    Question { text: format!("{verb} worker {}?", shown(id)), choices }
}

fn shown(name: &[u8]) -> String {
    printable(&lossy(name))
}

/// Encodes a name from a listing as a word of a command that C++ gearmand does not know. Such commands read
/// names as listings show them, except for spaces, which listings do not escape, and the empty name, which is
/// not a word.
pub(super) fn word(name: &[u8]) -> Vec<u8> {
    if name.is_empty() {
        return escaped(name).into_bytes();
    }
    let mut word = Vec::with_capacity(name.len());
    for byte in name {
        if *byte == b' ' || byte.is_ascii_control() {
            word.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        } else {
            word.push(*byte);
        }
    }
    word
}
