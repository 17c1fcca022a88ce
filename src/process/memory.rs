//! Memory: how much of it the server takes for workloads, and giving it back to the system.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Workloads of a durable queue that are kept in memory where no limit is set, in bytes: enough for every backlog that workers
/// keep up with.
const FOR_DURABLE_WORKLOADS: u64 = 64 << 20;
/// The part of the memory for jobs that jobs may take on their way to the store: they are there twice.
const STORING_SHARE: u64 = 4;
/// Where control groups are.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Free memory at the end of the heap beyond this is given back, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 8 << 20;
/// Blocks from this size on lie outside the heap and are given back when they are freed, in bytes. It is above the usual
/// size of workloads, for which new memory each time would cost more than it saves.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_FROM: i32 = 4 << 20;

/// Pieces of output and input from this size on are counted when they are freed, in bytes.
const COUNTED_FROM: usize = 1 << 20;
/// When so much was freed, free memory is given back, in bytes.
const MUCH: u64 = 32 << 20;
/// And when the process has so much more beside what is held for jobs and peers than when memory was given
/// back last, in bytes. At first that is more than nothing.
const SURPLUS: u64 = 48 << 20;
/// The least time between two times that memory is given back: each looks at all free memory, and holds up who allocates.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// The same at most, where little is given back each time.
const LONGEST_TRIM_INTERVAL: Duration = Duration::from_mins(10);
/// Little of what was to be given back, in bytes.
const LITTLE: u64 = 16 << 20;

/// Bytes that were freed since memory was given back.
static FREED: AtomicUsize = AtomicUsize::new(0);

