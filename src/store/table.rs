//! Shared code of the stores that use tables: recognizing gearmand's tables, and the contents of C++
//! gearmand's unique id column.

use super::row::flags_of;

/// Columns that every table of C++ gearmand has. Old tables have no `when_to_run`.
const REQUIRED: [&str; 4] = ["unique_key", "function_name", "priority", "data"];

/// Why a table with these columns must not be touched: an unrelated table may have the configured name.
pub(super) fn foreign<'a>(name: &str, columns: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut columns: Vec<&str> = columns.map(String::as_str).collect();
    if REQUIRED.iter().all(|column| columns.contains(column)) {
        return None;
    }
    columns.sort_unstable();
    let columns = columns.join(", ");
    Some(format!("{name} is a table with the columns {columns}, and not a table of gearmand; choose another table"))
}

/// Whether `unique_key` holds the unique id itself. Otherwise it holds the job handle: the column must
/// identify the job, since C++ gearmand deletes by it, and a unique id that looks like a handle could be that
/// of another job.
pub(super) fn is_own_key(unique: &[u8]) -> bool {
    let digits = unique.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let is_like_handle = digits > 0 && unique[..unique.len() - digits].ends_with(b":");
    flags_of(unique) == 0 && !is_like_handle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_gearmand_has_its_columns() {
        let columns = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let own = columns(&["unique_key", "function_name", "priority", "data", "anything"]);
        assert_eq!(foreign("t", own.iter()), None);
        let text = foreign("t", columns(&["id", "data", "customer"]).iter()).unwrap();
        assert_eq!(
            text,
            "t is a table with the columns customer, data, id, and not a table of gearmand; choose another table"
        );
    }

    #[test]
    fn no_unique_id_is_written_where_it_could_be_a_handle() {
        for own in [&b"u"[..], b"7", b"a:", b"a:7b", b"f1aa111c-87c8"] {
            assert!(is_own_key(own), "{}", own.escape_ascii());
        }
        for other in [&b""[..], b"-", b":7", b"H:host:7"] {
            assert!(!is_own_key(other), "{}", other.escape_ascii());
        }
    }
}
