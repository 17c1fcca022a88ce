//! A list on the screen: the rows of a table that are shown, their order, and the selected row.
//!
//! The selection is an item, not a position: it follows the item when the list is sorted or changes.

use std::cmp::Ordering;

use super::views::View;
use crate::client::table::{Kind, Table, lossy, number};

/// Display settings of a list.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// Sort column.
    pub(super) sort: &'static str,
    /// Whether the largest value comes first.
    pub(super) descending: bool,
    /// Only rows that contain this text are shown, ignoring case.
    pub(super) filter: String,
    /// The first cell of the selected row.
    pub(super) selected: Option<Vec<u8>>,
    /// Its position among the shown rows.
    pub(super) row: usize,
    /// First row on the screen.
    pub(super) offset: usize,
    /// Indexes of the shown rows in the table, in display order.
    pub(super) order: Vec<usize>,
}

impl List {
    /// The initial settings of `view`.
    pub(super) fn new(view: View) -> Self {
        let (sort, descending) = view.first_sort();
        Self { sort, descending, filter: String::new(), selected: None, row: 0, offset: 0, order: Vec::new() }
    }

    /// Updates the list from its table. `height` rows are on the screen.
    pub(super) fn arrange(&mut self, table: &Table, height: usize) {
        let wanted = self.filter.to_lowercase();
        let texts: Vec<usize> = (0..table.columns.len())
            .filter(|column| *column == 0 || Kind::of(&table.columns[*column]) == Kind::Text)
            .collect();
        let matches = |row: &[Vec<u8>]| {
            wanted.is_empty() || texts.iter().any(|column| lossy(&row[*column]).to_lowercase().contains(&wanted))
        };
        self.order = (0..table.rows.len()).filter(|row| matches(&table.rows[*row])).collect();
        // If the server does not report the sort column, the first one is used.
        let (column, descending) = table.column(self.sort).map_or((0, false), |column| (column, self.descending));
        let kind = table.columns.get(column).map_or(Kind::Text, |name| Kind::of(name));
        self.order.sort_by(|a, b| {
            let (a, b) = (&table.rows[*a], &table.rows[*b]);
            compare(&a[column], &b[column], kind, descending).then_with(|| a[0].cmp(&b[0]))
        });
        let key = |place: &usize| Some(&table.rows[*place][0]);
        if let Some(place) = self.order.iter().position(|place| key(place) == self.selected.as_ref()) {
            self.row = place;
        }
        self.go_to(table, self.row, height);
    }

    /// Selects a row, or the last one if there are fewer, and scrolls it onto the screen.
    pub(super) fn go_to(&mut self, table: &Table, row: usize, height: usize) {
        self.row = row.min(self.order.len().saturating_sub(1));
        self.selected = self.order.get(self.row).map(|place| table.rows[*place][0].clone());
        let height = height.max(1);
        let lowest = (self.row + 1).saturating_sub(height);
        let most = self.order.len().saturating_sub(height);
        self.offset = self.offset.clamp(lowest, self.row).min(most.max(lowest));
    }

    /// Sorts by the next or previous column of the table. Numbers start with the largest.
    pub(super) fn sort_by_next(&mut self, view: View, table: &Table, forward: bool) {
        let columns = view.columns_of(table);
        if columns.is_empty() {
            return;
        }
        let now = columns.iter().position(|column| column.name == self.sort);
        let next = match (now, forward) {
            (Some(now), true) => (now + 1) % columns.len(),
            (Some(0) | None, _) => columns.len() - 1,
            (Some(now), false) => now - 1,
        };
        self.sort = columns[next].name;
        self.descending = Kind::of(self.sort) == Kind::Number;
    }
}

