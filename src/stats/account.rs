//! The memory that the server holds for its peers: the sum, the limit, and the parts of the sum.
//!
//! Each part is kept by its holder. Jobs and what belongs to them are set by the holder of the hub's lock;
//! output, input and bodies are changed in steps, by their owners. So a part is off by at most a few KiB per
//! connection, which the weight of a connection covers. Buffers are weighed by their capacity.
//!
//! A large workload or result is shared by all that wait for it. It is counted once, from its arrival until
//! its last reference is dropped ([`Account::count_once`]). A reference to it weighs only its own size.
//!
//! # How the limit is divided
//! - Jobs, and what is remembered of peers, may take three quarters. Submissions beyond that are refused. The
//!   memory above is for connections and the functions of workers, which are refused when all is used, see
//!   [`Account::has_room_for_connection`].
//! - Buffers of data to and from peers may take seven eighths minus that, and at least an eighth. Beyond that
//!   connections are closed, see `net::pressure`.
//! - The rest is for allocations between two checks of the sum.

use std::sync::Arc;

use bytes::Bytes;

use super::Gauge;

/// A part of the memory held. The first ones are jobs and what is remembered of peers, the others are buffers
/// of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Jobs: their entries, and the workloads in memory.
    Jobs,
    /// Submissions that wait for the end of a job or for the store.
    Waits,
    /// Jobs with workers.
    Runs,
    /// Functions, and the abilities of workers for them.
    Functions,
    /// Connections, without their input and output.
    Connections,
    /// Operations that wait for the store, with copies of workloads.
    StoreQueue,
    /// Packets and text queued for peers, without large workloads and results.
    Output,
    /// Incomplete packets, and complete ones that are not processed yet.
    Input,
    /// Large workloads and results in transit that no longer belong to a job.
    Results,
    /// Bodies and results of HTTP.
    Http,
}

/// The number of parts.
const PARTS: usize = Part::ALL.len();

impl Part {
    /// All of them, in the order of display.
    pub const ALL: [Self; 10] = [
        Self::Jobs,
        Self::Waits,
        Self::Runs,
        Self::Functions,
        Self::Connections,
        Self::StoreQueue,
        Self::Output,
        Self::Input,
        Self::Results,
        Self::Http,
    ];
    /// Jobs and what is remembered of peers.
    const REMEMBERED: [Self; 6] =
        [Self::Jobs, Self::Waits, Self::Runs, Self::Functions, Self::Connections, Self::StoreQueue];
    /// Data queued for peers, and data from them.
    const BUFFERS: [Self; 4] = [Self::Output, Self::Input, Self::Results, Self::Http];

    /// Its name, for display.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Waits => "waits",
            Self::Runs => "runs",
            Self::Functions => "functions",
            Self::Connections => "connections",
            Self::StoreQueue => "store_queue",
            Self::Output => "output",
            Self::Input => "input",
            Self::Results => "results",
            Self::Http => "http",
        }
    }
}

/// The weight of a connection, in bytes: its task, its table entry, its published numbers, the kernel's
/// socket, and the part of its buffers that is too small to report to the account.
pub const CONNECTION: u64 = 4 * 1024;
/// The minimum change that a holder reports to the account, in bytes. There may be as many holders as
/// connections, so it is less than the weight of a connection.
pub const STEP: usize = 1024;
/// A peer with less than this queued is read from regardless of what others hold, in bytes.
const SMALL_OUTPUT: u64 = 64 * 1024;

/// The account.
#[derive(Debug, Default)]
pub struct Account {
    /// 0 for none.
    limit: Gauge,
    /// By [`Part`]. That of [`Part::Results`] is not used.
    parts: [Gauge; PARTS],
    /// Bytes that are counted once.
    shared: Gauge,
    /// The part of it that is workloads of jobs, which are in [`Part::Jobs`].
    shared_by_jobs: Gauge,
    /// The most memory of the job server since [`take_most`](Self::take_most).
    most_remembered: Gauge,
    /// Connections that were closed because memory was short.
    pub closed: Gauge,
    /// Submissions that were refused because memory was short, or the limit of jobs was reached.
    pub refused: Gauge,
    /// Whether any were refused in the last minute.
    pub is_refusing: Gauge,
}

