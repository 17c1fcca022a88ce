//! One end of a connection: what a scripted client or worker does next, and what it makes of what it is told.
//!
//! A peer knows only what it sent and received, and keeps its own account of what it was promised.

use std::collections::{BTreeMap, VecDeque};

use super::random::Random;
use super::wire::{self, Ask, CLIENTS, FUNCTIONS, Grab, Reply, Submission, UNIQUES};

/// How a peer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// As the libraries do: grab until there is no job, sleep, wake, grab.
    Orderly,
    /// Anything at any time.
    Wild,
    /// Sleeps, is woken, and never grabs.
    Silent,
}

/// What all peers can know of the world.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) unix_s: i64,
    /// Whether there are so many jobs that clients hold back.
    pub(crate) is_busy: bool,
    /// Jobs that were created of late.
    pub(crate) recent: &'a [u64],
    /// How many of [`FUNCTIONS`] are in use here.
    pub(crate) functions: usize,
    /// Whether the server has so small limits that registering may fail.
    pub(crate) registering_may_fail: bool,
}

/// A request that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pending {
    /// Answered only if it is refused; an ECHO follows, so that it is known when it was not.
    CanDo,
    Submit {
        background: bool,
    },
    Grab,
    Status(Vec<u8>),
    StatusUnique(&'static [u8]),
    Echo(Vec<u8>),
    Option,
}

/// For how long a late worker may work on a job, in microseconds.
const RUN_US: u64 = 1_000_000;

/// Which parts a peer plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Worker,
    Both,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) temper: Temper,
    role: Role,
    can_do: Vec<usize>,
    held: Vec<u64>,
    /// In the end, since when it holds them, if each of its runs is to outlast its time.
    outlasts: Option<BTreeMap<u64, u64>>,
    woken: bool,
    asleep: bool,
    pending: VecDeque<Pending>,
    /// By job, how many final packets are owed to it.
    pub(crate) owed: BTreeMap<u64, u32>,
    /// Background jobs of which it was told lately that they are created.
    pub(crate) acknowledged: Vec<u64>,
    last_echo: u64,
}

impl Peer {
    pub(crate) fn new(random: &mut Random) -> Self {
        let temper = match random.below(10) {
            0..5 => Temper::Orderly,
            5..9 => Temper::Wild,
            _ => Temper::Silent,
        };
        let role = random.pick(&[Role::Client, Role::Worker, Role::Both, Role::Both]);
        Self::with_role(temper, role)
    }

    /// One that can be relied on.
    pub(crate) fn orderly_worker() -> Self {
        Self::with_role(Temper::Orderly, Role::Worker)
    }

    /// One whose every run takes longer than it may.
    pub(crate) fn late_worker() -> Self {
        Self { outlasts: Some(BTreeMap::new()), ..Self::orderly_worker() }
    }

    fn with_role(temper: Temper, role: Role) -> Self {
        Self {
            temper,
            role,
            can_do: Vec::new(),
            held: Vec::new(),
            outlasts: None,
            woken: false,
            asleep: false,
            pending: VecDeque::new(),
            owed: BTreeMap::new(),
            acknowledged: Vec::new(),
            last_echo: 0,
        }
    }

    /// The next thing, or the next few in one go.
    pub(crate) fn act(&mut self, random: &mut Random, world: &Surroundings<'_>) -> Vec<Ask> {
        let mut asks = Vec::new();
        let times = if random.chance(10) { 1 + random.below(6) } else { 1 };
        for _ in 0..times {
            if self.role == Role::Client || (self.role == Role::Both && random.chance(50)) {
                Self::act_as_client(random, world, &mut asks);
            } else {
                self.act_as_worker(random, world, &mut asks);
            }
        }
        self.sent(asks)
    }

    /// What is left to do when nothing new begins: end what it holds, and go on working if that is its way.
    pub(crate) fn wind_up(&mut self, random: &mut Random, now_us: u64) -> Vec<Ask> {
        let mut asks = Vec::new();
        let (over, still): (Vec<u64>, Vec<u64>) =
            std::mem::take(&mut self.held).into_iter().partition(|job| self.is_through_with(random, *job, now_us));
        let had_work = !over.is_empty();
        for job in still {
            self.held.push(job);
            if self.outlasts.as_ref().is_some_and(|since| since[&job] + RUN_US <= now_us) {
                asks.push(Ask::WorkData { handle: wire::handle(job), workload: b"late".to_vec() });
            }
        }
        for job in over {
            // It may be handed the same one again.
            if let Some(since) = &mut self.outlasts {
                since.remove(&job);
            }
            let handle = wire::handle(job);
            asks.push(match random.below(4) {
                0 => Ask::WorkFail { handle },
                1 => Ask::WorkException { handle, workload: b"late".to_vec() },
                _ => Ask::WorkComplete { handle, workload: b"late".to_vec() },
            });
        }
        let waits_for_answer = self.pending.contains(&Pending::Grab) || !self.held.is_empty();
        if self.role != Role::Client && self.temper == Temper::Orderly && !waits_for_answer {
            if self.woken || (had_work && random.chance(50)) {
                asks.push(self.grab(random));
            } else if !self.asleep {
                asks.push(self.pre_sleep());
            }
        }
        self.sent(asks)
    }

