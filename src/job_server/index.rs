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

/// The first slot of a bucket, with what its link says: most buckets have one slot or none, and are read without a
/// look at the links, which would not be in the processor's cache.
#[derive(Clone, Copy, Debug)]
struct Head {
    slot: u32,
    hash: u32,
    next: u32,
}

impl Head {
    const EMPTY: Self = Self { slot: NONE, hash: 0, next: NONE };
}

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
    heads: Vec<Head>,
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
            self.heads.resize(FEWEST_BUCKETS, Head::EMPTY);
        } else if self.len >= self.heads.len() {
            self.split();
        }
        let index = slot as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, Link { next: NONE, previous: NONE, hash: 0 });
        }
        let bucket = self.bucket(hash);
        let old = self.heads[bucket];
        self.heads[bucket] = Head { slot, hash, next: old.slot };
        self.links[index] = Link { next: old.slot, previous: NONE, hash };
        if old.slot != NONE {
            self.links[old.slot as usize] = Link { next: old.next, previous: slot, hash: old.hash };
        }
        self.len += 1;
    }

    /// Takes out `slot`, which must be in the index.
    pub(super) fn remove(&mut self, slot: u32) {
        let Link { next, previous, hash } = self.links[slot as usize];
        let bucket = self.bucket(hash);
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous == NONE {
            debug_assert_eq!(self.heads[bucket].slot, slot);
            self.set_first(bucket, next);
        } else {
            self.links[previous as usize].next = next;
            if self.heads[bucket].slot == previous {
                self.heads[bucket].next = next;
            }
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
        let head = self.heads[self.bucket(hash)];
        if head.slot != NONE && head.hash == hash && is_wanted(head.slot) {
            return Some(head.slot);
        }
        let mut slot = head.next;
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

    fn set_first(&mut self, bucket: usize, slot: u32) {
        self.heads[bucket] = match slot {
            NONE => Head::EMPTY,
            slot => {
                let Link { next, hash, .. } = self.links[slot as usize];
                Head { slot, hash, next }
            }
        };
    }

    fn parent_of_last(&self) -> usize {
        let last = self.heads.len() - 1;
        last & ((last + 1).next_power_of_two() / 2 - 1)
    }

    /// Adds a bucket and moves to it what belongs there, in the same order.
    fn split(&mut self) {
        self.heads.push(Head::EMPTY);
        let (new, parent) = (self.heads.len() - 1, self.parent_of_last());
        let head = self.heads[parent];
        if head.slot == NONE {
            return;
        }
        if head.next == NONE {
            if self.bucket(head.hash) == new {
                self.heads[new] = head;
                self.heads[parent] = Head::EMPTY;
            }
            return;
        }
        let (mut stays, mut moves) = (Chain::EMPTY, Chain::EMPTY);
        let mut slot = head.slot;
        while slot != NONE {
            let Link { next, hash, .. } = self.links[slot as usize];
            let chain = if self.bucket(hash) == new { &mut moves } else { &mut stays };
            chain.push(&mut self.links, slot);
            slot = next;
        }
        self.set_first(parent, stays.first);
        self.set_first(new, moves.first);
    }

    /// Takes away the last bucket and puts what it held in front of its parent.
    fn merge(&mut self) {
        let parent = self.parent_of_last();
        let Some(Head { slot: first, .. }) = self.heads.pop().filter(|head| head.slot != NONE) else {
            return;
        };
        let mut last = first;
        while self.links[last as usize].next != NONE {
            last = self.links[last as usize].next;
        }
        let next = self.heads[parent].slot;
        self.links[last as usize].next = next;
        if next != NONE {
            self.links[next as usize].previous = last;
        }
        self.set_first(parent, first);
    }
}

/// A bucket's slots while they are put together anew.
struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    const EMPTY: Self = Self { first: NONE, last: NONE };

    fn push(&mut self, links: &mut [Link], slot: u32) {
        let link = &mut links[slot as usize];
        (link.previous, link.next) = (self.last, NONE);
        match self.last {
            NONE => self.first = slot,
            last => links[last as usize].next = slot,
        }
        self.last = slot;
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
