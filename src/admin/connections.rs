//! The listing `workers`: a line for each connection, in pieces. A line may be longer than a piece.

use std::sync::Arc;

use super::text::LISTING_PIECE;
use crate::job_server::ConnectionId;
use crate::protocol::names::write_decimal;
use crate::protocol::text;
use crate::stats::{ConnectionGauges, Stats};

/// How many connections are listed in one step. Each is elsewhere in memory, so that their lines take longer
/// than others.
const CONNECTIONS: usize = 64;

/// What is left to list.
#[derive(Debug, Default)]
pub(super) struct ConnectionLines {
    /// The last connection listed; younger ones follow.
    after: Option<ConnectionId>,
    /// A connection whose line is incomplete: this many of its oldest functions are left to write.
    unfinished: Option<(Arc<ConnectionGauges>, usize)>,
}

impl ConnectionLines {
    /// Appends the next lines. Returns whether they are the last.
    pub(super) fn resume(&mut self, stats: &Stats, out: &mut Vec<u8>) -> bool {
        if let Some((connection, left)) = self.unfinished.take() {
            self.write_functions(connection, left, out);
            if out.len() >= LISTING_PIECE {
                return false;
            }
        }
        let page = stats.connections.page(self.after.as_ref(), CONNECTIONS);
        let is_last = page.len() < CONNECTIONS;
        for (id, connection) in page {
            self.after = Some(id);
            let left = write_connection(&connection, out);
            self.write_functions(connection, left, out);
            if out.len() >= LISTING_PIECE {
                return false;
            }
        }
        is_last
    }

    /// Writes the `left` oldest functions of a connection, the newest of them first, and ends the line. If
    /// the piece is full, the rest is kept for the next.
    fn write_functions(&mut self, connection: Arc<ConnectionGauges>, left: usize, out: &mut Vec<u8>) {
        let left = connection.with_identity(|_, functions| {
            // Functions added since then come first in the list, and are left out.
            let meant = functions.oldest(left);
            let count = meant.len();
            for (index, function) in meant.enumerate() {
                if out.len() >= LISTING_PIECE {
                    return count - index;
                }
                out.push(b' ');
                text::write_name(function.function.as_bytes(), out, true);
            }
            0
        });
        if left > 0 {
            self.unfinished = Some((connection, left));
        } else {
            out.push(b'\n');
        }
    }
}

/// Writes the beginning of a line: all but the functions. Returns the number of functions.
fn write_connection(connection: &ConnectionGauges, out: &mut Vec<u8>) -> usize {
    write_decimal(u64::try_from(connection.file_descriptor).unwrap_or(0), out);
    out.push(b' ');
    out.extend_from_slice(connection.peer.as_bytes());
    out.push(b' ');
    connection.with_identity(|client_id, functions| {
        text::write_name(client_id, out, true);
        out.extend_from_slice(b" :");
        functions.len()
    })
}
