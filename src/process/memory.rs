//! Memory: the limits for jobs and peers, and returning free memory to the system.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Memory for workloads of a durable queue if no limit is set, in bytes: enough for any backlog that workers
/// keep up with.
const FOR_DURABLE_WORKLOADS: u64 = 64 << 20;
/// The part of the jobs' memory that jobs may take while they are being stored: they are in memory twice.
const STORING_SHARE: u64 = 4;
/// The mount point of control groups.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Free memory at the end of the heap beyond this is returned, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 8 << 20;
/// Blocks from this size on get their own mapping and are returned when they are freed, in bytes. It is above
/// the usual size of workloads: mapping those anew each time would cost more than it saves.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_FROM: i32 = 4 << 20;

/// Buffers of output and input from this size on are counted when they are freed, in bytes.
const COUNTED_FROM: usize = 1 << 20;
/// A trim needs this much that was freed since the last one, in bytes.
const FREED_MIN: u64 = 16 << 20;
/// A trim that returns less than this has returned little, in bytes.
const LITTLE: u64 = 16 << 20;
/// A trim needs this much memory of the process besides what is held for jobs and peers, in bytes. If there
/// is this much more than after the last trim, the next one does not wait for the interval of that trim.
const SURPLUS: u64 = 48 << 20;
/// The shortest time between two trims: each scans all free memory, and blocks threads that allocate.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// The longest time between two trims, if each returns little.
const LONGEST_TRIM_INTERVAL: Duration = Duration::from_mins(10);

/// Bytes freed since the last trim.
static FREED: AtomicUsize = AtomicUsize::new(0);

