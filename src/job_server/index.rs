//! A hash index from keys to jobs whose growth never stalls the server.
//!
//! It stores slot numbers and hashes, and no keys: the caller of a lookup compares them. One large table
//! would be rehashed as a whole whenever it is full, which takes tens of milliseconds at a million jobs; here
//! many small tables are rehashed one at a time. They get unequal shares of the hashes, so that they do not
//! fill up at the same time either.

use hashbrown::HashTable;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// The number of tables: enough to keep each small with millions of jobs, and few enough that empty ones do
/// not matter.
pub(super) const TABLES: usize = 256;
/// The number of consecutive hashes that stay together in a table: handles are assigned in sequence.
const RUN: usize = 64;
/// The number of runs that the tables share; the assignment of runs to tables then repeats.
const RUNS: usize = 4096;
/// The first run of each table, and their end: the first table has 11 runs, the last 21.
const FIRST_RUN: [u16; TABLES + 1] = {
    let mut first = [0; TABLES + 1];
    let mut table = 0;
    while table <= TABLES {
        first[table] = to_u16(11 * table + 5 * table * table / TABLES);
        table += 1;
    }
    assert!(first[TABLES] as usize == RUNS);
    first
};
/// The table of each run.
static TABLE_OF_RUN: [u16; RUNS] = {
    let mut tables = [0; RUNS];
    let (mut table, mut run) = (0, 0);
    while run < RUNS {
        if run == FIRST_RUN[table + 1] as usize {
            table += 1;
        }
        tables[run] = to_u16(table);
        run += 1;
    }
    tables
};

const fn to_u16(number: usize) -> u16 {
    assert!(number <= u16::MAX as usize);
    #[allow(clippy::cast_possible_truncation)]
    let number = number as u16;
    number
}
/// A table shrinks when it is filled to less than this fraction, unless it is small.
const SPARSE: usize = 8;
/// Tables up to this capacity do not shrink: jobs that come and go should not cost an allocation.
const SMALL: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

/// The index. A slot is in it at most once.
#[derive(Debug)]
pub(super) struct JobIndex {
    tables: Box<[HashTable<Entry>]>,
    len: usize,
}

impl Default for JobIndex {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

impl JobIndex {
    /// The number of slots in the index.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds `slot`, which must not be in the index.
    pub(super) fn insert(&mut self, slot: u32, hash: u32) {
        let (table, place) = place(hash);
        self.tables[table].insert_unique(place, Entry { hash, slot }, |entry| self::place(entry.hash).1);
        self.len += 1;
    }

    /// Replaces `old`, which must be in the index with this hash, by `new`.
    pub(super) fn replace(&mut self, old: u32, new: u32, hash: u32) {
        let (table, place) = place(hash);
        if let Some(entry) = self.tables[table].find_mut(place, |entry| entry.slot == old) {
            entry.slot = new;
        }
    }

    /// Removes `slot`, which must be in the index with this hash.
    pub(super) fn remove(&mut self, slot: u32, hash: u32) {
        let (table, place) = place(hash);
        let table = &mut self.tables[table];
        let Ok(entry) = table.find_entry(place, |entry| entry.slot == slot) else {
            debug_assert!(false, "a slot that is not in the index was taken out of it");
            return;
        };
        entry.remove();
        self.len -= 1;
        if gives_back(table.len(), table.capacity()) {
            table.shrink_to(table.len() * 2, |entry| self::place(entry.hash).1);
        }
    }

    /// A slot with this hash for which `is_wanted` returns true.
    pub(super) fn find(&self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let (table, place) = place(hash);
        self.tables[table].find(place, |entry| entry.hash == hash && is_wanted(entry.slot)).map(|entry| entry.slot)
    }
}

/// Whether a table with this length and capacity should shrink.
pub(super) fn gives_back(len: usize, capacity: usize) -> bool {
    capacity > SMALL && len < capacity / SPARSE
}

/// The table for a hash, and the hash within it.
///
/// Adjacent hashes stay adjacent, for the processor's cache: a table places an entry by the low bits. It
/// tells entries apart by the seven highest bits, which are spread.
pub(super) fn place(hash: u32) -> (usize, u64) {
    let (round, run, within_run) = (hash as usize / RUN / RUNS, hash as usize / RUN % RUNS, hash as usize % RUN);
    let table = usize::from(TABLE_OF_RUN[run]);
    let (first, end) = (usize::from(FIRST_RUN[table]), usize::from(FIRST_RUN[table + 1]));
    let within = (round * (end - first) + run - first) * RUN + within_run;
    let spread = u64::from(hash.wrapping_mul(0x9e37_79b1) >> 25) << 57;
    (table, within as u64 | spread)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares it with a plain map, with few hashes so that some are equal.
        #[test]
        fn it_finds_what_was_inserted(steps in prop::collection::vec((0..3_u8, 0..400_u32, 0..2000_u32), 1..2000)) {
            let mut index = JobIndex::default();
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (action, slot, hash) in steps {
                let hash = hash.wrapping_mul(hash % 3 * 0x0100_0193 + 1);
                match (action, model.get(&slot).copied()) {
                    (0, None) => {
                        index.insert(slot, hash);
                        model.insert(slot, hash);
                    }
                    (1, Some(hash)) => {
                        index.remove(slot, hash);
                        model.remove(&slot);
                    }
                    (2, Some(hash)) => {
                        index.replace(slot, slot + 1000, hash);
                        prop_assert_eq!(index.find(hash, |found| found == slot), None);
                        index.replace(slot + 1000, slot, hash);
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for (slot, hash) in &model {
                prop_assert_eq!(index.find(*hash, |found| found == *slot), Some(*slot));
                let same = model.values().filter(|other| *other == hash).count();
                let mut found = 0;
                index.find(*hash, |_| { found += 1; false });
                prop_assert_eq!(found, same);
            }
        }
    }

    #[test]
    fn it_gives_memory_back() {
        let mut index = JobIndex::default();
        let capacity = |index: &JobIndex| index.tables.iter().map(HashTable::capacity).sum::<usize>();
        for slot in 0..100_000 {
            index.insert(slot, slot);
        }
        assert!(capacity(&index) >= 100_000);
        for slot in 0..99_990 {
            index.remove(slot, slot);
        }
        assert!(capacity(&index) <= TABLES * SMALL, "{}", capacity(&index));
        for slot in 99_990..100_000 {
            assert_eq!(index.find(slot, |_| true), Some(slot));
        }
    }
}