    /// Whether it ends a job now: at once, or some time after it was to end it.
    fn is_through_with(&mut self, random: &mut Random, job: u64, now_us: u64) -> bool {
        let Some(held_since) = &mut self.outlasts else { return true };
        let since_us = *held_since.entry(job).or_insert(now_us);
        since_us + RUN_US <= now_us && random.chance(40)
    }

    /// Registers everything and goes to sleep.
    pub(crate) fn start_work(&mut self) -> Vec<Ask> {
        let is_late = self.outlasts.is_some();
        let able =
            |function| if is_late { Ask::CanDoTimeout { function, timeout_ms: 1000 } } else { Ask::CanDo { function } };
        let mut asks: Vec<Ask> = (0..FUNCTIONS.len()).map(able).collect();
        asks.push(self.pre_sleep());
        asks
    }

    fn act_as_client(random: &mut Random, world: &Surroundings<'_>, asks: &mut Vec<Ask>) {
        let holds_back = world.is_busy && random.chance(90);
        match random.below(20) {
            0 if !holds_back && random.chance(20) => {
                // As one that does not wait for answers.
                asks.extend((0..2 + random.below(12)).map(|_| Ask::Submit(submission(random, world))));
            }
            0..12 if !holds_back => asks.push(Ask::Submit(submission(random, world))),
            0..14 => asks.push(Ask::GetStatus { handle: some_handle(random, world) }),
            14 | 15 => asks.push(Ask::GetStatusUnique { unique: random.pick(&UNIQUES) }),
            16 => asks.push(Ask::Echo(random.next().to_be_bytes()[random.index(8)..].to_vec())),
            17 => asks.push(Ask::Option(random.pick(&[b"exceptions", b"EXCEPTIONS", b"not-begun", b"nonsense"]))),
            18 => asks.push(wrong(random)),
            _ => asks.push(if random.chance(50) { Ask::Line } else { some_name(random) }),
        }
    }

    fn act_as_worker(&mut self, random: &mut Random, world: &Surroundings<'_>, asks: &mut Vec<Ask>) {
        if self.can_do.is_empty() || random.chance(1) {
            return (0..=random.below(3)).for_each(|_| self.register(random, world, asks));
        }
        match self.temper {
            Temper::Silent if !self.asleep || random.chance(5) => asks.push(self.pre_sleep()),
            Temper::Silent => {}
            Temper::Orderly => self.work_orderly(random, asks),
            Temper::Wild => self.work_wildly(random, world, asks),
        }
    }

    fn register(&mut self, random: &mut Random, world: &Surroundings<'_>, asks: &mut Vec<Ask>) {
        let function = some_function(random, world);
        asks.push(if random.chance(30) {
            Ask::CanDoTimeout { function, timeout_ms: random.pick(&[-1, 0, 10, 1000, 1500, 4000]) }
        } else {
            Ask::CanDo { function }
        });
        self.can_do.push(function);
        if world.registering_may_fail {
            self.last_echo += 1;
            asks.push(Ask::Echo(self.last_echo.to_be_bytes().to_vec()));
        }
    }

    fn work_orderly(&mut self, random: &mut Random, asks: &mut Vec<Ask>) {
        if self.pending.contains(&Pending::Grab) || asks.iter().any(|ask| matches!(ask, Ask::Grab(_))) {
            return;
        }
        if let Some(job) = self.held.first().copied() {
            let is_over = random.chance(60);
            asks.push(self.say(random, job, is_over));
            if is_over {
                asks.push(self.grab(random));
            }
        } else if self.woken || (!self.asleep && random.chance(30)) {
            asks.push(self.grab(random));
        } else if !self.asleep {
            asks.push(self.pre_sleep());
        } else if random.chance(1) {
            asks.push(Ask::ResetAbilities);
            self.can_do.clear();
        }
    }

