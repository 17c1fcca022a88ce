//! Values in numbered slots, kept in pages that never move.
//!
//! A single growing array is moved as a whole whenever it is full, and freed as a whole when it is empty:
//! with millions of jobs either holds the lock for a tenth of a second. Here no operation takes longer than
//! allocating or freeing one page.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use super::ids::SlotId;
use super::index::NONE;

/// The minimum size of a page, in bytes. The server makes the allocator map blocks of this size one by one:
/// they are not moved, take memory only where they are written, and return to the system as soon as they are
/// freed.
pub(super) const PAGE_BYTES: usize = 4 << 20;
/// An empty page is freed if at least this many of its slots were in use at one time. Freeing a page with
/// fewer would cost more than it saves.
const FREED_FROM: usize = 1024;

/// The slots. A value keeps its slot number until it is removed; slot numbers are reused. `Id` is the type of
/// the slot numbers.
#[derive(Debug)]
pub(super) struct Slab<Id, T, const BYTES: usize = PAGE_BYTES> {
    /// The first page. It is not among the others, so that the slots of a small table are found with one step
    /// less.
    first: Page<T>,
    /// The others, from the second on.
    pages: Vec<Page<T>>,
    links: PageLinks,
    /// The head of the list of pages that have a vacant slot and memory for it.
    open: u32,
    /// Pages that were freed.
    freed: Vec<u32>,
    len: usize,
    id: PhantomData<Id>,
}

#[derive(Debug)]
struct Page<T> {
    /// As many entries as were in use at one time. The capacity is that of a page, or zero if it was freed.
    entries: Vec<Entry<T>>,
    /// The head of the free list of these entries.
    vacant: u32,
    used: u32,
}

#[derive(Debug)]
enum Entry<T> {
    /// The next entry in the free list of the page.
    Vacant(u32),
    Occupied(T),
}

impl<Id: SlotId, T, const BYTES: usize> Default for Slab<Id, T, BYTES> {
    fn default() -> Self {
        let mut links = PageLinks::default();
        links.add_page();
        let (first, pages) = (Page::default(), Vec::new());
        Self { first, pages, links, open: NONE, freed: vec![0], len: 0, id: PhantomData }
    }
}

impl<Id: SlotId, T, const BYTES: usize> Slab<Id, T, BYTES> {
    /// Slots per page: a power of two, so that a slot number is cheap to split.
    const SLOTS: usize = BYTES.div_ceil(size_of::<Entry<T>>()).next_power_of_two();

    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// One more than the last slot that may be in use.
    pub(super) fn bound(&self) -> usize {
        let last = self.all_pages().map(|(first, page)| if page.used > 0 { first + page.entries.len() } else { 0 });
        last.max().unwrap_or(0)
    }

    /// Stores a value. Returns its slot.
    pub(super) fn insert(&mut self, value: T) -> Id {
        if self.open == NONE {
            self.add_page();
        }
        let number = self.open;
        let page = self.page_mut(number as usize);
        let place = match page.vacant {
            NONE => {
                page.entries.push(Entry::Occupied(value));
                page.entries.len() - 1
            }
            vacant => {
                let entry = &mut page.entries[vacant as usize];
                debug_assert!(matches!(entry, Entry::Vacant(_)), "a slot was vacant and in use");
                page.vacant = if let Entry::Vacant(next) = entry { *next } else { NONE };
                *entry = Entry::Occupied(value);
                vacant as usize
            }
        };
        page.used += 1;
        let is_full = page.used as usize == Self::SLOTS;
        self.len += 1;
        if is_full {
            self.links.remove(&mut self.open, number);
        }
        Id::from_index(number as usize * Self::SLOTS + place)
    }

