//! A hash index from keys to jobs that grows one bucket at a time.
//!
//! A table that doubles at once would stop the server for a moment with every doubling: for tens of milliseconds at a
//! million jobs. This one (linear hashing, Litwin 1980) splits one bucket per insertion. It stores slot numbers only; whoever looks something up
//! compares the keys. Jobs with equal hashes are found newest first.

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

const FEWEST_BUCKETS: usize = 64;

/// So many that the buckets go as fast as what was in them.
const MERGES_PER_REMOVAL: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    /// `NONE` for the first of a bucket.
    previous: u32,
    hash: u32,
}

/// The index. A slot is in it at most once.
#[derive(Debug, Default)]
pub(super) struct JobIndex {
    /// The first slot of every bucket.
    heads: Vec<u32>,
    /// By slot.
    links: Vec<Link>,
    len: usize,
}

impl JobIndex {
    /// How many slots are in the index.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts `slot` in front of all that have the same hash.
    pub(super) fn insert(&mut self, slot: u32, hash: u32) {
        if self.heads.is_empty() {
            self.heads.resize(FEWEST_BUCKETS, NONE);
        } else if self.len >= self.heads.len() {
            self.split();
        }
        let index = slot as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, Link { next: NONE, previous: NONE, hash: 0 });
        }
        let bucket = self.bucket(hash);
        let next = std::mem::replace(&mut self.heads[bucket], slot);
        self.links[index] = Link { next, previous: NONE, hash };
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.len += 1;
    }

    /// Takes out `slot`, which must be in the index.
    pub(super) fn remove(&mut self, slot: u32) {
        let Link { next, previous, hash } = self.links[slot as usize];
        if previous == NONE {
            let bucket = self.bucket(hash);
            debug_assert_eq!(self.heads[bucket], slot);
            self.heads[bucket] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
            return;
        }
        for _ in 0..MERGES_PER_REMOVAL {
            if self.heads.len() > FEWEST_BUCKETS && self.len < self.heads.len() / 4 {
                self.merge();
            }
        }
    }

    /// The newest slot with this hash of which `is_wanted` holds.
    pub(super) fn find(&self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.heads.is_empty() {
            return None;
        }
        let mut slot = self.heads[self.bucket(hash)];
        while slot != NONE {
            let link = self.links[slot as usize];
            if link.hash == hash && is_wanted(slot) {
                return Some(slot);
            }
            slot = link.next;
        }
        None
    }

    /// The buckets from the last power of two on are halves that were split off from those before it.
    fn bucket(&self, hash: u32) -> usize {
        let mask = self.heads.len().next_power_of_two() - 1;
        let bucket = hash as usize & mask;
        if bucket < self.heads.len() { bucket } else { bucket & (mask >> 1) }
    }

    fn parent_of_last(&self) -> usize {
        let last = self.heads.len() - 1;
        last & ((last + 1).next_power_of_two() / 2 - 1)
    }

    /// Adds a bucket and moves to it what belongs there, in the same order.
    fn split(&mut self) {
        self.heads.push(NONE);
        let new = self.heads.len() - 1;
        let mut slot = self.heads[self.parent_of_last()];
        let mut last_moved = NONE;
        while slot != NONE {
            let Link { next, previous, hash } = self.links[slot as usize];
            if self.bucket(hash) == new {
                match previous {
                    NONE => {
                        let parent = self.parent_of_last();
                        self.heads[parent] = next;
                    }
                    _ => self.links[previous as usize].next = next,
                }
                if next != NONE {
                    self.links[next as usize].previous = previous;
                }
                match last_moved {
                    NONE => self.heads[new] = slot,
                    _ => self.links[last_moved as usize].next = slot,
                }
                self.links[slot as usize] = Link { next: NONE, previous: last_moved, hash };
                last_moved = slot;
            }
            slot = next;
        }
    }

    /// Takes away the last bucket and puts what it held in front of its parent.
    fn merge(&mut self) {
        let parent = self.parent_of_last();
        let Some(first) = self.heads.pop().filter(|first| *first != NONE) else {
            return;
        };
        let mut last = first;
        while self.links[last as usize].next != NONE {
            last = self.links[last as usize].next;
        }
        let next = std::mem::replace(&mut self.heads[parent], first);
        self.links[last as usize].next = next;
        if next != NONE {
            self.links[next as usize].previous = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map, with few hashes so that chains are long.
        #[test]
        fn it_finds_what_was_inserted_newest_first(steps in prop::collection::vec((any::<bool>(), 0..400_u32, 0..40_u32), 1..2000)) {
            let mut index = JobIndex::default();
            let mut model: HashMap<u32, (u32, usize)> = HashMap::new();
            for (age, (insert, slot, hash)) in steps.into_iter().enumerate() {
                // Spread over the range, so that buckets differ also in high bits.
                let hash = hash.wrapping_mul(0x9e37_79b9);
                if insert && !model.contains_key(&slot) {
                    index.insert(slot, hash);
                    model.insert(slot, (hash, age));
                } else if !insert && model.remove(&slot).is_some() {
                    index.remove(slot);
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for hash in (0..40_u32).map(|hash| hash.wrapping_mul(0x9e37_79b9)) {
                let mut expected: Vec<_> = model.iter().filter(|(_, (h, _))| *h == hash).map(|(slot, (_, age))| (*age, *slot)).collect();
                expected.sort_unstable();
                let mut found = Vec::new();
                index.find(hash, |slot| { found.push(slot); false });
                found.reverse();
                prop_assert_eq!(found, expected.into_iter().map(|(_, slot)| slot).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn it_grows_and_shrinks_with_its_contents() {
        let mut index = JobIndex::default();
        for slot in 0..10_000 {
            index.insert(slot, slot);
        }
        assert!(index.heads.len() >= 9_999);
        for slot in 0..9_990 {
            index.remove(slot);
        }
        assert_eq!(index.heads.len(), FEWEST_BUCKETS);
        for slot in 9_990..10_000 {
            assert_eq!(index.find(slot, |_| true), Some(slot));
            index.remove(slot);
        }
        assert_eq!((index.heads.capacity(), index.links.capacity()), (0, 0));
    }
}