    fn work_wildly(&mut self, random: &mut Random, world: &Surroundings<'_>, asks: &mut Vec<Ask>) {
        match random.below(40) {
            0..3 => self.register(random, world, asks),
            3 => {
                let function = some_function(random, world);
                self.can_do.retain(|other| *other != function);
                asks.push(Ask::CantDo { function });
            }
            4 if random.chance(30) => {
                self.can_do.clear();
                asks.push(Ask::ResetAbilities);
            }
            4..9 => asks.push(self.pre_sleep()),
            9..20 => asks.push(self.grab(random)),
            20..23 => {
                let handle = some_handle(random, world);
                let is_over = random.chance(60);
                asks.push(say(random, handle, is_over));
            }
            23 => asks.push(wrong(random)),
            _ if !self.held.is_empty() => {
                let job = random.pick(&self.held);
                let is_over = random.chance(50);
                asks.push(self.say(random, job, is_over));
                if is_over && random.chance(10) {
                    asks.push(say(random, wire::handle(job), true));
                }
            }
            _ => asks.push(if self.asleep && !self.woken { some_name(random) } else { self.grab(random) }),
        }
    }

    fn grab(&mut self, random: &mut Random) -> Ask {
        (self.woken, self.asleep) = (false, false);
        Ask::Grab(random.pick(&[Grab::Plain, Grab::Unique, Grab::All]))
    }

    fn pre_sleep(&mut self) -> Ask {
        (self.woken, self.asleep) = (false, true);
        Ask::PreSleep
    }

    fn say(&mut self, random: &mut Random, job: u64, is_over: bool) -> Ask {
        if is_over {
            self.held.retain(|other| *other != job);
        }
        say(random, wire::handle(job), is_over)
    }

    /// Remembers what is to be answered of what it sends.
    pub(crate) fn sent(&mut self, asks: Vec<Ask>) -> Vec<Ask> {
        for (index, ask) in asks.iter().enumerate() {
            let pending = match ask {
                Ask::CanDo { .. } | Ask::CanDoTimeout { .. } if matches!(asks.get(index + 1), Some(Ask::Echo(_))) => {
                    Pending::CanDo
                }
                Ask::Submit(submission) => Pending::Submit { background: submission.background },
                Ask::Grab(_) => Pending::Grab,
                Ask::GetStatus { handle } => Pending::Status(handle.clone()),
                Ask::GetStatusUnique { unique } => Pending::StatusUnique(unique),
                Ask::Echo(workload) => Pending::Echo(workload.clone()),
                Ask::Option(name) if *name != b"nonsense" => Pending::Option,
                _ => continue,
            };
            self.pending.push_back(pending);
        }
        asks
    }

    /// Something arrived.
    ///
    /// # Panics
    /// If it is not what it has a right to: answers out of order, news of jobs that it did not submit, too
    /// many ends.
    pub(crate) fn hear(&mut self, reply: &Reply) {
        match reply {
            Reply::Noop => {
                assert_ne!(self.role, Role::Client, "one who never sleeps was woken");
                self.woken = true;
            }
            Reply::JobCreated(job) => match self.answered() {
                Pending::Submit { background: true } => self.acknowledged.push(*job),
                Pending::Submit { background: false } => *self.owed.entry(*job).or_default() += 1,
                other => panic!("JOB_CREATED in answer to {other:?}"),
            },
            Reply::NoJob => {
                assert_eq!(self.answered(), Pending::Grab);
                if self.temper == Temper::Orderly {
                    self.asleep = false;
                }
            }
            Reply::Assign(assign) => {
                assert_eq!(self.answered(), Pending::Grab);
                self.held.push(assign.job);
            }
            Reply::Status { handle, .. } => assert_eq!(self.answered(), Pending::Status(handle.clone())),
            Reply::StatusUnique { unique, .. } => match self.answered() {
                Pending::StatusUnique(asked) => assert_eq!(asked, unique),
                other => panic!("STATUS_RES_UNIQUE in answer to {other:?}"),
            },
            Reply::Echo(workload) => assert_eq!(self.answered(), Pending::Echo(workload.clone())),
            Reply::Option(_) => assert_eq!(self.answered(), Pending::Option),
            Reply::Error { code, .. } => {
                // The others answer requests of which nothing is kept.
                if code == "QUEUE_ERROR" || code == "SHUTDOWN_GRACEFUL" {
                    let refused = self.pending.pop_front();
                    assert!(matches!(refused, Some(Pending::CanDo | Pending::Submit { .. })), "{code} for {refused:?}");
                }
            }
            news => {
                let job = news.ends().or(news.tells_of()).unwrap();
                let owed = self.owed.get_mut(&job);
                let owed = owed.unwrap_or_else(|| panic!("{news:?} reached one who does not wait for it"));
                if news.ends().is_some() {
                    *owed -= 1;
                }
                if *owed == 0 {
                    self.owed.remove(&job);
                }
            }
        }
    }