/// Counts freed bytes of a connection's output or input. Small buffers are not counted.
pub fn note_freed(bytes: usize) {
    if bytes >= COUNTED_FROM {
        FREED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Returns memory to the system after much was freed. Blocks in use between free ones keep the allocator from
/// doing it by itself.
#[derive(Debug, Default)]
pub struct Trimmer {
    /// The most that was held since the last trim, in bytes.
    most: u64,
    last: Option<Trim>,
}

/// The last trim.
#[derive(Clone, Copy, Debug)]
struct Trim {
    at: Instant,
    /// Memory of the process besides what was held after the trim, in bytes: the overhead of jobs and
    /// connections, the caches, and gaps between blocks in use.
    rest: u64,
    /// How long no further trim is made, unless there is a surplus over `rest`.
    interval: Duration,
}

impl Trimmer {
    /// Checks whether to trim. Call it every few seconds, from a thread that no other thread waits for, with
    /// the bytes held for jobs and peers now, and the most that were held since the last call.
    pub fn look(&mut self, held: u64, most: u64) {
        self.most = self.most.max(most).max(held);
        let freed = FREED.load(Ordering::Relaxed) as u64 + (self.most - held);
        let elapsed = self.last.map_or(Duration::MAX, |last| last.at.elapsed());
        if freed < FREED_MIN || elapsed < TRIM_INTERVAL {
            return;
        }
        let Some(before) = resident() else { return };
        if !self.is_worth_it(before.saturating_sub(held), elapsed) {
            return;
        }
        FREED.store(0, Ordering::Relaxed);
        self.most = held;
        let has_grown = self.has_grown(before.saturating_sub(held));
        trim();
        self.note_trim(before, resident().unwrap_or(before), held, has_grown);
    }

    /// Whether a trim may return much. `rest` is the memory besides what is held, in bytes; a lower value
    /// than at the last trim becomes the new baseline. Memory that was in use at the last trim may have been
    /// freed since without a change of `rest`: that is tried again after the interval.
    fn is_worth_it(&mut self, rest: u64, elapsed: Duration) -> bool {
        if let Some(last) = &mut self.last {
            last.rest = last.rest.min(rest);
        }
        rest >= SURPLUS && (self.has_grown(rest) || self.last.is_some_and(|last| elapsed >= last.interval))
    }

    /// Whether there is a surplus over the baseline. The first trim has none.
    fn has_grown(&self, rest: u64) -> bool {
        rest - self.last.map_or(0, |last| last.rest.min(rest)) >= SURPLUS
    }

    /// Records a trim: the memory of the process before and after it. The interval grows if it returned
    /// little, or if there was no surplus over the baseline: a queue that grows and shrinks all the time uses
    /// the returned memory again at once.
    fn note_trim(&mut self, before: u64, after: u64, held: u64, had_grown: bool) {
        let is_useful = had_grown && before.saturating_sub(after) >= LITTLE;
        let interval = match self.last {
            Some(last) if !is_useful => (last.interval * 2).min(LONGEST_TRIM_INTERVAL),
            _ => TRIM_INTERVAL,
        };
        self.last = Some(Trim { at: Instant::now(), rest: after.saturating_sub(held), interval });
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// Makes the allocator return all free memory.
#[allow(unsafe_code)]
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, by any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Makes the allocator return free memory earlier than by default.
///
/// glibc raises its thresholds when large blocks are freed, up to 64 MiB that it keeps: a few slow readers
/// would enlarge the server permanently. Other allocators are not changed.
pub fn give_back_early() {
    #[cfg(target_env = "gnu")]
    set_thresholds();
}

/// Memory limits for jobs and peers, and for workloads among them, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Everything that the server holds for peers.
    pub total: u64,
    /// Workloads of jobs that are stored too.
    pub stored: u64,
    /// Workloads of jobs that are being stored.
    pub storing: u64,
    /// Workloads of jobs that are in memory only.
    pub volatile: u64,
}

impl Limits {
    /// The limits for a durable or a volatile queue, from the operator's settings.
    ///
    /// By default the total is two thirds of the memory that the process may have; code, caches and
    /// fragmentation take the rest. Jobs may take three quarters of the total. A limit set for workloads
    /// applies to the jobs of a durable queue that can be read back, and to all jobs of one in memory. The
    /// total is large enough for them unless it is set too.
    pub fn new(total: Option<u64>, workloads: Option<u64>, is_durable: bool) -> Self {
        let wanted = workloads.map_or(0, |workloads| workloads / 3 * 4);
        let total = total.unwrap_or_else(|| (available() / 3 * 2).max(wanted));
        let jobs = total / 4 * 3;
        let stored = workloads.unwrap_or_else(|| FOR_DURABLE_WORKLOADS.min(total / 4));
        let volatile = workloads.filter(|_| !is_durable).unwrap_or(jobs);
        Self { total, stored, storing: jobs / STORING_SHARE, volatile }
    }
}

/// Maximum memory of this process, in bytes: the machine's, or what its control group allows. `u64::MAX` if
/// neither is known.
pub fn available() -> u64 {
    let machine = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.min(group_limit(&groups, Path::new(CONTROL_GROUPS)))
}

/// The smallest limit of a process's control groups, from its `/proc/self/cgroup`. In a container its paths
/// may be those of the host while the container's own group is mounted, so the root is checked too.
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
        // "max", or no file, means no limit.
        let limit = |group: &Path| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        group.ancestors().take_while(|group| group.starts_with(&base)).filter_map(limit).min()
    });
    limits.min().unwrap_or(u64::MAX)
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn set_thresholds() {
    use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: mallopt may be called at any time, with any values. For values out of range it fails and
    // changes nothing.
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
        // A setting from before there was a total still fits.
        let much = available() / 10 * 9;
        let raised = Limits::new(None, Some(much), false);
        assert!(raised.volatile == much && raised.total / 4 * 3 > much - 16, "{raised:?}");
    }

    #[test]
    fn what_cannot_be_given_back_is_asked_for_again_after_the_interval() {
        const MIB: u64 = 1 << 20;
        const SOON: Duration = Duration::from_secs(9);
        let mut trimmer = Trimmer::default();
        assert!(!trimmer.is_worth_it(40 * MIB, SOON));
        // Many jobs and their index.
        assert!(trimmer.is_worth_it(900 * MIB, SOON));
        trimmer.note_trim(1000 * MIB, 990 * MIB, 100 * MIB, true);
        trimmer.note_trim(1000 * MIB, 990 * MIB, 100 * MIB, true);
        for rest in [890, 900, 937] {
            assert!(!trimmer.is_worth_it(rest * MIB, SOON), "{rest}");
        }
        assert!(trimmer.is_worth_it(938 * MIB, SOON));
        assert!(trimmer.is_worth_it(890 * MIB, 2 * TRIM_INTERVAL), "much of it may be free by now");
        // The jobs end.
        assert!(!trimmer.is_worth_it(100 * MIB, SOON));
        assert!(!trimmer.is_worth_it(147 * MIB, SOON));
        assert!(trimmer.is_worth_it(148 * MIB, SOON));
        assert!(!trimmer.is_worth_it(47 * MIB, LONGEST_TRIM_INTERVAL), "there is no surplus");
    }

    #[test]
    fn little_that_was_given_back_makes_the_next_time_later() {
        const MIB: u64 = 1 << 20;
        let mut trimmer = Trimmer::default();
        let mut note = |before: u64, after: u64| {
            trimmer.note_trim(before * MIB, after * MIB, 0, true);
            trimmer.last.map(|last| last.interval.as_secs())
        };
        assert_eq!([note(500, 499), note(500, 499), note(500, 490)], [Some(5), Some(10), Some(20)]);
        assert_eq!(note(500, 400), Some(5));
        trimmer.note_trim(500 * MIB, 400 * MIB, 0, false);
        assert_eq!(trimmer.last.map(|last| last.interval.as_secs()), Some(10), "the memory was used again");
        let mut note = |before: u64, after: u64| {
            trimmer.note_trim(before * MIB, after * MIB, 0, true);
            trimmer.last.map(|last| last.interval.as_secs())
        };
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
