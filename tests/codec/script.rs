//! Scripts of sessions: what several peers do, step by step. A script follows from a seed, and running it
//! needs nothing else.

use std::fmt;

/// A seeded generator of random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, items: &[&'a [u8]]) -> &'a [u8] {
        items[self.below(items.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// One thing that happens.
#[derive(Clone)]
pub(crate) enum Step {
    /// A peer connects in place of the one that was there.
    Connect(usize),
    /// A peer sends this.
    Send(usize, Vec<u8>),
    /// A peer reads, and says something of one of the jobs that it was assigned: a packet of this type, of
    /// the job that was assigned so many before the last one.
    Work(usize, u32, usize),
    /// A peer reads so many bytes at most.
    Read(usize, usize),
    /// A peer closes its side and goes on reading.
    HalfClose(usize),
    /// A peer closes, whatever it has not read.
    Close(usize),
    /// The honest client beside them sends so many ECHO_REQs at once.
    Echo(usize),
    /// It submits a background job that nobody is to do.
    Keep,
}

/// A server's settings and what happens to it.
#[derive(Clone)]
pub(crate) struct Script {
    /// Whether background jobs are kept in SQLite.
    pub(crate) has_store: bool,
    /// Whether text commands that change something are refused; then no kept job may vanish.
    pub(crate) is_read_only: bool,
    /// Bytes that may wait for a slow reader.
    pub(crate) output: usize,
    /// The largest packet.
    pub(crate) packet: usize,
    pub(crate) steps: Vec<Step>,
}

/// How many peers there are beside the honest one.
pub(crate) const PEERS: usize = 5;
/// The function of jobs that nobody does. No peer names it but by chance.
pub(crate) const KEPT: &[u8] = b"kept-apart";
/// How job handles begin.
pub(crate) const PREFIX: &str = "H:fuzz";
/// Pieces in which a peer's bytes are sent, in all of a script.
const SENDS: usize = 60;

impl fmt::Debug for Script {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { has_store, is_read_only, output, packet, steps } = self;
        writeln!(formatter, "store {has_store}, read only {is_read_only}, output {output}, packet {packet}")?;
        for step in steps {
            match step {
                Step::Connect(peer) => writeln!(formatter, "{peer} connects")?,
                Step::Send(peer, bytes) => {
                    writeln!(formatter, "{peer} sends {} bytes: {}", bytes.len(), bytes.escape_ascii())?;
                }
                Step::Work(peer, kind, back) => {
                    writeln!(formatter, "{peer} sends type {kind} for the last job but {back}")?;
                }
                Step::Read(peer, most) => writeln!(formatter, "{peer} reads {most}")?,
                Step::HalfClose(peer) => writeln!(formatter, "{peer} closes its side")?,
                Step::Close(peer) => writeln!(formatter, "{peer} closes")?,
                Step::Echo(count) => writeln!(formatter, "the honest client sends {count} echoes")?,
                Step::Keep => writeln!(formatter, "the honest client submits a job")?,
            }
        }
        Ok(())
    }
}

/// What a peer mostly does.
#[derive(Clone, Copy)]
enum Bent {
    Client,
    Worker,
    Operator,
    Garbage,
}

/// One peer while a script is made.
struct Author {
    bent: Bent,
    /// Written and not sent yet.
    unsent: Vec<u8>,
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut script = Self {
            // A transaction takes longer than all else in a script.
            has_store: random.chance(10),
            is_read_only: random.chance(50),
            output: [8 * 1024, 128 * 1024, 64 << 20][random.below(3)],
            packet: [300_000, 64 << 20][random.below(2)],
            steps: Vec::new(),
        };
        let mut jobs = 1;
        let mut authors: Vec<Author> = (0..PEERS).map(|_| Author::new(&mut random)).collect();
        script.steps.extend((0..PEERS).map(Step::Connect));
        let mut sends = 0;
        while sends < SENDS {
            let peer = random.below(PEERS);
            match random.below(100) {
                // Not within a packet.
                0..40 if matches!(authors[peer].bent, Bent::Worker) && authors[peer].unsent.is_empty() => {
                    sends += 1;
                    let kind = [12, 28, 29, 13, 13, 14, 25][random.below(7)];
                    script.steps.push(Step::Work(peer, kind, random.below(3)));
                }
                0..70 => {
                    sends += 1;
                    let bytes = authors[peer].next_piece(&mut random, &mut jobs);
                    script.steps.push(Step::Send(peer, bytes));
                }
                70..82 => script.steps.push(Step::Read(peer, [1, 100, 5000, 1 << 20][random.below(4)])),
                82..85 => script.steps.push(Step::HalfClose(peer)),
                85..88 => script.steps.push(Step::Close(peer)),
                88..92 => {
                    authors[peer] = Author::new(&mut random);
                    script.steps.push(Step::Connect(peer));
                }
                92..97 => script.steps.push(Step::Echo(1 + random.below(4))),
                _ => {
                    jobs += 1;
                    script.steps.push(Step::Keep);
                }
            }
        }
        script
    }
}