    /// The request that an answer answers: the oldest one that must be answered.
    fn answered(&mut self) -> Pending {
        while self.pending.front() == Some(&Pending::CanDo) {
            self.pending.pop_front();
        }
        self.pending.pop_front().expect("an answer to nothing")
    }

    /// Whether it is through with everything: no answer outstanding, nothing owed.
    pub(crate) fn is_content(&self) -> bool {
        self.owed.is_empty() && self.pending.iter().all(|pending| *pending == Pending::CanDo)
    }
}

fn some_name(random: &mut Random) -> Ask {
    Ask::SetClientId { id: random.pick(&CLIENTS) }
}

fn some_function(random: &mut Random, world: &Surroundings<'_>) -> usize {
    let often_used = if random.chance(80) { world.functions.min(4) } else { world.functions };
    random.index(often_used)
}

fn submission(random: &mut Random, world: &Surroundings<'_>) -> Submission {
    let function = some_function(random, world);
    let unique = random.pick(&UNIQUES);
    let workload = match random.below(10) {
        0 => Vec::new(),
        1..4 => b"same".to_vec(),
        4 if random.chance(3) => vec![b'L'; 9000],
        4 => vec![b'\n'; 700],
        _ => random.next().to_be_bytes().to_vec(),
    };
    let (mut reducer, mut epoch_s) = (None, None);
    let (mut priority, mut background) = (random.index(3), random.chance(50));
    match random.below(10) {
        0 => {
            (priority, reducer) = (1, Some(random.pick(&[&b""[..], b"sum"])));
        }
        1 | 2 => {
            let soon_s = world.unix_s + random.pick(&[1, 1, 2, 3, 5, 20]);
            (priority, background) = (1, true);
            epoch_s = Some(random.pick(&[soon_s, soon_s, soon_s, world.unix_s, 0, -7]));
        }
        _ => {}
    }
    Submission { function, unique, reducer, priority, background, epoch_s, workload }
}

/// A handle that was given out of late, or one that never was.
pub(crate) fn some_handle(random: &mut Random, world: &Surroundings<'_>) -> Vec<u8> {
    if let Some(last) = world.recent.last()
        && random.chance(10)
    {
        // Of a job that is not known yet, or has another handle.
        let (number, prefix) = (wire::number(*last), wire::prefix(*last));
        return wire::handle(match random.below(4) {
            0 => wire::name(number, (prefix + 1) % wire::PREFIXES.len()),
            ahead => wire::name(number + ahead, prefix),
        });
    }
    if world.recent.is_empty() || random.chance(10) {
        let strange: [&[u8]; 6] =
            [b"", b"H:sim:0", b"H:sim:", b"H:other:1", b"H:sim:01", b"H:sim:99999999999999999999"];
        return random.pick(&strange).to_vec();
    }
    wire::handle(random.pick(world.recent))
}

fn say(random: &mut Random, handle: Vec<u8>, is_over: bool) -> Ask {
    let mut workload = random.next().to_be_bytes()[random.index(9)..].to_vec();
    if random.chance(1) {
        // So much that it is passed on by reference.
        workload.resize(9000, b'R');
    }
    match (is_over, random.below(3)) {
        (true, 0) => Ask::WorkComplete { handle, workload },
        (true, 1) => Ask::WorkFail { handle },
        (true, _) => Ask::WorkException { handle, workload },
        (false, 0) => Ask::WorkData { handle, workload },
        (false, 1) => Ask::WorkWarning { handle, workload },
        (false, _) => {
            let numbers = ["0", "1", "33.3", "-1", "99999999999", "", " 3", "half"];
            Ask::WorkStatus { handle, numerator: random.pick(&numbers), denominator: random.pick(&numbers) }
        }
    }
}

fn wrong(random: &mut Random) -> Ask {
    let (number, body, code) = random.pick(&[
        (5, &b""[..], "INVALID_COMMAND"),
        (6, b"", "INVALID_COMMAND"),
        (0x8000_0001, b"x\0y", "INVALID_COMMAND"),
        (7, b"reverse\0u1", "INVALID_PACKET"),
        (18, b"reverse", "INVALID_PACKET"),
        // Not registered, and not answered.
        (23, b"reverse\099999999999999999999", ""),
        (1, &[b'f'; 513], ""),
        (36, b"reverse\0u1\099999999999999999999\0x", "INVALID_ARGUMENT"),
        (41, &[b'u'; 65], "ARGUMENT_TOO_LARGE"),
        (14, &[b'h'; 64], "ARGUMENT_TOO_LARGE"),
    ]);
    Ask::Wrong { number, body, code }
}
