//! An index of connections by client id.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ids::{ConnectionSlot, SlotId};

/// The connections of each client id. Many may share one.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_id: BTreeSet<(Arc<[u8]>, ConnectionSlot)>,
}

impl Clients {
    /// Changes or removes the client id of a connection.
    pub(super) fn set(&mut self, connection: ConnectionSlot, before: Option<&[u8]>, id: Option<&[u8]>) {
        if before == id {
            return;
        }
        if let Some(before) = before {
            self.by_id.remove(&(Arc::from(before), connection));
        }
        if let Some(id) = id {
            self.by_id.insert((Arc::from(id), connection));
        }
    }

    /// The connections with this id, by slot.
    pub(super) fn of(&self, id: &[u8]) -> impl Iterator<Item = ConnectionSlot> {
        let id: Arc<[u8]> = Arc::from(id);
        let first = (Arc::clone(&id), ConnectionSlot::new(0));
        self.by_id.range(first..=(id, ConnectionSlot::NONE)).map(|(_, connection)| *connection)
    }

    /// Whether a connection has this id.
    pub(super) fn has(&self, id: &[u8], connection: ConnectionSlot) -> bool {
        self.by_id.contains(&(Arc::from(id), connection))
    }

    /// All client ids with their connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], ConnectionSlot)> {
        self.by_id.iter().map(|(id, connection)| (&**id, *connection))
    }
}
