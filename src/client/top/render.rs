//! Draws the state. All text from a server goes through `printable` or `shown` first.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::app::{App, ConnectionState, Prompt, Question};
use super::panels;
use super::table::{self, Theme};
use super::views::View;
use crate::client::format::duration;
use crate::client::listing::printable;
use crate::client::table::lossy;

/// Emphasis.
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
/// Selection.
pub(super) const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws `app` onto the whole frame.
pub(super) fn render(app: &App, theme: Theme, frame: &mut Frame<'_>) {
    let width = usize::from(frame.area().width);
    let told = panels::counts(&app.data, width);
    let lines = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(told.len()).unwrap_or(1)),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [server, counts, views, body, last] = lines.areas(frame.area());
    frame.render_widget(server_line(app, theme), server);
    frame.render_widget(Paragraph::new(told.into_iter().map(Line::raw).collect::<Vec<_>>()), counts);
    frame.render_widget(views_line(app), views);
    match (&app.prompt, &app.details) {
        (Prompt::Help, _) => text(frame, body, panels::HELP.lines().map(str::to_owned).collect(), 0),
        (_, Some(details)) => text(frame, body, panels::details(app, details), details.scroll),
        _ if app.view == View::Server => text(frame, body, panels::server(&app.data), app.server_scroll),
        _ => table::render(app, theme, frame, body),
    }
    match &app.prompt {
        Prompt::Confirm(question) => ask(&choices(question), theme, frame),
        Prompt::Value(value) => {
            let typed = format!("{}_", printable(&value.typed));
            let parts = [format!("{}:", value.text), typed, "(Enter: confirm, Esc: cancel)".to_owned()];
            ask(&parts, theme, frame);
        }
        Prompt::None | Prompt::Filter | Prompt::Help => frame.render_widget(last_line(app, theme), last),
    }
}

/// A confirmation and its choices.
fn choices(question: &Question) -> Vec<String> {
    let count = question.choices.len();
    let end = |index| if index + 1 < count { "," } else { ";" };
    let choices = question.choices.iter().enumerate();
    let mut parts = vec![question.text.clone()];
    parts.extend(choices.map(|(index, (key, meaning, _))| format!("{key}: {meaning}{}", end(index))));
    parts.push("any other key: no".to_owned());
    parts
}

/// Draws a prompt on as many lines at the bottom as it needs.
fn ask(parts: &[String], theme: Theme, frame: &mut Frame<'_>) {
    let all = frame.area();
    let lines = panels::wrapped(parts, " ", usize::from(all.width));
    let height = u16::try_from(lines.len()).unwrap_or(1).min(all.height);
    let area = Rect { y: all.y + all.height - height, height, ..all };
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines).style(theme.bad()), area);
}

/// Draws lines from `scroll` on, or the last page.
fn text(frame: &mut Frame<'_>, area: Rect, lines: Vec<String>, scroll: u16) {
    let height = usize::from(area.height);
    let first = usize::from(scroll).min(lines.len().saturating_sub(height));
    let shown: Vec<Line<'_>> = lines.into_iter().skip(first).take(height).map(Line::raw).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(shown), area);
}

fn server_line(app: &App, theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled("gearmand top", BOLD)];
    let version = app.data.server.get("version").map(|version| format!(" {}", printable(&lossy(version))));
    let bad = theme.bad();
    match &app.connection {
        ConnectionState::Connecting => spans.push(Span::raw("  connecting")),
        ConnectionState::Connected(address) => {
            spans.push(Span::raw(format!("  {}", printable(address))));
            if app.data.is_cpp {
                spans.push(Span::raw(format!("  C++ gearmand{}: limited data", version.unwrap_or_default())));
            } else if let Some(version) = version {
                spans.push(Span::raw(format!("  version{version}{}", panels::state(&app.data))));
            }
        }
        ConnectionState::Lost { why, again_in } => {
            let pause = duration(again_in.as_secs_f64());
            spans.push(Span::styled(format!("  NO CONNECTION, next try in {pause}: {}", printable(why)), bad));
        }
    }
    Line::from(spans)
}

fn views_line(app: &App) -> Line<'static> {
    let mut spans = Vec::new();
    for view in View::ALL {
        let label = format!(" {} {} ", view.index() + 1, view.name());
        spans.push(Span::styled(label, if view == app.view { SELECTED } else { Style::new() }));
    }
    if let (Some(table), Some(list)) = (app.table(app.view), app.list()) {
        let all = table.rows.len();
        let more = if table.next.is_some() { "+" } else { "" };
        let count = if list.order.len() == all {
            format!("{all}{more}")
        } else {
            format!("{} of {all}{more}", list.order.len())
        };
        spans.push(Span::raw(format!("  {count} shown")));
        if let Some(function) = app.jobs_of.as_ref().filter(|_| app.view == View::Jobs) {
            spans.push(Span::styled(format!("  of function {}", printable(&lossy(function))), BOLD));
        }
        if !list.filter.is_empty() && app.prompt != Prompt::Filter {
            spans.push(Span::styled(format!("  filter: {}", printable(&list.filter)), BOLD));
        }
    }
    Line::from(spans)
}

fn last_line(app: &App, theme: Theme) -> Line<'static> {
    match &app.prompt {
        Prompt::Filter => {
            let filter = app.list().map(|list| printable(&list.filter)).unwrap_or_default();
            Line::styled(format!("filter: {filter}_  (Enter: keep, Esc: none)"), BOLD)
        }
        Prompt::Help => Line::raw("any key: back"),
        Prompt::None | Prompt::Confirm(_) | Prompt::Value(_) => match &app.message {
            Some((text, is_bad, _)) => Line::styled(printable(text), if *is_bad { theme.bad() } else { BOLD }),
            None => Line::styled(keys(app), theme.dim()),
        },
    }
}

/// The keys that have an effect here.
fn keys(app: &App) -> String {
    if app.details.is_some() {
        return format!("Esc back  ? help  arrows scroll{}", actions(app));
    }
    let list = if app.view == View::Server { "  arrows scroll" } else { "  Enter all  / filter  s sort  r reverse" };
    format!("q quit  ? help  Tab view{list}{}", actions(app))
}

fn actions(app: &App) -> &'static str {
    match (app.view, app.data.is_cpp) {
        (View::Functions, false) => "  p pause  c cancel jobs  j jobs  l limit  m move jobs",
        (View::Workers, false) => "  d disable  D drain  e enable  k kick",
        (View::Jobs, false) => "  c cancel  m move  P priority  n run now",
        (View::Jobs, true) => "  c cancel",
        _ => "",
    }
}

impl Theme {
    pub(super) fn dim(self) -> Style {
        if self.color { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    pub(super) fn bad(self) -> Style {
        if self.color { BOLD.fg(Color::Red) } else { BOLD }
    }

    pub(super) fn heading(self) -> Style {
        if self.color { BOLD.fg(Color::Cyan) } else { BOLD }
    }

    pub(super) fn held(self) -> Style {
        if self.color { Style::new().fg(Color::Yellow) } else { Style::new() }
    }

    pub(super) fn active(self) -> Style {
        if self.color { Style::new().fg(Color::Green) } else { Style::new() }
    }
}
