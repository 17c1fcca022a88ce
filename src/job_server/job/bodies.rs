//! Allocator for the bytes of jobs: cells of about their size, in pages, in regions.
//!
//! A general allocator does much work at once now and then: it joins free blocks, moves what has grown, and
//! returns memory, all under one lock, which takes a tenth of a second after a million jobs have ended. Here
//! allocating or freeing a cell takes no longer than allocating or freeing one region. Cells have no header,
//! which also saves a dozen bytes per job.

use super::super::index::NONE;
use super::super::slab::{PAGE_BYTES, PageLinks};

/// The size of the largest cell, in bytes. Larger bodies use the general allocator.
const CELL_MAX: usize = 32 * 1024;
/// The unit of cell offsets, in bytes.
const UNIT: usize = 8;
/// Up to this size, cell sizes grow by a unit; above it, by eight steps per doubling.
const FINE_MAX: usize = 512;
const STEPS: usize = 8;
const CLASSES: usize = 1 + FINE_MAX / UNIT + STEPS * (CELL_MAX / FINE_MAX).ilog2() as usize;
/// The size of a page, in bytes. All its cells have one size. The remainder at its end is never written, and
/// takes no memory.
const PAGE: usize = 64 * 1024;
/// Pages per region. A region is allocated and freed as one.
const PAGES: usize = PAGE_BYTES / PAGE;
/// An empty region is freed if at least this many of its pages were in use at one time. Freeing a region with
/// fewer would cost more than it saves.
const FREED_FROM: u32 = 32;
const ALL_PAGES: u64 = u64::MAX;
const _: () = assert!(PAGES == u64::BITS as usize);
/// Stands for no cell of a page.
const NO_UNIT: u16 = u16::MAX;

/// The location of a job's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    page: u32,
    /// The offset of the first byte in the page, in units.
    unit: u16,
    length: u16,
}

impl Cell {
    /// How many bytes it holds.
    pub(super) fn length(self) -> usize {
        self.length.into()
    }
}

/// All cells, with their pages and regions.
#[derive(Debug)]
pub(super) struct Bodies {
    regions: Vec<Region>,
    /// No region before this one has a free page.
    first_roomy: usize,
    pages: Vec<Page>,
    links: PageLinks,
    /// By size class, the head of the list of pages that have a free cell.
    open: [u32; CLASSES],
    /// The number of pages that are assigned to a class.
    pages_in_use: usize,
    /// Bytes of cells in use.
    cell_bytes: usize,
}

#[derive(Debug)]
struct Region {
    /// Empty if it was freed.
    bytes: Vec<u8>,
    /// A bit for each page that is assigned to no class.
    free: u64,
    /// A bit for each page that has been written to.
    touched: u64,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    class: u8,
    used: u16,
    /// The head of the free list of used cells; each free cell stores the next one.
    free: u16,
    /// The offset from which on no cell has been used, in units.
    fresh: u16,
}

impl Default for Bodies {
    fn default() -> Self {
        let (regions, pages) = (Vec::new(), Vec::new());
        Self {
            regions,
            first_roomy: 0,
            pages,
            links: PageLinks::default(),
            open: [NONE; CLASSES],
            pages_in_use: 0,
            cell_bytes: 0,
        }
    }
}

impl Bodies {
    /// Stores the parts one after the other. `None` if they are too large for a cell.
    pub(super) fn keep(&mut self, parts: [&[u8]; 3]) -> Option<Cell> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > CELL_MAX {
            return None;
        }
        let class = class_of(length);
        if class == 0 {
            return Some(Cell { page: NONE, unit: 0, length: 0 });
        }
        let cell = Cell { length: u16::try_from(length).ok()?, ..self.take(class) };
        let mut rest = self.bytes_mut(cell);
        for part in parts {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
        Some(cell)
    }

    /// The bytes of a cell that is in use.
    pub(super) fn get(&self, cell: Cell) -> &[u8] {
        let Some(region) = self.regions.get(cell.page as usize / PAGES) else { return &[] };
        let start = start_of(cell);
        &region.bytes[start..start + usize::from(cell.length)]
    }

    /// Frees a cell that is in use.
    pub(super) fn free(&mut self, cell: Cell) {
        if cell.length == 0 {
            return;
        }
        let page = &mut self.pages[cell.page as usize];
        let class = usize::from(page.class);
        self.cell_bytes -= size_of_class(class);
        let next = std::mem::replace(&mut page.free, cell.unit);
        let was_full = usize::from(page.used) == cells_of(class);
        page.used -= 1;
        let is_empty = page.used == 0;
        let link = Cell { length: 2, ..cell };
        self.bytes_mut(link).copy_from_slice(&next.to_le_bytes());
        if was_full {
            self.links.push(&mut self.open[class], cell.page);
        }
        if is_empty && !self.keeps(cell.page, class) {
            self.links.remove(&mut self.open[class], cell.page);
            self.free_page(cell.page as usize);
        }
    }