impl Account {
    /// Changes the limit, in bytes.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.set(bytes);
    }

    /// The limit, in bytes; `u64::MAX` if none is set.
    pub fn limit(&self) -> u64 {
        match self.limit.get() {
            0 => u64::MAX,
            limit => limit,
        }
    }

    /// The size of a part, in bytes.
    pub fn get(&self, part: Part) -> u64 {
        match part {
            Part::Results => self.shared.get().saturating_sub(self.shared_by_jobs.get()),
            _ => self.parts[part as usize].get(),
        }
    }

    /// Sets a part that has one writer at a time.
    pub fn set(&self, part: Part, bytes: u64) {
        self.parts[part as usize].set(bytes);
    }

    /// Changes the amount of one holder of a part from `before` to `now` bytes.
    pub fn change(&self, part: Part, before: usize, now: usize) {
        self.parts[part as usize].add((now as u64).wrapping_sub(before as u64));
    }

    /// Sets how many bytes of what is [counted once](Self::count_once) are workloads of jobs.
    pub fn set_shared_by_jobs(&self, bytes: u64) {
        self.shared_by_jobs.set(bytes);
    }

    /// Reports the memory of the job server after each change. It has one writer at a time.
    pub fn note_remembered(&self, bytes: u64) {
        if bytes > self.most_remembered.get() {
            self.most_remembered.set(bytes);
        }
    }

    /// The most that was held since the last call, in bytes. It may be high by what data to and from peers
    /// has grown meanwhile.
    pub fn take_most(&self) -> u64 {
        let remembered = self.most_remembered.get();
        self.most_remembered.set(0);
        remembered.max(self.remembered()).saturating_add(self.buffered())
    }

    /// The sum, in bytes.
    pub fn total(&self) -> u64 {
        self.remembered().saturating_add(self.buffered())
    }

    /// The memory of jobs, and of what is remembered of peers.
    fn remembered(&self) -> u64 {
        Part::REMEMBERED.iter().map(|part| self.get(*part)).sum()
    }

    /// The memory of data to and from peers, in bytes.
    pub fn buffered(&self) -> u64 {
        Part::BUFFERS.iter().map(|part| self.get(*part)).sum()
    }

    /// The limit of data to and from peers, in bytes. Beyond it connections are closed.
    pub fn buffers_max(&self) -> u64 {
        let limit = self.limit();
        (limit / 8 * 7).saturating_sub(self.remembered()).max(limit / 8)
    }

    /// Whether there is room for another connection: connections together may take half of the limit, and no
    /// more than jobs and everything else that is remembered leave of it.
    pub fn has_room_for_connection(&self) -> bool {
        self.get(Part::Connections) + CONNECTION <= self.limit() / 2 && self.remembered() + CONNECTION <= self.limit()
    }

    /// Whether to read from a peer for which `queued` bytes are queued. The more others hold, the sooner it
    /// must read first: a quarter of the free memory may be queued for one peer.
    pub fn may_read_from(&self, queued: u64) -> bool {
        queued < SMALL_OUTPUT || queued < self.free() / 4
    }

    /// Whether a peer for which `queued` bytes are queued may be sent more. This is refused only beyond the
    /// limit, and only if more than an equal share of the buffers is queued for the peer.
    pub fn may_hold(&self, queued: u64) -> bool {
        let connections = self.get(Part::Connections) / CONNECTION;
        self.total() <= self.limit() || queued <= self.buffers_max() / connections.max(1)
    }

    /// Whether an incomplete packet may take `bytes` more.
    pub fn may_receive(&self, bytes: usize) -> bool {
        bytes as u64 <= self.free()
    }

    /// Whether at most a quarter of the memory for buffers is used.
    pub fn is_plentiful(&self) -> bool {
        self.buffered() <= self.buffers_max() / 4
    }

    /// Whether buffers exceed their limit.
    pub fn is_short(&self) -> bool {
        self.buffered() > self.buffers_max()
    }

    /// The memory that buffers may still take before reading stops. The eighth above it is for what must be
    /// sent.
    fn free(&self) -> u64 {
        (self.buffers_max() / 8 * 7).saturating_sub(self.buffered())
    }

    /// Counts shared bytes until the last reference to the returned value is dropped.
    pub fn count_once(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.shared.add(bytes.len() as u64);
        Bytes::from_owner(Counted { bytes, account: Arc::clone(self) })
    }
}

/// Bytes that are counted until this is dropped.
struct Counted {
    bytes: Bytes,
    account: Arc<Account>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.shared.add((self.bytes.len() as u64).wrapping_neg());
    }
}

/// The amount that one holder of a part has reported to the account. It is returned when this is dropped.
#[derive(Debug)]
pub struct Amount {
    account: Arc<Account>,
    part: Part,
    told: usize,
}

impl Amount {
    /// A holder that holds nothing yet.
    pub const fn new(account: Arc<Account>, part: Part) -> Self {
        Self { account, part, told: 0 }
    }

    /// The account.
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Reports that `bytes` are held now. Changes below [`STEP`] are not reported, but zero always is.
    /// Returns whether it was reported.
    pub fn set(&mut self, bytes: usize) -> bool {
        let is_told = bytes.abs_diff(self.told) >= STEP || bytes == 0 && self.told > 0;
        if is_told {
            self.account.change(self.part, self.told, bytes);
            self.told = bytes;
        }
        is_told
    }
}

