//! Key bindings.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::app::{App, Command, Details, Prompt, Value};
use super::views::View;
use crate::protocol::names::FUNCTION_MAX;

/// Longest filter, in characters.
const FILTER_MAX: usize = 200;
/// Longest value, in characters: a function name of one-byte characters.
const VALUE_MAX: usize = FUNCTION_MAX;

impl App {
    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Command> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Command::Quit),
                KeyCode::Char('z') => Some(Command::Suspend),
                _ => None,
            };
        }
        match std::mem::take(&mut self.prompt) {
            Prompt::None => self.command(key.code),
            // Any key closes the help.
            Prompt::Help => None,
            Prompt::Filter => {
                self.type_filter(key.code);
                None
            }
            Prompt::Value(value) => self.type_value(key.code, value),
            Prompt::Confirm(question) => {
                let pressed = |choice: char| key.code == KeyCode::Char(choice);
                let chosen = question.choices.into_iter().find(|(choice, ..)| pressed(*choice));
                if chosen.is_none() {
                    self.say("nothing done".to_owned(), false);
                }
                chosen.map(|(_, _, action)| Command::Do(action))
            }
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        let Some(list) = self.lists.get_mut(self.view.index()) else { return };
        self.prompt = Prompt::Filter;
        match code {
            KeyCode::Enter => self.prompt = Prompt::None,
            KeyCode::Esc => {
                list.filter.clear();
                self.prompt = Prompt::None;
            }
            KeyCode::Backspace => {
                list.filter.pop();
            }
            KeyCode::Char(letter) if list.filter.chars().count() < FILTER_MAX => list.filter.push(letter),
            _ => {}
        }
    }

    fn type_value(&mut self, code: KeyCode, mut value: Value) -> Option<Command> {
        match code {
            KeyCode::Esc => {
                self.say("nothing done".to_owned(), false);
                return None;
            }
            KeyCode::Enter => {
                return match value.action() {
                    Ok(action) => Some(Command::Do(action)),
                    Err(why) => {
                        self.say(why, true);
                        None
                    }
                };
            }
            KeyCode::Backspace => drop(value.typed.pop()),
            KeyCode::Char(letter) => {
                let is_understood = !value.is_number || letter.is_ascii_digit();
                if is_understood && value.typed.chars().count() < VALUE_MAX {
                    value.typed.push(letter);
                }
            }
            _ => {}
        }
        self.prompt = Prompt::Value(value);
        None
    }

    fn command(&mut self, code: KeyCode) -> Option<Command> {
        match code {
            KeyCode::Char('q') if self.details.is_none() => return Some(Command::Quit),
            KeyCode::Char('q') | KeyCode::Enter | KeyCode::Esc if self.details.is_some() => self.details = None,
            KeyCode::Char('?') => self.prompt = Prompt::Help,
            KeyCode::Tab => self.show(View::ALL[(self.view.index() + 1) % 4]),
            KeyCode::BackTab => self.show(View::ALL[(self.view.index() + 3) % 4]),
            KeyCode::Char(digit @ '1'..='4') => self.show(View::ALL[(digit as usize - '1' as usize) % 4]),
            KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown | KeyCode::Home | KeyCode::End => {
                self.go(code);
            }
            KeyCode::Char('s') | KeyCode::Right => self.sort_by_next(true),
            KeyCode::Left => self.sort_by_next(false),
            KeyCode::Char('r') => {
                if let Some(list) = self.lists.get_mut(self.view.index()) {
                    list.descending = !list.descending;
                }
            }
            KeyCode::Char('/') if self.list().is_some() && self.details.is_none() => self.prompt = Prompt::Filter,
            KeyCode::Enter => {
                self.details = self.row().map(|(_, row)| Details { key: row[0].clone(), scroll: 0 });
            }
            KeyCode::Esc => {
                if self.jobs_of.take().is_some() {
                    self.data.jobs = None;
                }
                if let Some(list) = self.lists.get_mut(self.view.index()) {
                    list.filter.clear();
                }
            }
            KeyCode::Char('j') => self.show_jobs_of_function(),
            KeyCode::Char(letter @ ('p' | 'l' | 'c' | 'm' | 'd' | 'D' | 'e' | 'k' | 'n' | 'P')) => {
                match self.question(letter) {
                    Ok(question) => self.prompt = question,
                    Err(why) => self.say(why, true),
                }
            }
            _ => {}
        }
        None
    }

    /// Switches to a view.
    pub(super) fn show(&mut self, view: View) {
        self.view = view;
        self.details = None;
    }

    fn sort_by_next(&mut self, forward: bool) {
        let view = self.view;
        if let (Some(table), Some(list)) = (self.data.table(view), self.lists.get_mut(view.index())) {
            list.sort_by_next(view, table, forward);
        }
    }

    fn show_jobs_of_function(&mut self) {
        let name = match (self.view, self.row()) {
            (View::Functions, Some((_, row))) => row[0].clone(),
            _ => return self.say("j is for functions".to_owned(), true),
        };
        if self.data.is_cpp {
            return self.say("C++ gearmand does not report the function of a job".to_owned(), true);
        }
        self.jobs_of = Some(name);
        // Do not show another function's jobs as this one's.
        self.data.jobs = None;
        self.show(View::Jobs);
    }

    fn go(&mut self, code: KeyCode) {
        let page = self.list_height().max(2) - 1;
        let moved = |place: usize, last: usize| match code {
            KeyCode::Up => place.saturating_sub(1),
            KeyCode::Down => (place + 1).min(last),
            KeyCode::PageUp => place.saturating_sub(page),
            KeyCode::PageDown => (place + page).min(last),
            KeyCode::Home => 0,
            _ => last,
        };
        // The end of a page of text is known only when it is drawn.
        let scrolled =
            |scroll: u16| u16::try_from(moved(usize::from(scroll), usize::from(u16::MAX))).unwrap_or(u16::MAX);
        if let Some(details) = &mut self.details {
            details.scroll = scrolled(details.scroll);
            return;
        }
        let height = self.list_height();
        let table = self.data.table(self.view);
        match (table, self.lists.get_mut(self.view.index())) {
            (Some(table), Some(list)) => {
                let row = moved(list.row, list.order.len().saturating_sub(1));
                list.go_to(table, row, height);
            }
            _ if self.view == View::Server => self.server_scroll = scrolled(self.server_scroll),
            _ => {}
        }
    }
}