    /// Whether an empty page stays with its class: it is the class's only page with a free cell, and in the
    /// first region. Jobs that come and go one by one then use the same page each time. Pages of other
    /// regions would keep these from being freed.
    fn keeps(&self, page: u32, class: usize) -> bool {
        (page as usize) < PAGES && self.links.is_alone(self.open[class], page)
    }

    /// Bytes of free cells in pages that are in use, beyond one page per class.
    pub(super) fn free_bytes(&self) -> usize {
        (self.pages_in_use.saturating_sub(CLASSES) * PAGE).saturating_sub(self.cell_bytes)
    }

    /// Allocates a cell of a class. The caller sets its length.
    fn take(&mut self, class: usize) -> Cell {
        if self.open[class] == NONE {
            let page = self.take_page(class);
            self.links.push(&mut self.open[class], page);
        }
        let number = self.open[class];
        let size = size_of_class(class);
        self.cell_bytes += size;
        let page = &mut self.pages[number as usize];
        let unit = page.free;
        page.used += 1;
        let is_full = usize::from(page.used) == cells_of(class);
        let cell = if unit == NO_UNIT {
            let unit = page.fresh;
            // A page has fewer units than fit into 16 bits.
            page.fresh += u16::try_from(size / UNIT).unwrap_or(0);
            Cell { page: number, unit, length: 0 }
        } else {
            let cell = Cell { page: number, unit, length: 2 };
            let next = self.get(cell);
            self.pages[number as usize].free = u16::from_le_bytes([next[0], next[1]]);
            cell
        };
        if is_full {
            self.links.remove(&mut self.open[class], number);
        }
        cell
    }

    /// Allocates a page for cells of this class, from the first region with a free one, so that later regions
    /// become empty.
    fn take_page(&mut self, class: usize) -> u32 {
        let roomy = self.regions[self.first_roomy..].iter().position(|region| region.free != 0);
        self.first_roomy = roomy.map_or(self.regions.len(), |behind| self.first_roomy + behind);
        if roomy.is_none() {
            self.regions.push(Region { bytes: Vec::new(), free: ALL_PAGES, touched: 0 });
            self.pages.resize(self.regions.len() * PAGES, Page { class: 0, used: 0, free: NO_UNIT, fresh: 0 });
            (0..PAGES).for_each(|_| self.links.add_page());
        }
        let region = &mut self.regions[self.first_roomy];
        if region.bytes.is_empty() {
            // The system provides zeros, and backs a page with memory only when it is written.
            region.bytes = vec![0; PAGE_BYTES];
        }
        self.pages_in_use += 1;
        let within = region.free.trailing_zeros();
        region.free &= !(1 << within);
        region.touched |= 1 << within;
        let number = self.first_roomy * PAGES + within as usize;
        // There are fewer than a hundred classes.
        self.pages[number] = Page { class: u8::try_from(class).unwrap_or(0), used: 0, free: NO_UNIT, fresh: 0 };
        u32::try_from(number).unwrap_or(NONE)
    }

    fn free_page(&mut self, page: usize) {
        self.pages_in_use -= 1;
        let (number, within) = (page / PAGES, page % PAGES);
        let region = &mut self.regions[number];
        region.free |= 1 << within;
        self.first_roomy = self.first_roomy.min(number);
        if region.free == ALL_PAGES && region.touched.count_ones() >= FREED_FROM {
            *region = Region { bytes: Vec::new(), free: ALL_PAGES, touched: 0 };
        }
    }

    fn bytes_mut(&mut self, cell: Cell) -> &mut [u8] {
        let start = start_of(cell);
        &mut self.regions[cell.page as usize / PAGES].bytes[start..start + usize::from(cell.length)]
    }
}

/// The offset of a cell in its region.
fn start_of(cell: Cell) -> usize {
    cell.page as usize % PAGES * PAGE + usize::from(cell.unit) * UNIT
}

/// The number of cells in a page of this class.
fn cells_of(class: usize) -> usize {
    CELLS[class] as usize
}

const CELLS: [u16; CLASSES] = {
    let mut cells = [0; CLASSES];
    let mut class = 1;
    while class < CLASSES {
        #[allow(clippy::cast_possible_truncation, reason = "at most as many as a page has units")]
        let count = (PAGE / size_of_class(class)) as u16;
        cells[class] = count;
        class += 1;
    }
    cells
};

