//! Converts the responses of C++ gearmand to the columns of this program's own listings, as far as possible.

use std::collections::HashMap;

use crate::client::listing::Listing;
use crate::client::table::{Facts, Table};

/// Functions, from `status` and `prioritystatus`.
pub(super) fn functions(status: &[Vec<u8>], by_priority: &[Vec<u8>]) -> Table {
    let mut queued: HashMap<String, [String; 3]> = HashMap::new();
    for line in by_priority {
        if let Ok([name, high, normal, low, _]) = <[String; 5]>::try_from(Listing::PriorityStatus.cells(line)) {
            queued.insert(name, [high, normal, low]);
        }
    }
    let mut table = Table::new(&["name", "total", "running", "workers", "high", "normal", "low"]);
    for line in status {
        let mut cells = Listing::Status.cells(line);
        cells.extend(queued.remove(&cells[0]).into_iter().flatten());
        table.push(cells.into_iter().map(String::into_bytes).collect());
    }
    table
}

/// Connections with functions, from `workers`.
pub(super) fn workers(lines: &[Vec<u8>]) -> Table {
    let mut table = Table::new(&["id", "address", "client_id", "functions"]);
    for line in lines {
        let mut cells = Listing::Workers.cells(line);
        if cells[3].is_empty() {
            continue;
        }
        cells[3] = cells[3].split(' ').filter(|name| !name.is_empty()).collect::<Vec<_>>().join(",");
        table.push(cells.into_iter().map(String::into_bytes).collect());
    }
    table
}

/// Jobs, from `show jobs`.
pub(super) fn jobs(lines: &[Vec<u8>], most: usize) -> Table {
    let mut table = Table::new(&["handle", "attempts", "is_abandoned", "background"]);
    for line in lines.iter().take(most) {
        table.push(Listing::Jobs.cells(line).into_iter().map(String::into_bytes).collect());
    }
    if lines.len() > most {
        table.next = Some(String::new());
    }
    table
}

/// The server: its version, and sums over its functions.
pub(super) fn server(version: &[u8], functions: &Table) -> Facts {
    let sum = |column| functions.rows.iter().filter_map(|row| functions.number(row, column)).sum::<f64>();
    let pair = |key: &str, value: String| (key.to_owned(), value.into_bytes());
    let pairs = vec![
        ("version".to_owned(), version.to_vec()),
        pair("functions", functions.rows.len().to_string()),
        pair("jobs_queued", format!("{:.0}", (sum("total") - sum("running")).max(0.0))),
        pair("jobs_running", format!("{:.0}", sum("running"))),
    ];
    Facts { pairs, ..Facts::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn its_listings_become_ours() {
        let functions = functions(&lines(&["rev\t5\t2\t3", "new\t1\t0\t0"]), &lines(&["rev\t1\t2\t0\t3"]));
        assert_eq!(
            functions.text(0),
            "NAME  TOTAL  RUNNING  WORKERS  HIGH  NORMAL  LOW\n\
             rev       5        2        3     1       2    0\n\
             new       1        0        0     -       -    -\n"
        );
        let server = server(b"1.1.19.1", &functions);
        assert_eq!(server.text(0), "version       1.1.19.1\nfunctions     2\njobs queued   4\njobs running  2\n");
        let workers = workers(&lines(&["33 127.0.0.1 - : rev echo", "34 127.0.0.1 - :"]));
        assert_eq!(workers.text(0), "ID  ADDRESS    CLIENT_ID  FUNCTIONS\n33  127.0.0.1  -          rev,echo\n");
        let jobs = jobs(&lines(&["H:h:1\t0\t1\t1", "H:h:2\t0\t0\t1"]), 1);
        assert_eq!(jobs.text(0), "HANDLE  ATTEMPTS  IS_ABANDONED  BACKGROUND\nH:h:1          0  yes           yes\n");
        assert!(jobs.next.is_some());
    }
}