/// Compares two cells. Unknown values come last in either direction.
fn compare(a: &[u8], b: &[u8], kind: Kind, descending: bool) -> Ordering {
    let unknown = |cell: &[u8]| cell == b"-" || cell.is_empty();
    match (unknown(a), unknown(b)) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let order = match (kind, number(a), number(b)) {
        (Kind::Number, Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    };
    if descending { order.reverse() } else { order }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> Table {
        Table::parse(&lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap()
    }

    fn names(list: &List, table: &Table) -> Vec<String> {
        list.order.iter().map(|place| lossy(&table.rows[*place][0])).collect()
    }

    #[test]
    fn numbers_are_sorted_as_numbers_and_the_unknown_comes_last() {
        let table = table(&["# name queued", "a\t9", "b\t10", "c\t-", "d\t10"]);
        let mut list = List::new(View::Functions);
        list.arrange(&table, 10);
        assert_eq!(names(&list, &table), ["b", "d", "a", "c"]);
        list.descending = false;
        list.arrange(&table, 10);
        assert_eq!(names(&list, &table), ["a", "b", "d", "c"]);
        list.sort = "no such column";
        list.arrange(&table, 10);
        assert_eq!(names(&list, &table), ["a", "b", "c", "d"]);
    }

    #[test]
    fn the_selection_follows_its_item() {
        let mut list = List::new(View::Functions);
        let before = table(&["# name queued", "a\t3", "b\t2", "c\t1"]);
        list.arrange(&before, 10);
        list.go_to(&before, 1, 10);
        assert_eq!(list.selected.as_deref(), Some(&b"b"[..]));
        let after = table(&["# name queued", "a\t3", "b\t0", "c\t1", "new\t9"]);
        list.arrange(&after, 10);
        assert_eq!((list.selected.as_deref(), list.row), (Some(&b"b"[..]), 3));
        // The selected item has gone: the item now at its position is selected, or the last one.
        list.arrange(&before.select(&["name", "queued"]), 10);
        assert_eq!(list.selected.as_deref(), Some(&b"b"[..]));
        list.arrange(&table(&["# name queued", "x\t1"]), 10);
        assert_eq!((list.selected.as_deref(), list.row), (Some(&b"x"[..]), 0));
        list.arrange(&table(&["# name queued"]), 10);
        assert_eq!((list.selected.clone(), list.row, list.offset), (None, 0, 0));
    }

    #[test]
    fn the_selected_row_is_on_the_screen() {
        let lines: Vec<String> = (0..100).map(|number| format!("f{number:02}\t0")).collect();
        let lines: Vec<&str> = ["# name queued"].into_iter().chain(lines.iter().map(String::as_str)).collect();
        let table = table(&lines);
        let mut list = List::new(View::Functions);
        list.arrange(&table, 10);
        for (row, offset) in [(5, 0), (9, 0), (10, 1), (50, 41), (45, 41), (40, 40), (99, 90), (1000, 90), (0, 0)] {
            list.go_to(&table, row, 10);
            assert_eq!((list.row, list.offset), (row.min(99), offset), "{row}");
        }
        list.go_to(&table, 99, 10);
        list.arrange(&table, 40);
        assert_eq!(list.offset, 60, "a taller screen is filled");
        list.arrange(&table, 0);
        assert_eq!(list.offset, 99);
    }

    #[test]
    fn a_filter_looks_at_names_and_not_at_numbers() {
        let table = table(&["# id client_id queued", "1-1\tWeb\t7", "2-2\tmail\t1", "7-1\t-\t2"]);
        let mut list = List::new(View::Workers);
        for (filter, found) in [("web", &["1-1"][..]), ("7", &["7-1"]), ("", &["1-1", "2-2", "7-1"]), ("none", &[])] {
            filter.clone_into(&mut list.filter);
            list.arrange(&table, 10);
            assert_eq!(names(&list, &table), found, "{filter}");
        }
    }

    #[test]
    fn columns_are_sorted_by_in_turn_as_far_as_there_are_any() {
        let table = table(&["# name queued running"]);
        let mut list = List::new(View::Functions);
        let mut sorts = Vec::new();
        for forward in [true, true, true, false, false] {
            list.sort_by_next(View::Functions, &table, forward);
            sorts.push((list.sort, list.descending));
        }
        let expected = [("running", true), ("name", false), ("queued", true), ("name", false), ("running", true)];
        assert_eq!(sorts, expected);
    }
}
