//! State of the display, changed only by events. It depends on neither the terminal nor the connection.

use std::time::Duration;

use ratatui::crossterm::event::KeyEvent;

use super::data::{Rates, Snapshot};
use super::fetch::{Detail, Query};
use super::list::List;
use super::panels;
use super::views::View;
use crate::client::table::Table;

/// How many updates a message stays for.
const MESSAGE_UPDATES: u8 = 8;
/// Lines above and below a list, without the counts: the server, the views, the headings, the last line.
const LINES_AROUND_LIST: usize = 4;

/// An event.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The size of the terminal, in columns and lines.
    Size(u16, u16),
    /// The terminal's input has ended.
    InputEnded,
    /// Connected to this address.
    Connected(String),
    /// New data from the server.
    Data(Box<Snapshot>),
    /// Result of an action.
    Answer { said: String, result: Result<(), String> },
    /// The connection is lost. The next attempt follows after this time.
    Lost { why: String, again_in: Duration },
}

/// A request of the display to the main loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Quit.
    Quit,
    /// Stop as a job of the shell (SIGTSTP).
    Suspend,
    /// Send this command.
    Do(AdminAction),
}

/// An action that the server is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminAction {
    /// The text command.
    pub(super) line: Vec<u8>,
    /// Its description for people, printable.
    pub(super) said: String,
}

/// A confirmation before an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Text, printable, without the keys.
    pub(super) text: String,
    /// For each key its meaning and its action. Every other key means no.
    pub(super) choices: Vec<(char, String, AdminAction)>,
}

/// Input of a value before an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Name of the value, printable.
    pub(super) text: String,
    /// Text typed so far.
    pub(super) typed: String,
    /// Whether only digits are accepted.
    pub(super) is_number: bool,
    /// The text command up to the value, including the space before it.
    pub(super) line: Vec<u8>,
}

/// Where keys go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Prompt {
    /// To the list.
    #[default]
    None,
    /// To the filter of the list.
    Filter,
    /// To a confirmation.
    Confirm(Question),
    /// To the input of a value.
    Value(Value),
    /// To the help page with all keys.
    Help,
}

/// The item on the details page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Details {
    /// Its name, id or handle.
    pub(super) key: Vec<u8>,
    /// First line on the screen.
    pub(super) scroll: u16,
}

/// State of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConnectionState {
    Connecting,
    Connected(String),
    Lost { why: String, again_in: Duration },
}

/// The state.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) view: View,
    pub(super) lists: [List; 3],
    pub(super) data: Snapshot,
    pub(super) connection: ConnectionState,
    pub(super) prompt: Prompt,
    pub(super) details: Option<Details>,
    /// First line of the server page on the screen.
    pub(super) server_scroll: u16,
    /// If set, only the jobs of this function are shown.
    pub(super) jobs_of: Option<Vec<u8>>,
    /// Message in the last line, whether it reports a problem, and how many updates it stays for.
    pub(super) message: Option<(String, bool, u8)>,
    rates: Rates,
    width: u16,
    height: u16,
}

impl App {
    /// The initial state, on a terminal of this size.
    pub(super) fn new(width: u16, height: u16) -> Self {
        Self {
            view: View::Functions,
            lists: [View::Functions, View::Workers, View::Jobs].map(List::new),
            data: Snapshot::default(),
            connection: ConnectionState::Connecting,
            prompt: Prompt::None,
            details: None,
            server_scroll: 0,
            jobs_of: None,
            message: None,
            rates: Rates::default(),
            width,
            height,
        }
    }

    /// Handles an event.
    pub(super) fn handle(&mut self, event: Event) -> Option<Command> {
        match event {
            Event::Key(key) => {
                let command = self.key(key);
                self.arrange();
                return command;
            }
            Event::InputEnded => return Some(Command::Quit),
            Event::Size(width, height) => (self.width, self.height) = (width, height),
            Event::Connected(address) => self.connection = ConnectionState::Connected(address),
            Event::Lost { why, again_in } => self.connection = ConnectionState::Lost { why, again_in },
            Event::Data(snapshot) => self.take(*snapshot),
            Event::Answer { said, result } => match result {
                Ok(()) => self.say(format!("done: {said}"), false),
                Err(why) => self.say(format!("{said}: {why}"), true),
            },
        }
        self.arrange();
        None
    }

    /// What to query from the server.
    pub(super) fn query(&self) -> Query {
        let mut query = Query::of(self.view);
        query.jobs_of.clone_from(&self.jobs_of);
        let detail = match self.view {
            View::Workers => Some(Detail::Worker),
            View::Jobs => Some(Detail::Job),
            View::Functions | View::Server => None,
        };
        query.details = detail.zip(self.details.as_ref().map(|details| details.key.clone()));
        query
    }

    /// The table of a view, once it was received.
    pub(super) fn table(&self, view: View) -> Option<&Table> {
        self.data.table(view)
    }

    /// The list on the screen.
    pub(super) fn list(&self) -> Option<&List> {
        self.lists.get(self.view.index())
    }

    /// The selected row.
    pub(super) fn row(&self) -> Option<(&Table, &[Vec<u8>])> {
        let (table, list) = (self.table(self.view)?, self.list()?);
        Some((table, table.rows.get(*list.order.get(list.row)?)?))
    }

    /// Number of rows of the list that fit on the screen.
    pub(super) fn list_height(&self) -> usize {
        let counts = panels::counts(&self.data, usize::from(self.width)).len();
        usize::from(self.height).saturating_sub(LINES_AROUND_LIST + counts)
    }

    /// Shows a message in the last line.
    pub(super) fn say(&mut self, text: String, is_bad: bool) {
        self.message = Some((text, is_bad, MESSAGE_UPDATES));
    }

    fn take(&mut self, mut new: Snapshot) {
        if let Some(functions) = &mut new.functions {
            self.rates.apply(new.at, functions);
        }
        // This data was queried before the filter changed.
        if new.jobs_of != self.jobs_of {
            new.jobs = None;
        }
        // A different server has taken over the address: the old data is obsolete.
        if new.is_cpp == self.data.is_cpp {
            let old = &mut self.data;
            new.functions = new.functions.or_else(|| old.functions.take());
            new.workers = new.workers.or_else(|| old.workers.take());
            new.jobs = new.jobs.or_else(|| old.jobs.take());
            new.rules = new.rules.or_else(|| old.rules.take());
            if new.server.pairs.is_empty() {
                new.server = std::mem::take(&mut old.server);
            }
        }
        self.data = new;
        self.message =
            self.message.take().and_then(|(text, is_bad, updates)| Some((text, is_bad, updates.checked_sub(1)?)));
    }

    /// Updates the list on the screen.
    pub(super) fn arrange(&mut self) {
        let height = self.list_height();
        let table = self.data.table(self.view);
        if let (Some(table), Some(list)) = (table, self.lists.get_mut(self.view.index())) {
            list.arrange(table, height);
        }
    }
}
