//! A disk as a power cut leaves it.
//!
//! What was synced is there. Of what was not, each write, each change of a size and each change of a name is
//! there or is not, whatever its neighbours are; a write may be there in some of its sectors only.
//!
//! After a sync that failed nobody tries again: each change that it was to bring to the disk is there now, or
//! never will be unless it is made once more, although the system shows it to whoever reads the file.

use std::collections::{BTreeMap, HashMap};

use crate::durable::Random;
use crate::shim::trace::{Kind, Record, Trace};

/// What a disk writes whole.
const SECTOR: usize = 512;

/// The files of a directory: what is certain, and what may be.
pub(crate) struct Disk<'a> {
    trace: &'a Trace,
    files: Vec<File<'a>>,
    /// Which file an inode's number stands for now: numbers are used again.
    by_inode: HashMap<u64, usize>,
    names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Of what failed syncs leave behind.
    random: Random,
}

#[derive(Default)]
struct File<'a> {
    synced: Vec<u8>,
    unsynced: Vec<Change<'a>>,
}

enum Change<'a> {
    Write { offset: usize, bytes: &'a [u8] },
    Resize(usize),
    Allocate(usize),
}

enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String),
}

/// How much of what is not certain is there.
struct Mood {
    kept_percent: u64,
    torn_percent: u64,
}

impl<'a> Disk<'a> {
    pub(crate) fn new(trace: &'a Trace, random: Random) -> Self {
        let (names, unsynced_names) = (BTreeMap::new(), Vec::new());
        Self { trace, files: Vec::new(), by_inode: HashMap::new(), names, unsynced_names, random }
    }

    /// Goes on by one record.
    pub(crate) fn apply(&mut self, record: &'a Record) {
        if record.error != 0 {
            if record.kind == Kind::Synced && record.detail == 0 {
                let file = &mut self.files[self.by_inode[&record.inode]];
                for change in std::mem::take(&mut file.unsynced) {
                    if self.random.chance(50) {
                        make(&mut file.synced, &change);
                    }
                }
            }
            return;
        }
        let data = self.trace.data(record);
        let offset = usize::try_from(record.offset).expect("an offset");
        match record.kind {
            Kind::Opened if record.offset == 1 => {
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.by_inode.insert(record.inode, file);
                self.unsynced_names.push(NameChange::Set(self.trace.path(record), file));
            }
            Kind::Opened if record.offset == 2 => self.change(record, Change::Resize(0)),
            Kind::Written => self.change(record, Change::Write { offset, bytes: data }),
            Kind::Resized => self.change(record, Change::Resize(offset)),
            Kind::Allocated => self.change(record, Change::Allocate(offset)),
            Kind::Synced if record.detail == 1 => {
                for change in std::mem::take(&mut self.unsynced_names) {
                    rename(&mut self.names, &change);
                }
            }
            Kind::Synced => {
                let file = &mut self.files[self.by_inode[&record.inode]];
                for change in std::mem::take(&mut file.unsynced) {
                    make(&mut file.synced, &change);
                }
            }
            Kind::Unlinked => self.unsynced_names.push(NameChange::Remove(self.trace.path(record))),
            Kind::Renamed => {
                let both = self.trace.path(record);
                let (from, to) = both.split_once('\0').expect("two paths");
                self.unsynced_names.push(NameChange::Rename(from.to_owned(), to.to_owned()));
            }
            Kind::Opened
            | Kind::Closed
            | Kind::SyncSkipped
            | Kind::Sent
            | Kind::Received
            | Kind::Accepted
            | Kind::Started => {}
        }
    }

    /// The files that a power cut may leave now, by their paths.
    pub(crate) fn cut(&self, random: &mut Random) -> BTreeMap<String, Vec<u8>> {
        let mood = Mood { kept_percent: random.pick(&[0, 10, 50, 90, 100]), torn_percent: random.pick(&[0, 30, 100]) };
        let mut names = self.names.clone();
        for change in &self.unsynced_names {
            if random.chance(mood.kept_percent) {
                rename(&mut names, change);
            }
        }
        names.into_iter().map(|(name, file)| (name, self.files[file].cut(&mood, random))).collect()
    }

    fn change(&mut self, record: &Record, change: Change<'a>) {
        self.files[self.by_inode[&record.inode]].unsynced.push(change);
    }
}

impl File<'_> {
    fn cut(&self, mood: &Mood, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.unsynced {
            if !random.chance(mood.kept_percent) {
                continue;
            }
            match *change {
                Change::Write { offset, bytes: written } if random.chance(mood.torn_percent) => {
                    tear(&mut bytes, offset, written, random);
                }
                _ => make(&mut bytes, change),
            }
        }
        bytes
    }
}

/// Writes some sectors of a write. Where it goes beyond the end, the new size may be there without its bytes.
fn tear(bytes: &mut Vec<u8>, offset: usize, written: &[u8], random: &mut Random) {
    let mut from = 0;
    while from < written.len() {
        let to = written.len().min((offset + from) / SECTOR * SECTOR + SECTOR - offset);
        match random.below(4) {
            0 | 1 => make(bytes, &Change::Write { offset: offset + from, bytes: &written[from..to] }),
            2 => make(bytes, &Change::Allocate(offset + to)),
            _ => {}
        }
        from = to;
    }
}

fn make(bytes: &mut Vec<u8>, change: &Change<'_>) {
    match *change {
        Change::Write { offset, bytes: written } => {
            let end = offset + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset..end].copy_from_slice(written);
        }
        Change::Resize(size) => bytes.resize(size, 0),
        Change::Allocate(size) => bytes.resize(bytes.len().max(size), 0),
    }
}

fn rename(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Set(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}
