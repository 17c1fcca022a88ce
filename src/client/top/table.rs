//! Draws a list with as many columns as fit, the most important ones first.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::app::{App, ConnectionState};
use super::list::List;
use super::render::SELECTED;
use super::views::{Column, View};
use crate::client::format::shown;
use crate::client::table::{Kind, Table};

/// Spaces between two columns.
const GAP: usize = 2;
/// Maximum width of a column while not all columns fit.
const WIDEST: usize = 40;
/// Minimum width of the first column.
const NARROWEST: usize = 8;

/// Appearance of the screen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    /// Whether colors are used. Color is never the only indication.
    pub(super) color: bool,
}

/// Draws the list of the view into `area`.
pub(super) fn render(app: &App, theme: Theme, frame: &mut Frame<'_>, area: Rect) {
    let (Some(table), Some(list)) = (app.table(app.view), app.list()) else {
        let text = match app.connection {
            ConnectionState::Connected(_) => "(waiting for the server)",
            ConnectionState::Connecting | ConnectionState::Lost { .. } => "",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    };
    let rows = usize::from(area.height.saturating_sub(1));
    let places: Vec<usize> = list.order.iter().skip(list.offset).take(rows).copied().collect();
    let (columns, widths) = fit(app, table, list, &places, usize::from(area.width));
    let mut lines = vec![heading(list, &columns, &widths, theme)];
    for (index, place) in places.iter().enumerate() {
        let row = &table.rows[*place];
        let cells: Vec<String> = columns.iter().map(|column| cell(app, table, row, column)).collect();
        let style = if list.offset + index == list.row { SELECTED } else { style_of(app.view, table, row, theme) };
        let mut text = line(&columns, &widths, &cells);
        // The selection spans the whole width.
        text.push_str(&" ".repeat(usize::from(area.width).saturating_sub(width(&text))));
        lines.push(Line::styled(text, style));
    }
    if list.order.is_empty() {
        lines.push(Line::raw(if table.rows.is_empty() { "(none)" } else { "(none match the filter)" }));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The columns that fit, and their widths.
fn fit(app: &App, table: &Table, list: &List, places: &[usize], room: usize) -> (Vec<Column>, Vec<usize>) {
    let mut columns = app.view.columns_of(table);
    let wanted = |column: &Column| {
        let cells = places.iter().map(|place| width(&cell(app, table, &table.rows[*place], column)));
        // Room for the marker of the sort column.
        let heading = width(column.heading) + usize::from(column.name == list.sort);
        cells.max().unwrap_or(0).clamp(heading, WIDEST.max(heading))
    };
    let mut widths: Vec<usize> = columns.iter().map(wanted).collect();
    loop {
        let needed = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        if needed <= room {
            break;
        }
        // Narrow the first column, within limits, before dropping another one.
        let spare = widths[0].saturating_sub(NARROWEST.max(width(columns[0].heading) + 1));
        let worst = (1..columns.len()).max_by_key(|index| columns[*index].rank);
        match worst {
            _ if needed - room <= spare.min(widths[0] / 3) => widths[0] -= needed - room,
            Some(worst) => {
                columns.remove(worst);
                widths.remove(worst);
            }
            None => {
                widths[0] = room;
                break;
            }
        }
    }
    (columns, widths)
}

fn heading(list: &List, columns: &[Column], widths: &[usize], theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, (column, width)) in columns.iter().zip(widths).enumerate() {
        if index > 0 {
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        let is_sorted = column.name == list.sort;
        let sign = if list.descending { "v" } else { "^" };
        let text = if is_sorted { format!("{}{sign}", column.heading) } else { column.heading.to_owned() };
        let style = if is_sorted {
            theme.heading().add_modifier(ratatui::style::Modifier::UNDERLINED)
        } else {
            theme.heading()
        };
        spans.push(Span::styled(padded(&text, *width, Kind::of(column.name)), style));
    }
    Line::from(spans)
}

fn line(columns: &[Column], widths: &[usize], cells: &[String]) -> String {
    let padded = columns
        .iter()
        .zip(widths)
        .zip(cells)
        .map(|((column, width), cell)| padded(cell, *width, Kind::of(column.name)));
    padded.collect::<Vec<_>>().join(&" ".repeat(GAP))
}

fn cell(app: &App, table: &Table, row: &[Vec<u8>], column: &Column) -> String {
    match table.column(column.name) {
        Some(place) => shown(column.name, &row[place], app.data.now_unix_ms),
        None => "-".to_owned(),
    }
}

/// Highlights workers that are busy, and items that are held up.
fn style_of(view: View, table: &Table, row: &[Vec<u8>], theme: Theme) -> Style {
    let state = table.cell(row, "state").unwrap_or_default();
    match view {
        View::Functions if table.cell(row, "paused") == Some(b"1") => theme.held(),
        View::Workers if matches!(state, b"disabled" | b"draining" | b"drained") => theme.held(),
        View::Workers if state == b"working" => theme.active(),
        View::Jobs if state == b"running" => theme.active(),
        _ => Style::new(),
    }
}

/// Display width of a text, in columns.
fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Pads or truncates a text to exactly this width; a truncated text ends with a tilde.
fn padded(text: &str, room: usize, kind: Kind) -> String {
    let taken = width(text);
    if taken <= room {
        let padding = " ".repeat(room - taken);
        return if kind == Kind::Number { padding + text } else { text.to_owned() + &padding };
    }
    let mut out = String::new();
    let mut left = room.saturating_sub(1);
    for letter in text.chars() {
        let needed = width(letter.encode_utf8(&mut [0; 4]));
        if needed > left {
            break;
        }
        left -= needed;
        out.push(letter);
    }
    out.push_str(&" ".repeat(left));
    if room > 0 {
        out.push('~');
    }
    out
}
