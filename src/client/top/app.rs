//! The state of the display: what comes in changes it, and nothing else. It knows neither terminal nor connection.

use std::time::Duration;

use ratatui::crossterm::event::KeyEvent;

use super::data::{Rates, Snapshot};
use super::gather::{Detail, Look};
use super::list::List;
use super::page;
use super::views::View;
use crate::client::table::Table;

/// How many looks long a message stays.
const MESSAGE_LOOKS: u8 = 8;
/// Lines above and below a list, but for the counts: the server, the views, the headings, the last line.
const LINES_AROUND_LIST: usize = 4;

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has so many lines.
    Size(u16, u16),
    /// The input of the terminal has ended.
    InputEnded,
    /// There is a connection to this address.
    Connected(String),
    /// The server told something.
    Data(Box<Snapshot>),
    /// What became of a deed.
    Answer { said: String, result: Result<(), String> },
    /// There is no connection, and there will be a try in so long.
    Lost { why: String, again_in: Duration },
}

/// What the display wants of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To end.
    Quit,
    /// To stop as a job of the shell.
    Suspend,
    /// To have this done.
    Do(Deed),
}

/// Something that the server is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deed {
    /// The text command.
    pub(super) line: Vec<u8>,
    /// For people, printable.
    pub(super) said: String,
}

/// What is asked before a deed is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Printable, without the keys.
    pub(super) text: String,
    /// A key, what it means, and what is done then. Every other key means no.
    pub(super) choices: Vec<(char, String, Deed)>,
}

/// A value that is typed before a deed is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// What is asked for, printable.
    pub(super) text: String,
    /// What has been typed.
    pub(super) typed: String,
    /// Whether only digits are understood.
    pub(super) is_number: bool,
    /// The text command up to the value, with the space before it.
    pub(super) line: Vec<u8>,
}

/// Who the keys are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Prompt {
    /// The list.
    #[default]
    None,
    /// The filter of the list, which is being typed.
    Filter,
    /// A question.
    Confirm(Question),
    /// A value, which is being typed.
    Value(Value),
    /// The page with all keys.
    Help,
}

/// The item of which all is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Details {
    /// The name, id or handle.
    pub(super) key: Vec<u8>,
    /// The first line on the screen.
    pub(super) scroll: u16,
}

/// Whether there is a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
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
    pub(super) link: Link,
    pub(super) prompt: Prompt,
    pub(super) details: Option<Details>,
    /// The first line of the server's page that is on the screen.
    pub(super) server_scroll: u16,
    /// Only the jobs of this function are shown.
    pub(super) jobs_of: Option<Vec<u8>>,
    /// What is said in the last line, whether it is bad news, and for how many looks still.
    pub(super) message: Option<(String, bool, u8)>,
    rates: Rates,
    width: u16,
    height: u16,
}

impl App {
    /// The state at the start, on a terminal of this size.
    pub(super) fn new(width: u16, height: u16) -> Self {
        Self {
            view: View::Functions,
            lists: [View::Functions, View::Workers, View::Jobs].map(List::new),
            data: Snapshot::default(),
            link: Link::Connecting,
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

    /// Takes in what happened.
    pub(super) fn handle(&mut self, event: Event) -> Option<Wish> {
        match event {
            Event::Key(key) => {
                let wish = self.key(key);
                self.arrange();
                return wish;
            }
            Event::InputEnded => return Some(Wish::Quit),
            Event::Size(width, height) => (self.width, self.height) = (width, height),
            Event::Connected(address) => self.link = Link::Connected(address),
            Event::Lost { why, again_in } => self.link = Link::Lost { why, again_in },
            Event::Data(snapshot) => self.take(*snapshot),
            Event::Answer { said, result } => match result {
                Ok(()) => self.say(format!("done: {said}"), false),
                Err(why) => self.say(format!("{said}: {why}"), true),
            },
        }
        self.arrange();
        None
    }

    /// What is to be asked of the server.
    pub(super) fn look(&self) -> Look {
        let mut look = Look::of(self.view);
        look.jobs_of.clone_from(&self.jobs_of);
        let detail = match self.view {
            View::Workers => Some(Detail::Worker),
            View::Jobs => Some(Detail::Job),
            View::Functions | View::Server => None,
        };
        look.details = detail.zip(self.details.as_ref().map(|details| details.key.clone()));
        look
    }

    /// The table of a view, if it was told already.
    pub(super) fn table(&self, view: View) -> Option<&Table> {
        self.data.table(view)
    }

    /// The list that is on the screen.
    pub(super) fn list(&self) -> Option<&List> {
        self.lists.get(self.view.index())
    }

    /// The selected row.
    pub(super) fn row(&self) -> Option<(&Table, &[Vec<u8>])> {
        let (table, list) = (self.table(self.view)?, self.list()?);
        Some((table, table.rows.get(*list.order.get(list.row)?)?))
    }

    /// How many rows of a list are on the screen.
    pub(super) fn list_height(&self) -> usize {
        let counts = page::counts(&self.data, usize::from(self.width)).len();
        usize::from(self.height).saturating_sub(LINES_AROUND_LIST + counts)
    }

    /// Says something in the last line.
    pub(super) fn say(&mut self, text: String, is_bad: bool) {
        self.message = Some((text, is_bad, MESSAGE_LOOKS));
    }

    fn take(&mut self, mut new: Snapshot) {
        if let Some(functions) = &mut new.functions {
            self.rates.apply(new.at, functions);
        }
        // What was asked before the question changed.
        if new.jobs_of != self.jobs_of {
            new.jobs = None;
        }
        // Another server has come to the address: nothing of the old one holds.
        if new.is_plain == self.data.is_plain {
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
            self.message.take().and_then(|(text, is_bad, looks)| Some((text, is_bad, looks.checked_sub(1)?)));
    }

    /// Brings the list on the screen to date.
    pub(super) fn arrange(&mut self) {
        let height = self.list_height();
        let table = self.data.table(self.view);
        if let (Some(table), Some(list)) = (table, self.lists.get_mut(self.view.index())) {
            list.arrange(table, height);
        }
    }
}
