//! A published map in the order of its keys, which is read a page at a time.
//!
//! A reader keeps the last key that it has shown, and no copy of the map: a listing may take any time, and
//! thousands of them hold next to nothing. Adding or removing an entry costs the same, however many listings
//! there are.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The number of entries that [`Ordered::iter`] copies at a time.
const PAGE: usize = 128;

/// The map. Keys and values are cheap to clone: shared, or small.
#[derive(Debug)]
pub struct Ordered<K, V> {
    entries: RwLock<BTreeMap<K, V>>,
}

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Self {
        Self { entries: RwLock::new(BTreeMap::new()) }
    }
}

impl<K: Ord + Clone, V: Clone> Ordered<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.read().get(key).cloned()
    }

    /// The stored key, and its value.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        self.read().get_key_value(key).map(|(key, value)| (key.clone(), value.clone()))
    }

    /// Whether the key exists.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.read().contains_key(key)
    }

    /// Adds an entry, or replaces the value of a key.
    pub fn insert(&self, key: K, value: V) {
        let replaced = self.write().insert(key, value);
        // The old value, if this was its last reference, is freed without the lock.
        drop(replaced);
    }

    /// Removes an entry.
    pub fn remove<Q: Ord + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let removed = self.write().remove(key);
        drop(removed);
    }

    /// Removes all entries.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.write());
        drop(all);
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// The first entries after a key, which need not exist any more, or from the beginning: at most `most`.
    /// Only these are copied, and the map is locked no longer than that takes.
    pub fn page(&self, after: Option<&K>, most: usize) -> Vec<(K, V)> {
        let entries = self.read();
        let begin = after.map_or(Unbounded, Excluded);
        entries.range((begin, Unbounded)).take(most).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// All entries, a page at a time. Entries added or removed meanwhile are seen or not; none is seen twice.
    pub fn iter(&self) -> Entries<'_, K, V> {
        self.behind(None)
    }

    /// All entries after this key, a page at a time.
    pub fn behind(&self, after: Option<K>) -> Entries<'_, K, V> {
        Entries { map: self, page: Vec::new().into_iter(), last: after }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<K, V>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<K, V>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a, K: Ord + Clone, V: Clone> IntoIterator for &'a Ordered<K, V> {
    type Item = (K, V);
    type IntoIter = Entries<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The iterator of [`Ordered::iter`]. The map is not locked between two entries.
#[derive(Debug)]
pub struct Entries<'a, K, V> {
    map: &'a Ordered<K, V>,
    page: std::vec::IntoIter<(K, V)>,
    last: Option<K>,
}

impl<K: Ord + Clone, V: Clone> Iterator for Entries<'_, K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        if self.page.as_slice().is_empty() {
            let page = self.map.page(self.last.as_ref(), PAGE);
            self.last = Some(page.last()?.0.clone());
            self.page = page.into_iter();
        }
        self.page.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_whatever_comes_and_goes() {
        let map: Ordered<u32, u32> = Ordered::default();
        (0..1000).for_each(|key| map.insert(key * 2, key));
        let mut seen = Vec::new();
        for (key, value) in &map {
            assert_eq!(value, key / 2);
            seen.push(key);
            // The last entry shown is removed, and entries are added before and after it.
            map.remove(&key);
            map.insert(key.saturating_sub(1), 0);
            map.insert(2000 + key, 1000 + key / 2);
            if seen.len() == 1200 {
                break;
            }
        }
        assert!(seen.is_sorted() && seen.windows(2).all(|two| two[0] != two[1]));
        assert!((0..1000).all(|key| seen.contains(&(key * 2))), "one that was there all the time is left out");
        assert_eq!(map.page(Some(&u32::MAX), 5), []);
        map.clear();
        assert_eq!((map.len(), map.is_empty(), map.iter().next()), (0, true, None));
    }
}
