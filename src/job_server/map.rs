//! A hash map whose growth never stalls the server: many small tables with unequal shares of the keys, see
//! `index.rs`.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::index::{TABLES, gives_back, place};

/// The map. Its hash function is keyed, since peers choose keys.
#[derive(Debug)]
pub(super) struct Map<K, V> {
    tables: Box<[HashTable<(K, V)>]>,
    len: usize,
    hasher: RandomState,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::with_hasher(RandomState::new())
    }
}

impl<K, V> Map<K, V> {
    pub(super) fn with_hasher(hasher: RandomState) -> Self {
        Self { tables: (0..TABLES).map(|_| HashTable::new()).collect(), len: 0, hasher }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K: Hash + Eq, V> Map<K, V> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        // Many maps hold what few jobs have: an empty one saves hashing the key.
        if self.len == 0 {
            return None;
        }
        let (table, place) = place_of(&self.hasher, key);
        self.tables[table].find(place, |(other, _)| other.borrow() == key).map(|(_, value)| value)
    }

    pub(super) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if self.len == 0 {
            return None;
        }
        let (table, place) = place_of(&self.hasher, key);
        self.tables[table].find_mut(place, |(other, _)| other.borrow() == key).map(|(_, value)| value)
    }

    pub(super) fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Inserts a value. Returns the previous one, if any.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hasher = &self.hasher;
        let (table, place) = place_of(hasher, &key);
        let table = &mut self.tables[table];
        match table.entry(place, |(other, _)| *other == key, |(other, _)| place_of(hasher, other).1) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(&mut entry.get_mut().1, value)),
            Entry::Vacant(entry) => {
                entry.insert((key, value));
                self.len += 1;
                None
            }
        }
    }

    /// The value of a key, inserted as `vacant` if there was none.
    pub(super) fn get_or_insert(&mut self, key: K, vacant: V) -> &mut V {
        let hasher = &self.hasher;
        let (table, place) = place_of(hasher, &key);
        let entry = self.tables[table].entry(place, |(other, _)| *other == key, |(other, _)| place_of(hasher, other).1);
        self.len += usize::from(matches!(entry, Entry::Vacant(_)));
        &mut entry.or_insert((key, vacant)).into_mut().1
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if self.len == 0 {
            return None;
        }
        let hasher = &self.hasher;
        let (table, place) = place_of(hasher, key);
        let table = &mut self.tables[table];
        let ((_, value), _) = table.find_entry(place, |(other, _)| other.borrow() == key).ok()?.remove();
        self.len -= 1;
        if gives_back(table.len(), table.capacity()) {
            table.shrink_to(table.len() * 2, |(other, _)| place_of(hasher, other).1);
        }
        Some(value)
    }

    /// All entries, unordered.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.tables.iter().flat_map(|table| table.iter().map(|(key, value)| (key, value)))
    }
}

fn place_of<Q: Hash + ?Sized>(hasher: &RandomState, key: &Q) -> (usize, u64) {
    let [b0, b1, b2, b3, ..] = hasher.hash_one(key).to_le_bytes();
    place(u32::from_le_bytes([b0, b1, b2, b3]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares it with the map of the standard library.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..4_u8, 0..300_u32), 1..3000)) {
            let mut map: Map<String, usize> = Map::default();
            let mut model: HashMap<String, usize> = HashMap::new();
            for (step, (action, key)) in steps.into_iter().enumerate() {
                let key = key.to_string();
                match action {
                    0 | 1 => prop_assert_eq!(map.insert(key.clone(), step), model.insert(key, step)),
                    2 => prop_assert_eq!(map.remove(key.as_str()), model.remove(key.as_str())),
                    _ => prop_assert_eq!(map.get_mut(key.as_str()), model.get_mut(key.as_str())),
                }
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
            for key in 0..300 {
                let key = key.to_string();
                prop_assert_eq!(map.get(key.as_str()), model.get(key.as_str()));
                prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
            }
            let all: HashMap<String, usize> = map.iter().map(|(key, value)| (key.clone(), *value)).collect();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn it_gives_memory_back() {
        let mut map: Map<u32, u32> = Map::default();
        (0..100_000).for_each(|key| assert_eq!(map.insert(key, key), None));
        (0..100_000).for_each(|key| assert_eq!(map.remove(&key), Some(key)));
        let capacity: usize = map.tables.iter().map(HashTable::capacity).sum();
        assert!(capacity <= TABLES * 64, "{capacity}");
    }
}
