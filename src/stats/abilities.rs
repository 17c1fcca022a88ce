//! The published functions of one connection. Each is found and moved without a walk, since there may be
//! 100,000.

use std::collections::{BTreeMap, btree_map};
use std::iter::Rev;
use std::sync::Arc;

use super::AbilityGauges;

/// The functions that a connection can do, newest first.
#[derive(Clone, Debug, Default)]
pub struct Abilities {
    /// By the sequence number of the last registration.
    by_place: BTreeMap<u64, Arc<AbilityGauges>>,
    last_place: u64,
}

impl Abilities {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// All of them, newest first.
    pub fn iter(&self) -> Rev<btree_map::Values<'_, u64, Arc<AbilityGauges>>> {
        self.by_place.values().rev()
    }

    /// The oldest `count` of them, newest first.
    pub fn oldest(&self, count: usize) -> impl ExactSizeIterator<Item = &Arc<AbilityGauges>> {
        self.by_place.values().take(count).rev()
    }

    pub(super) fn add(&mut self, ability: &Arc<AbilityGauges>) {
        self.last_place += 1;
        ability.place.set(self.last_place);
        self.by_place.insert(self.last_place, Arc::clone(ability));
    }

    pub(super) fn remove(&mut self, ability: &AbilityGauges) -> Option<Arc<AbilityGauges>> {
        self.by_place.remove(&ability.place.get())
    }

    /// Removes all, oldest first.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Arc<AbilityGauges>> {
        std::mem::take(&mut self.by_place).into_values()
    }
}

impl<'a> IntoIterator for &'a Abilities {
    type Item = &'a Arc<AbilityGauges>;
    type IntoIter = Rev<btree_map::Values<'a, u64, Arc<AbilityGauges>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