impl Drop for Amount {
    fn drop(&mut self) {
        self.account.change(self.part, self.told, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_parts_are_all_and_in_order() {
        for (index, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, index, "{}", part.name());
            assert!(Part::REMEMBERED.contains(&part) != Part::BUFFERS.contains(&part), "{}", part.name());
        }
    }

    #[test]
    fn what_is_shared_is_counted_once_and_until_its_end() {
        let account = Arc::new(Account::default());
        let bytes = account.count_once(Bytes::from(vec![7; 1000]));
        let copies: Vec<Bytes> = (0..10).map(|start| bytes.slice(start..)).collect();
        assert_eq!(account.get(Part::Results), 1000);
        account.set_shared_by_jobs(600);
        assert_eq!((account.get(Part::Results), account.total()), (400, 400));
        account.set_shared_by_jobs(0);
        drop(bytes);
        assert_eq!(account.total(), 1000);
        drop(copies);
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn an_amount_is_told_in_steps_and_goes_back() {
        let account = Arc::new(Account::default());
        let mut amount = Amount::new(Arc::clone(&account), Part::Input);
        assert!(!amount.set(STEP - 1));
        assert_eq!(account.get(Part::Input), 0);
        assert!(amount.set(STEP));
        assert!(!amount.set(1));
        assert_eq!(account.get(Part::Input), STEP as u64);
        assert!(amount.set(2 * STEP) && amount.set(STEP - 1) && amount.set(0));
        assert_eq!(account.get(Part::Input), 0);
        assert!(!amount.set(0) && amount.set(10 * STEP));
        drop(amount);
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn the_most_since_the_last_call_is_known() {
        let account = Account::default();
        for jobs in [3 * MIB, 90 * MIB, 5 * MIB] {
            account.set(Part::Jobs, jobs);
            account.note_remembered(jobs);
        }
        account.set(Part::Output, 2 * MIB);
        assert_eq!(account.total(), 7 * MIB);
        assert_eq!([account.take_most(), account.take_most()], [92 * MIB, 7 * MIB]);
    }

    #[test]
    fn buffers_have_what_jobs_leave_and_some_always() {
        let account = Account::default();
        account.set_limit(800 * MIB);
        assert_eq!(account.buffers_max(), 700 * MIB);
        account.set(Part::Jobs, 600 * MIB);
        assert_eq!(account.buffers_max(), 100 * MIB);
        account.set(Part::Functions, 300 * MIB);
        assert_eq!(account.buffers_max(), 100 * MIB);
        assert!(!account.is_short());
        account.set(Part::Output, 101 * MIB);
        assert!(account.is_short());
    }

    #[test]
    fn the_more_is_held_the_less_may_wait_for_one() {
        let account = Account::default();
        account.set_limit(800 * MIB);
        let most = |held: u64| {
            account.set(Part::Output, held);
            (0..60).map(|exponent| 1 << exponent).take_while(|queued| account.may_read_from(*queued)).last()
        };
        let seen = [most(0), most(300 * MIB), most(500 * MIB), most(690 * MIB)];
        assert_eq!(seen, [Some(128 * MIB), Some(64 * MIB), Some(16 * MIB), Some(32 * 1024)]);
        assert!(!account.may_receive(1), "nothing is left to receive");
    }

    #[test]
    fn beyond_the_limit_those_may_hold_more_who_hold_little() {
        let account = Account::default();
        account.set_limit(100 * MIB);
        account.set(Part::Connections, 10 * CONNECTION);
        account.set(Part::Output, 90 * MIB);
        assert!(account.is_short() && account.may_hold(90 * MIB), "others see to that");
        account.set(Part::Output, 100 * MIB);
        assert!(account.may_hold(8 * MIB) && !account.may_hold(9 * MIB));
    }

    #[test]
    fn connections_have_half_of_all_and_what_is_left() {
        let account = Account::default();
        account.set_limit(80 * MIB);
        account.set(Part::Connections, 40 * MIB - CONNECTION);
        assert!(account.has_room_for_connection());
        account.set(Part::Jobs, 40 * MIB);
        assert!(account.has_room_for_connection());
        account.set(Part::Functions, 1);
        assert!(!account.has_room_for_connection(), "others take it");
        account.set(Part::Functions, 0);
        account.set(Part::Connections, 40 * MIB);
        assert!(!account.has_room_for_connection());
    }

    #[test]
    fn without_a_limit_nothing_is_short() {
        let account = Account::default();
        account.set(Part::Output, u64::MAX / 16);
        assert!(!account.is_short() && account.may_receive(1 << 40) && account.may_read_from(1 << 40));
    }
}