impl Author {
    fn new(random: &mut Random) -> Self {
        let (bent, unsent) = match random.below(10) {
            0..4 => (Bent::Client, if random.chance(50) { packet(26, b"exceptions") } else { Vec::new() }),
            4..8 => (Bent::Worker, [packet(1, b"f"), packet(1, b"g")].concat()),
            8 => (Bent::Operator, Vec::new()),
            _ => (Bent::Garbage, Vec::new()),
        };
        Self { bent, unsent }
    }

    /// What is sent next: some frames, cut anywhere.
    fn next_piece(&mut self, random: &mut Random, jobs: &mut usize) -> Vec<u8> {
        let most = if random.chance(5) { 60 } else { 6 };
        for _ in 0..=random.below(most) {
            let frame = match self.bent {
                _ if random.chance(3) => garbage(random),
                Bent::Worker => worker(random, *jobs),
                Bent::Operator if random.chance(80) => operator(random, *jobs),
                Bent::Client | Bent::Operator => client(random, jobs),
                Bent::Garbage => garbage(random),
            };
            self.unsent.extend(frame);
        }
        let cut = if random.chance(60) { self.unsent.len() } else { random.below(self.unsent.len() + 1) };
        self.unsent.drain(..cut).collect()
    }
}

const FUNCTIONS: &[&[u8]] =
    &[b"f", b"f", b"f", b"f", b"f", b"f", b"g", b"", b"\n.", b"\x1b[2J", b"a b", &[b'n'; 512], &[b'n'; 513]];
const UNIQUES: &[&[u8]] = &[b"", b"", b"u1", b"u2", b"-", &[b'u'; 64], &[b'u'; 65]];
const NUMBERS: &[&[u8]] = &[b"0", b"1", b"2", b"1000", b"-1", b"99999999999999999999", b"4102444800", b"x", b""];

