//! What the stores in tables share: whose a table is.

/// The columns that every table of C++ gearmand has. Old ones have no `when_to_run`.
const REQUIRED: [&str; 4] = ["unique_key", "function_name", "priority", "data"];

/// Why a table with these columns is not to be touched: somebody else's may have the configured name.
pub(super) fn foreign<'a>(name: &str, columns: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut columns: Vec<&str> = columns.map(String::as_str).collect();
    if REQUIRED.iter().all(|column| columns.contains(column)) {
        return None;
    }
    columns.sort_unstable();
    let columns = columns.join(", ");
    Some(format!("{name} is a table with the columns {columns}, and not a table of gearmand; choose another table"))
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
}