/// So many bytes of a connection's output or input were freed. What is small is not counted.
pub fn note_freed(bytes: usize) {
    if bytes >= COUNTED_FROM {
        FREED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Gives memory back to the system after much was freed. What is in use between free blocks keeps the allocator from doing it.
#[derive(Debug, Default)]
pub struct Trimmer {
    /// The most that was held since memory was given back, in bytes.
    most: u64,
    last: Option<Trim>,
}

/// How memory was given back.
#[derive(Clone, Copy, Debug)]
struct Trim {
    at: Instant,
    /// What the process had beside what is held afterwards, in bytes: what every job and connection takes,
    /// the caches, and what lies between blocks in use.
    rest: u64,
    /// How long nothing is given back from then on.
    interval: Duration,
}

impl Trimmer {
    /// To be called every few seconds, by a thread that nobody waits for, with the bytes that are held for
    /// jobs and peers now.
    pub fn look(&mut self, held: u64) {
        self.most = self.most.max(held);
        let freed = FREED.load(Ordering::Relaxed) as u64 + (self.most - held);
        let elapsed = self.last.map_or(Duration::MAX, |last| last.at.elapsed());
        if freed < MUCH || self.last.is_some_and(|last| elapsed < last.interval) {
            return;
        }
        let Some(before) = resident() else { return };
        if !self.is_worth_it(before.saturating_sub(held), elapsed) {
            return;
        }
        FREED.store(0, Ordering::Relaxed);
        self.most = held;
        trim();
        self.note_trim(before, resident().unwrap_or(before), held);
    }

    /// Whether the process may have much to give back, where it has so much beside what is held, in bytes.
    /// Less than last time is the new measure, and none holds for good: what could not be given back then may
    /// have been freed since.
    fn is_worth_it(&mut self, rest: u64, elapsed: Duration) -> bool {
        let least = self.last.as_mut().map_or(0, |last| {
            last.rest = last.rest.min(rest);
            last.rest
        });
        let least = if elapsed < LONGEST_TRIM_INTERVAL { least } else { 0 };
        rest - least >= SURPLUS
    }

    /// The process has had so many bytes before and after memory was given back. Where that was little, the next time is later.
    fn note_trim(&mut self, before: u64, after: u64, held: u64) {
        let interval = match self.last {
            Some(last) if before.saturating_sub(after) < LITTLE => (last.interval * 2).min(LONGEST_TRIM_INTERVAL),
            _ => TRIM_INTERVAL,
        };
        self.last = Some(Trim { at: Instant::now(), rest: after.saturating_sub(held), interval });
    }
}

/// Memory of this process that is in use, in bytes.
fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// Has the allocator give back all free memory.
#[allow(unsafe_code)]
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, by any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Has the allocator give back free memory sooner than it does by itself.
///
/// glibc raises its thresholds when large blocks are freed, up to 64 MiB that it keeps: a few slow readers would leave
/// the server so much larger for good. Other allocators are left alone.
pub fn give_back_early() {
    #[cfg(target_env = "gnu")]
    set_thresholds();
}

/// How much memory jobs and peers may take, in bytes, and how much of it workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All that peers make the server hold.
    pub total: u64,
    /// Workloads of jobs that a store has too.
    pub stored: u64,
    /// Workloads of jobs that a store is asked to keep.
    pub storing: u64,
    /// Workloads of jobs that only memory has.
    pub volatile: u64,
}

impl Limits {
    /// The limits for a queue that is durable or not, by what the operator asked for.
    ///
    /// By itself the total is two thirds of what the process may have: code, caches and what the allocator
    /// cannot use have the rest. Jobs may take three quarters of it. The workloads that are set concern the
    /// jobs of a durable queue that can be read back, and all of one in memory; the total has room for them
    /// unless it is set too.
    pub fn new(total: Option<u64>, workloads: Option<u64>, is_durable: bool) -> Self {
        let wanted = workloads.map_or(0, |workloads| workloads / 3 * 4);
        let total = total.unwrap_or_else(|| (available() / 3 * 2).max(wanted));
        let jobs = total / 4 * 3;
        let stored = workloads.unwrap_or_else(|| FOR_DURABLE_WORKLOADS.min(total / 4));
        let volatile = workloads.filter(|_| !is_durable).unwrap_or(jobs);
        Self { total, stored, storing: jobs / STORING_SHARE, volatile }
    }
}

/// How much memory this process may have at most, in bytes: the machine's, or what its control group allows. `u64::MAX`
/// where neither can be told.
pub fn available() -> u64 {
    let machine = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.min(group_limit(&groups, Path::new(CONTROL_GROUPS)))
}

/// The smallest limit of the groups that a process is in, by its `/proc/self/cgroup`. In a container the paths in there may
/// be those of the host, and what is mounted is the own group; so the root is looked at too.
fn group_limit(groups: &str, root: &Path) -> u64 {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            controllers if controllers.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = base.join(path.trim_start_matches('/'));
        // "max", or no file, is no limit.
        let limit = |group: &Path| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        group.ancestors().take_while(|group| group.starts_with(&base)).filter_map(limit).min()
    });
    limits.min().unwrap_or(u64::MAX)
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn set_thresholds() {
    use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: mallopt may be called at any time, with any values. It fails for values out of range, and nothing changes.
    unsafe {
        mallopt(M_TRIM_THRESHOLD, KEPT);
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_FROM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_what_was_asked_for_or_fit_the_queue() {
        const MIB: u64 = 1 << 20;
        let durable = Limits::new(Some(400 * MIB), None, true);
        let expected = Limits { total: 400 * MIB, stored: 64 * MIB, storing: 75 * MIB, volatile: 300 * MIB };
        assert_eq!(durable, expected);
        assert_eq!(Limits::new(Some(400 * MIB), None, false), expected);
        assert_eq!(Limits::new(Some(400 * MIB), Some(7), true), Limits { stored: 7, ..expected });
        assert_eq!(Limits::new(Some(400 * MIB), Some(7), false), Limits { stored: 7, volatile: 7, ..expected });
        assert_eq!(Limits::new(Some(40 * MIB), None, true).stored, 10 * MIB);
        let automatic = Limits::new(None, None, false);
        let half = available() / 2;
        assert!(automatic.total < available() && automatic.volatile.abs_diff(half) < 16, "{automatic:?}");
        // What was asked for before there was a total still fits.
        let much = available() / 10 * 9;
        let raised = Limits::new(None, Some(much), false);
        assert!(raised.volatile == much && raised.total / 4 * 3 > much - 16, "{raised:?}");
    }

    #[test]
    fn what_cannot_be_given_back_is_not_asked_for_again() {
        const MIB: u64 = 1 << 20;
        const SOON: Duration = Duration::from_mins(1);
        let mut trimmer = Trimmer::default();
        assert!(!trimmer.is_worth_it(40 * MIB, SOON));
        // The index of many jobs.
        assert!(trimmer.is_worth_it(900 * MIB, SOON));
        trimmer.note_trim(1000 * MIB, 990 * MIB, 100 * MIB);
        for rest in [890, 900, 937] {
            assert!(!trimmer.is_worth_it(rest * MIB, SOON), "{rest}");
        }
        assert!(trimmer.is_worth_it(938 * MIB, SOON));
        assert!(trimmer.is_worth_it(890 * MIB, LONGEST_TRIM_INTERVAL), "much of it may be free by now");
        // The jobs end.
        assert!(!trimmer.is_worth_it(100 * MIB, SOON));
        assert!(!trimmer.is_worth_it(147 * MIB, SOON));
        assert!(trimmer.is_worth_it(148 * MIB, SOON));
    }

    #[test]
    fn little_that_was_given_back_makes_the_next_time_later() {
        const MIB: u64 = 1 << 20;
        let mut trimmer = Trimmer::default();
        let mut note = |before: u64, after: u64| {
            trimmer.note_trim(before * MIB, after * MIB, 0);
            trimmer.last.map(|last| last.interval.as_secs())
        };
        assert_eq!([note(500, 499), note(500, 499), note(500, 490)], [Some(5), Some(10), Some(20)]);
        assert_eq!(note(500, 400), Some(5));
        let last = (0..20).map(|_| note(500, 500)).last();
        assert_eq!(last, Some(Some(600)));
    }

    #[test]
    fn the_smallest_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "5000\n");
        write("memory/c/memory.limit_in_bytes", "700\n");
        let limit = |groups: &str| group_limit(groups, root.path());
        assert_eq!(limit("0::/a/b\n"), 5000);
        assert_eq!(limit("0::/\n"), u64::MAX);
        assert_eq!(limit("7:cpu,memory:/c\n3:cpuset:/c\n0::/a\n"), 700);
        assert_eq!(limit("0::/not/there\n"), u64::MAX);
        assert_eq!(limit(""), u64::MAX);
        write("memory.max", "400");
        assert_eq!(limit("0::/not/there\n"), 400, "the group of a container is mounted as the root");
    }
}