fn packet(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [b"\0REQ", &kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

/// A packet whose arguments are mostly as many as there should be.
fn request(random: &mut Random, kind: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut arguments = arguments.to_vec();
    if random.chance(3) {
        match random.below(3) {
            0 => drop(arguments.pop()),
            1 => arguments.push(b"more"),
            _ => arguments.reverse(),
        }
    }
    packet(kind, &arguments.join(&0))
}

fn handle(random: &mut Random, jobs: usize) -> Vec<u8> {
    match random.below(20) {
        0 => b"".to_vec(),
        1 => vec![b'h'; 63 + random.below(3)],
        2 => b"H:elsewhere:1".to_vec(),
        3 => format!("{PREFIX}:99999999999999999999999").into_bytes(),
        _ => format!("{PREFIX}:{}", 1 + random.below(jobs + 1)).into_bytes(),
    }
}

fn workload(random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0 => vec![b'w'; 40_000],
        1 => vec![b'w'; 150_000],
        2 => vec![b'w'; 8_000],
        _ => random.bytes(30),
    }
}

fn client(random: &mut Random, jobs: &mut usize) -> Vec<u8> {
    let (function, unique, workload) = (random.pick(FUNCTIONS), random.pick(UNIQUES), workload(random));
    let number = random.pick(NUMBERS);
    match random.below(20) {
        0..11 => {
            *jobs += 1;
            // SUBMIT_JOB and those of other priorities, _BG and _EPOCH, and reduce jobs.
            let kind = [7, 7, 7, 21, 33, 18, 18, 32, 34, 36, 37, 38][random.below(12)];
            match kind {
                36 => request(random, kind, &[function, unique, number, &workload]),
                37 | 38 => request(random, kind, &[function, unique, b"reducer", b"0", &workload]),
                _ => request(random, kind, &[function, unique, &workload]),
            }
        }
        11 | 12 => {
            let handle = handle(random, *jobs);
            request(random, 15, &[&handle])
        }
        13 => request(random, 41, &[unique]),
        14 | 15 => request(random, 16, &[&workload]),
        16 => {
            let option = random.pick(&[b"exceptions", b"exceptions", b"exceptions", b"not-begun", &[b'o'; 64]]);
            request(random, 26, &[option])
        }
        17 => request(random, 22, &[b"me"]),
        18 => request(random, 35, &[function, unique, number, number, number, number, number, &workload]),
        _ => b"status\n".to_vec(),
    }
}

fn worker(random: &mut Random, jobs: usize) -> Vec<u8> {
    let (function, number) = (random.pick(FUNCTIONS), random.pick(NUMBERS));
    let (handle, workload) = (handle(random, jobs), workload(random));
    match random.below(24) {
        0..4 => request(random, 1, &[function]),
        4 => request(random, 23, &[function, number]),
        5 => request(random, 2, &[function]),
        6 if random.chance(30) => request(random, 3, &[]),
        6..8 => request(random, 4, &[]),
        8..14 => {
            let kind = [9, 30, 39][random.below(3)];
            request(random, kind, &[])
        }
        14..17 => request(random, 13, &[&handle, &workload]),
        17 => request(random, 14, &[&handle]),
        18 => request(random, 25, &[&handle, &workload]),
        19 => request(random, 28, &[&handle, &workload]),
        20 => request(random, 29, &[&handle, &workload]),
        21 => request(random, 12, &[&handle, number, b"100"]),
        22 => request(random, 24, &[]),
        _ => {
            let id = random.pick(&[b"worker", &[b'i'; 200]]);
            request(random, 22, &[id])
        }
    }
}

fn operator(random: &mut Random, jobs: usize) -> Vec<u8> {
    let handle = handle(random, jobs).escape_ascii().to_string();
    let function = random.pick(&[b"f", b"g", b"new", b"no such", b"\\x00"]).escape_ascii().to_string();
    let number = random.pick(NUMBERS).escape_ascii().to_string();
    let command = match random.below(34) {
        0 => "status".to_owned(),
        1 => "workers".to_owned(),
        2 => "prioritystatus".to_owned(),
        3 => "show jobs".to_owned(),
        4 => "show unique jobs".to_owned(),
        5 => "show functions".to_owned(),
        6 => "show workers".to_owned(),
        7 => "show server".to_owned(),
        8 => "show rules".to_owned(),
        9 => "show store".to_owned(),
        10 => format!("show job {handle}"),
        11 => format!("show worker {}-{}", random.below(8), random.below(20)),
        12 => format!("list jobs function={function}"),
        13 => "list jobs".to_owned(),
        14 => format!("list jobs limit={number} state=queued"),
        15 => format!("cancel job {handle}"),
        16 => format!("cancel jobs {function}"),
        17 => format!("create function {function}"),
        18 => format!("drop function {function}"),
        19 => format!("maxqueue {function} {number} {number}"),
        20 => format!("pause {function}"),
        21 => format!("resume {function}"),
        22 => format!("limit running {function} {number}"),
        23 => format!("move jobs {function} new"),
        24 => format!("{} host:{} {function}", ["disable", "drain", "enable"][random.below(3)], random.below(PEERS)),
        25 => format!("move job {handle} {function}"),
        // The honest client is the first connection.
        26 => format!("kick connection:{}-{}", 1 + random.below(8), random.below(20)),
        27 => format!("{} job {handle}{}", ["priority", "run"][random.below(2)], ["", " high"][random.below(2)]),
        28 => "version".to_owned(),
        29 => "getpid".to_owned(),
        30 => "verbose".to_owned(),
        31 => "shutdown graceful".to_owned(),
        32 => format!("show jobs {}", "x".repeat(random.below(3000))),
        _ => "a b c d e f g h".to_owned(),
    };
    format!("{command}{}", ["\n", "\r\n", " \n"][random.below(3)]).into_bytes()
}

fn garbage(random: &mut Random) -> Vec<u8> {
    match random.below(9) {
        0 => random.bytes(200),
        1 => packet(u32::try_from(random.below(60)).unwrap(), &random.bytes(100)),
        2 => [b"\0RES", &packet(7, b"f\0\0x")[4..]].concat(),
        // A length that is a lie.
        3 => [b"\0REQ\0\0\0\x07", &[0xFF; 4][..], b"f\0u\0"].concat(),
        4 => [b"\0REQ\0\0\0\x12\0\x03\0\0".to_vec(), b"f\0u\0".to_vec(), vec![b'w'; random.below(150_000)]].concat(),
        5 => vec![[b'\n', 0, b' ', b'A'][random.below(4)]; random.below(9000)],
        6 => b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        7 => packet(16, &random.bytes(10)).repeat(1 + random.below(300)),
        _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03status\n".to_vec(),
    }
}