/// The class of the smallest cells that hold `length` bytes, at most [`CELL_MAX`].
fn class_of(length: usize) -> usize {
    if length <= FINE_MAX {
        return length.div_ceil(UNIT);
    }
    let doublings = ((length - 1) / FINE_MAX).ilog2() as usize;
    let step = (FINE_MAX / STEPS) << doublings;
    FINE_MAX / UNIT + doublings * STEPS + length.div_ceil(step) - STEPS
}

const fn size_of_class(class: usize) -> usize {
    if class <= FINE_MAX / UNIT {
        return class * UNIT;
    }
    let above = class - FINE_MAX / UNIT - 1;
    let (doublings, steps) = (above / STEPS, above % STEPS + 1);
    (FINE_MAX + FINE_MAX / STEPS * steps) << doublings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cell_is_the_smallest_that_fits() {
        for length in 0..=CELL_MAX {
            let class = class_of(length);
            assert!(size_of_class(class) >= length, "{length}");
            assert!(class == 0 || size_of_class(class - 1) < length, "{length}");
            assert!(size_of_class(class) - length <= (length / STEPS).max(UNIT), "{length}");
        }
        assert_eq!((class_of(CELL_MAX), size_of_class(CLASSES - 1)), (CLASSES - 1, CELL_MAX));
    }

    /// Test bytes that identify a cell by its number.
    fn content(number: u32, length: usize) -> Vec<u8> {
        number.to_le_bytes().into_iter().cycle().take(length).collect()
    }

    fn regions_with_memory(bodies: &Bodies) -> usize {
        bodies.regions.iter().filter(|region| !region.bytes.is_empty()).count()
    }

    proptest! {
        /// No cell changes while others are allocated and freed, and in the end nothing is left.
        #[test]
        fn it_keeps_what_it_is_given(steps in prop::collection::vec((0..5_u8, 0..CELL_MAX + 10, any::<u16>()), 1..600)) {
            let mut bodies = Bodies::default();
            let mut model: Vec<(Cell, Vec<u8>)> = Vec::new();
            for (number, (action, length, choice)) in (0..).zip(steps) {
                // Mostly small cells.
                let length = if choice % 4 == 0 { length } else { length % 300 };
                if action < 3 {
                    let kept = content(number, length);
                    let (unique, rest) = kept.split_at(length.min(7));
                    let cell = bodies.keep([unique, b"", rest]);
                    prop_assert_eq!(cell.is_none(), length > CELL_MAX);
                    model.extend(cell.map(|cell| (cell, kept)));
                } else if !model.is_empty() {
                    let (cell, kept) = model.swap_remove(usize::from(choice) % model.len());
                    prop_assert_eq!(bodies.get(cell), &kept[..]);
                    bodies.free(cell);
                }
            }
            for (cell, kept) in &model {
                prop_assert_eq!(bodies.get(*cell), &kept[..]);
            }
            for (cell, _) in &model {
                bodies.free(*cell);
            }
            // A class keeps one empty page.
            let kept = bodies.open.iter().filter(|open| **open != NONE);
            prop_assert!(kept.clone().all(|open| bodies.links.is_alone(*open, *open)));
            prop_assert_eq!((bodies.pages_in_use, bodies.cell_bytes), (kept.count(), 0));
            let is_kept = |region: &Region| region.touched.count_ones() < FREED_FROM;
            prop_assert!(bodies.regions.iter().skip(1).all(is_kept));
        }
    }

    #[test]
    fn memory_goes_back_as_jobs_end_and_is_used_again() {
        const LENGTH: usize = 1000;
        let mut bodies = Bodies::default();
        for _ in 0..2 {
            let cells: Vec<Cell> =
                (0..20_000).filter_map(|number| bodies.keep([&content(number, LENGTH), b"", b""])).collect();
            let full = regions_with_memory(&bodies);
            assert_eq!((cells.len(), full), (20_000, 5), "of {} bytes each", size_of_class(class_of(LENGTH)));
            let (old, new) = cells.split_at(10_000);
            for cell in old {
                bodies.free(*cell);
            }
            assert_eq!(regions_with_memory(&bodies), 3, "the oldest go first");
            for (number, cell) in (10_000..).zip(new) {
                assert_eq!(bodies.get(*cell), content(number, LENGTH));
            }
            for cell in new {
                bodies.free(*cell);
            }
            assert_eq!((regions_with_memory(&bodies), bodies.regions.len()), (0, 5));
        }
    }
}