    /// Removes the value of a slot, which must be in use.
    pub(super) fn remove(&mut self, slot: Id) -> T {
        let slot = slot.index();
        let (number, place) = (slot / Self::SLOTS, slot % Self::SLOTS);
        let page = self.page_mut(number);
        let vacant = std::mem::replace(&mut page.vacant, in_32_bits(place));
        let Entry::Occupied(value) = std::mem::replace(&mut page.entries[place], Entry::Vacant(vacant)) else {
            not_in_use(slot)
        };
        let was_full = page.used as usize == Self::SLOTS;
        page.used -= 1;
        let is_freed = page.used == 0 && page.entries.len() >= FREED_FROM;
        if is_freed {
            *page = Page::default();
        }
        self.len -= 1;
        let number = in_32_bits(number);
        if was_full {
            self.links.push(&mut self.open, number);
        }
        if is_freed {
            self.links.remove(&mut self.open, number);
            self.freed.push(number);
        }
        value
    }

    pub(super) fn get(&self, slot: Id) -> Option<&T> {
        let slot = slot.index();
        let page = if slot < Self::SLOTS { &self.first } else { self.pages.get(slot / Self::SLOTS - 1)? };
        match page.entries.get(slot % Self::SLOTS)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, slot: Id) -> Option<&mut T> {
        let slot = slot.index();
        let page = if slot < Self::SLOTS { &mut self.first } else { self.pages.get_mut(slot / Self::SLOTS - 1)? };
        match page.entries.get_mut(slot % Self::SLOTS)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    pub(super) fn contains(&self, slot: Id) -> bool {
        self.get(slot).is_some()
    }

    /// All values with their slots, in slot order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.all_pages().flat_map(|(first, page)| {
            page.entries.iter().enumerate().filter_map(move |(place, entry)| match entry {
                Entry::Occupied(value) => Some((Id::from_index(first + place), value)),
                Entry::Vacant(_) => None,
            })
        })
    }

    /// All pages, each with its first slot.
    fn all_pages(&self) -> impl Iterator<Item = (usize, &Page<T>)> {
        let pages = std::iter::once(&self.first).chain(&self.pages);
        pages.enumerate().map(|(number, page)| (number * Self::SLOTS, page))
    }

    fn page_mut(&mut self, number: usize) -> &mut Page<T> {
        if number == 0 { &mut self.first } else { &mut self.pages[number - 1] }
    }

    /// Allocates memory for one more page.
    fn add_page(&mut self) {
        let number = self.freed.pop().unwrap_or_else(|| {
            self.pages.push(Page::default());
            self.links.add_page();
            in_32_bits(self.pages.len())
        });
        self.page_mut(number as usize).entries = Vec::with_capacity(Self::SLOTS);
        self.links.push(&mut self.open, number);
    }
}

impl<'a, Id: SlotId, T, const BYTES: usize> IntoIterator for &'a Slab<Id, T, BYTES> {
    type Item = (Id, &'a T);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<Id: SlotId, T, const BYTES: usize> Index<Id> for Slab<Id, T, BYTES> {
    type Output = T;

    fn index(&self, slot: Id) -> &T {
        self.get(slot).unwrap_or_else(|| not_in_use(slot.index()))
    }
}

impl<Id: SlotId, T, const BYTES: usize> IndexMut<Id> for Slab<Id, T, BYTES> {
    fn index_mut(&mut self, slot: Id) -> &mut T {
        self.get_mut(slot).unwrap_or_else(|| not_in_use(slot.index()))
    }
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), vacant: NONE, used: 0 }
    }
}

/// A broken invariant, not a peer's mistake.
#[cold]
fn not_in_use(slot: usize) -> ! {
    unreachable!("slot {slot} is not in use")
}

/// Converts a count to 32 bits: the limits of everything in memory are far below.
fn in_32_bits(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(NONE)
}

/// Doubly linked lists of pages. A page is in at most one of them; the owner of a list has its head.
#[derive(Debug, Default)]
pub(super) struct PageLinks(Vec<Neighbours>);

#[derive(Clone, Copy, Debug)]
struct Neighbours {
    previous: u32,
    next: u32,
}

impl PageLinks {
    /// Adds the links of one more page, which is in no list yet.
    pub(super) fn add_page(&mut self) {
        self.0.push(Neighbours { previous: NONE, next: NONE });
    }

    /// Whether `page` is all of the list with this head.
    pub(super) fn is_alone(&self, head: u32, page: u32) -> bool {
        head == page && self.0[page as usize].next == NONE
    }

    /// Inserts a page that is in no list at the head of one.
    pub(super) fn push(&mut self, head: &mut u32, page: u32) {
        self.0[page as usize] = Neighbours { previous: NONE, next: *head };
        if let Some(second) = self.0.get_mut(*head as usize) {
            second.previous = page;
        }
        *head = page;
    }

    /// Removes a page from its list.
    pub(super) fn remove(&mut self, head: &mut u32, page: u32) {
        let Neighbours { previous, next } = self.0[page as usize];
        match self.0.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => *head = next,
        }
        if let Some(after) = self.0.get_mut(next as usize) {
            after.previous = previous;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A slab with few slots per page.
    type Small = Slab<usize, u32, 64>;

    proptest! {
        /// Compares it with a plain map. Runs of one kind of step fill and empty pages.
        #[test]
        fn it_keeps_what_was_inserted(steps in prop::collection::vec((0..2_u8, 1..40_usize, any::<u16>()), 1..100)) {
            let mut slab = Small::new();
            let mut model: BTreeMap<usize, u32> = BTreeMap::new();
            let mut next = 0;
            for (kind, count, choice) in steps {
                for _ in 0..count {
                    if kind == 0 {
                        next += 1;
                        let slot = slab.insert(next);
                        prop_assert_eq!(model.insert(slot, next), None, "a slot was in use already");
                    } else if let Some(slot) = model.keys().nth(usize::from(choice) % model.len().max(1)).copied() {
                        prop_assert_eq!(Some(slab.remove(slot)), model.remove(&slot));
                    }
                    prop_assert_eq!(slab.len(), model.len());
                }
                prop_assert!(slab.iter().map(|(slot, value)| (slot, *value)).eq(model.clone()));
                let last = model.keys().next_back();
                prop_assert!(last.is_none_or(|last| slab.bound() > *last));
                prop_assert_eq!(last.is_none(), slab.bound() == 0);
                for slot in 0..slab.bound() + 100 {
                    prop_assert_eq!(slab.get(slot).copied(), model.get(&slot).copied());
                    prop_assert_eq!(slab.contains(slot), model.contains_key(&slot));
                }
            }
        }
    }

    fn pages_with_memory<T, const BYTES: usize>(slab: &Slab<usize, T, BYTES>) -> usize {
        slab.all_pages().filter(|(_, page)| page.entries.capacity() > 0).count()
    }

    #[test]
    fn a_page_is_freed_when_it_is_empty_and_used_again() {
        const SLOTS: usize = 8192;
        type Pages = Slab<usize, u64, { 16 * SLOTS }>;
        let mut slab = Pages::new();
        assert_eq!(Pages::SLOTS, SLOTS);
        let fill = |slab: &mut Pages| (0..3 * SLOTS as u64).map(|value| slab.insert(value)).collect::<Vec<_>>();
        for _ in 0..2 {
            let mut slots = fill(&mut slab);
            assert_eq!(pages_with_memory(&slab), 3);
            slots.sort_unstable();
            assert!(slots.iter().copied().eq(0..3 * SLOTS), "the numbers are given out again");
            for slot in &slots[..2 * SLOTS] {
                slab.remove(*slot);
            }
            assert_eq!(pages_with_memory(&slab), 1, "the oldest go first");
            for slot in &slots[2 * SLOTS..] {
                slab.remove(*slot);
            }
            assert_eq!((pages_with_memory(&slab), slab.bound()), (0, 0));
        }
    }

    #[test]
    fn few_values_that_come_and_go_do_not_cost_an_allocation() {
        let mut slab: Slab<usize, u64> = Slab::new();
        slab.insert(0);
        let memory = slab.first.entries.as_ptr();
        slab.remove(0);
        for _ in 0..10 {
            let slots: Vec<usize> = (0..100).map(|value| slab.insert(value)).collect();
            (0..100).zip(slots).for_each(|(value, slot)| assert_eq!(slab.remove(slot), value));
            assert_eq!((slab.first.entries.as_ptr(), slab.len()), (memory, 0));
        }
    }
}
