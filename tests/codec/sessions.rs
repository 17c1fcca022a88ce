//! Whole sessions in this process: several peers who send anything at any time, cut anywhere, and close or
//! read as they like, beside an honest client; with the server's own tasks, hub and, in some, its SQLite
//! store.
//!
//! Whatever happens: nothing panics (a debug build checks the job server's invariants after each transition),
//! the honest client's ECHO_REQs are answered in order, what the server sends is well-formed, a peer that
//! closes its side and reads comes to the end, and when all have gone no connection, wait, foreground job or
//! byte of a workload is left, while no job is lost that nobody ended.
//!
//! `GEARMAND_SESSION_SEEDS` (150) says how many seeds are run and `GEARMAND_SESSION_FIRST` (0) with which it
//! begins; `GEARMAND_SESSION_SEED` runs one alone. A failure prints its seed and a script that was made as
//! short as it still fails.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gearmand::protocol::packet::{FrameLimits, HEADER_SIZE, Header, Magic, PacketType, Scan, scan};

use crate::script::{KEPT, PEERS, Script, Step};
use crate::stage::{Peer, Stage};

/// A script takes milliseconds: one that takes this long hangs in a turn, which nothing in this process can
/// end.
const HANGS: Duration = Duration::from_mins(5);
/// How long a failing script is made shorter.
const SHORTENING: Duration = Duration::from_mins(1);

/// How often a packet of each type was received, and how many lines (0).
type Seen = BTreeMap<u32, u64>;

#[test]
fn sessions_of_any_peers_leave_the_server_as_it_was() {
    let watchdog = Watchdog::start();
    let mut seen = Seen::new();
    if let Some(seed) = setting("GEARMAND_SESSION_SEED") {
        return check(seed, &watchdog, &mut seen);
    }
    let (first, count) =
        (setting("GEARMAND_SESSION_FIRST").unwrap_or(0), setting("GEARMAND_SESSION_SEEDS").unwrap_or(150));
    (first..first + count).for_each(|seed| check(seed, &watchdog, &mut seen));
    eprintln!("{count} seeds: {seen:?}");
    for kind in PacketType::ALL.iter().filter(|kind| count >= 100 && arguments_of(**kind).is_some()) {
        assert!(seen.contains_key(&kind.number()), "the sessions are too tame: nobody has received a {kind:?}");
    }
}

#[test]
fn a_panic_is_a_failure_and_its_script_is_made_as_short_as_can_be() {
    let mut script = Script::new(1);
    // There is no such peer.
    script.steps.insert(20, Step::HalfClose(PEERS));
    let fails = |script: &Script| run(script, &mut Seen::new()).err();
    let why = fails(&script).unwrap();
    assert!(why.contains("out of bounds"), "{why}");
    let short = shortened(script, &why, fails);
    assert!(matches!(short.steps[..], [Step::HalfClose(PEERS)]), "{short:?}");
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn check(seed: u64, watchdog: &Watchdog, types: &mut Seen) {
    let script = Script::new(seed);
    watchdog.now_runs(seed, &script);
    if let Err(why) = run(&script, types) {
        eprintln!("GEARMAND_SESSION_SEED={seed} failed: {why}");
        let short = shortened(script, &why, |script| {
            watchdog.now_runs(seed, script);
            run(script, &mut Seen::new()).err()
        });
        panic!("GEARMAND_SESSION_SEED={seed} failed; this is enough of it:\n{short:?}");
    }
}

/// Leaves out steps as long as the script fails, in ever smaller pieces.
fn shortened(mut script: Script, why: &str, fails: impl Fn(&Script) -> Option<String>) -> Script {
    let (mut piece, begun, mut why) = (script.steps.len() / 2, Instant::now(), why.to_owned());
    while piece > 0 {
        let mut at = 0;
        while at < script.steps.len() && begun.elapsed() < SHORTENING {
            let mut shorter = script.clone();
            shorter.steps.drain(at..script.steps.len().min(at + piece));
            match fails(&shorter) {
                Some(reason) => (script, why) = (shorter, reason),
                None => at += piece,
            }
        }
        piece /= 2;
    }
    eprintln!("the shortest script fails so: {why}");
    script
}

/// Runs a script; why it failed, if it did.
fn run(script: &Script, seen: &mut Seen) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(script, seen));
    }))
    .map_err(|failure| match (failure.downcast_ref::<String>(), failure.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "a panic without words".to_owned(),
    })
}

/// The client whose requests must be answered whatever the others do.
struct Honest {
    peer: Peer,
    /// How many ECHO_REQs it has sent.
    sent: u64,
    /// How many jobs were acknowledged.
    kept: usize,
    /// What must come, in order: the number of an echo, or `None` for a JOB_CREATED or its refusal.
    due: VecDeque<Option<u64>>,
}

async fn play(script: &Script, seen: &mut Seen) {
    let mut stage = Stage::new(script);
    let mut honest = Honest { peer: stage.connect("honest"), sent: 0, kept: 0, due: VecDeque::default() };
    honest.settles(&mut stage).await;
    let mut peers: Vec<Option<Peer>> = (0..PEERS).map(|_| None).collect();
    for step in &script.steps {
        for peer in peers.iter_mut().flatten() {
            peer.send(b"");
        }
        if let Step::Connect(who) | Step::Close(who) = step
            && let Some(peer) = peers[*who].take()
        {
            check_form(&peer.received, seen);
        }
        match step {
            Step::Connect(who) => peers[*who] = Some(stage.connect(&who.to_string())),
            Step::Send(who, bytes) => peers[*who].as_mut().into_iter().for_each(|peer| peer.send(bytes)),
            Step::Work(who, kind, back) => peers[*who].as_mut().into_iter().for_each(|peer| work(peer, *kind, *back)),
            Step::Read(who, most) => peers[*who].as_mut().into_iter().for_each(|peer| peer.read(*most)),
            Step::HalfClose(who) => peers[*who].as_mut().into_iter().for_each(Peer::half_close),
            // It is gone already.
            Step::Close(_) => {}
            Step::Echo(count) => (1..*count).for_each(|_| honest.echo()),
            Step::Keep => honest.keep(),
        }
        honest.settles(&mut stage).await;
    }
    for peer in peers.into_iter().flatten() {
        come_to_an_end(&mut stage, peer, seen).await;
    }
    honest.settles(&mut stage).await;
    if script.is_read_only {
        assert_eq!(stage.jobs_of(KEPT), honest.kept, "jobs that were acknowledged and that nobody has ended");
    }
    drop(honest);
    stage.finish().await;
}

/// Sends a packet of this type of a job that the peer was assigned, if it was.
fn work(peer: &mut Peer, kind: u32, back: usize) {
    peer.read(usize::MAX);
    let mut handles = Vec::new();
    each_frame(&peer.received, |header, body| {
        if let Some(11 | 31 | 40) = header.map(|header| header.number) {
            handles.push(body.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
        }
    });
    if let Some(handle) = handles.iter().rev().nth(back) {
        let rest: &[u8] = match kind {
            12 => b"\x001\x002",
            14 => b"",
            _ => b"\0what came of it",
        };
        peer.send(&packet(*b"\0REQ", kind, &[handle, rest].concat()));
    }
}

/// Says all that is left to say, closes its side, and must then read the end.
async fn come_to_an_end(stage: &mut Stage, mut peer: Peer, seen: &mut Seen) {
    let mut is_half_closed = false;
    stage
        .until("the end of a connection whose peer has closed its side and reads", |_| {
            peer.send(b"");
            if peer.has_said_all() && !is_half_closed {
                peer.half_close();
                is_half_closed = true;
            }
            peer.read(usize::MAX);
            peer.has_ended
        })
        .await;
    check_form(&peer.received, seen);
}

/// Cuts what a server has sent into packets and lines. Of the last one the end may be missing: somebody has
/// closed.
fn each_frame(mut received: &[u8], mut see: impl FnMut(Option<Header>, &[u8])) {
    const LIMITS: FrameLimits = FrameLimits { packet: usize::MAX, line: usize::MAX };
    while !received.is_empty() {
        let size = match scan(received, &LIMITS) {
            Ok(Scan::Packet { header, body }) => {
                see(Some(header), body);
                header.packet_size()
            }
            Ok(Scan::Line { line, size }) => {
                see(None, line);
                size
            }
            Ok(_) => return,
            Err(error) => panic!("{error:?}: {}", received[..received.len().min(200)].escape_ascii()),
        };
        received = &received[size..];
    }
}

/// What a server sends consists of packets that are responses, and of lines.
fn check_form(received: &[u8], seen: &mut Seen) {
    each_frame(received, |header, body| {
        *seen.entry(header.map_or(0, |header| header.number)).or_default() += 1;
        if let Some(header) = header {
            let shown = body[..body.len().min(200)].escape_ascii();
            let kind = PacketType::from_number(header.number).filter(|_| header.magic == Magic::Response);
            let arguments = kind.and_then(arguments_of).unwrap_or_else(|| panic!("{header:?} is no response: {shown}"));
            let found = body.split(|byte| *byte == 0).count();
            assert!(found >= arguments, "{header:?} has {arguments} arguments: {shown}");
        }
    });
}

/// How many arguments a response has, the opaque one included; `None` for what is no response.
fn arguments_of(kind: PacketType) -> Option<usize> {
    Some(match kind {
        PacketType::Noop
        | PacketType::NoJob
        | PacketType::EchoRes
        | PacketType::JobCreated
        | PacketType::OptionRes
        | PacketType::WorkFail => 1,
        PacketType::Error
        | PacketType::WorkComplete
        | PacketType::WorkException
        | PacketType::WorkData
        | PacketType::WorkWarning => 2,
        PacketType::JobAssign | PacketType::WorkStatus => 3,
        PacketType::JobAssignUniq => 4,
        PacketType::StatusRes | PacketType::JobAssignAll => 5,
        PacketType::StatusResUnique => 6,
        _ => return None,
    })
}

fn packet(magic: [u8; 4], kind: u32, body: &[u8]) -> Vec<u8> {
    [&magic[..], &kind.to_be_bytes()[..], &u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

impl Honest {
    fn echo(&mut self) {
        self.sent += 1;
        self.peer.send(&packet(*b"\0REQ", 16, &self.sent.to_be_bytes()));
        self.due.push_back(Some(self.sent));
    }

    fn keep(&mut self) {
        self.peer.send(&packet(*b"\0REQ", 18, &[KEPT, b"\0\0kept"].concat()));
        self.due.push_back(None);
    }

    /// Sends one more ECHO_REQ and waits until everything is answered.
    async fn settles(&mut self, stage: &mut Stage) {
        self.echo();
        stage
            .until("the answers to an honest client", |_| {
                self.peer.send(b"");
                self.peer.read(usize::MAX);
                self.take_answers();
                assert!(!self.peer.has_ended, "the server has closed the connection of an honest client");
                self.due.is_empty()
            })
            .await;
    }

    fn take_answers(&mut self) {
        while let Some(length) = self.peer.received.get(8..HEADER_SIZE) {
            let size = HEADER_SIZE + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            let Some(answer) = self.peer.received.get(..size) else { return };
            let due = self.due.pop_front();
            let shown = answer.escape_ascii();
            match due {
                Some(Some(number)) => {
                    assert_eq!(
                        answer,
                        packet(*b"\0RES", 17, &number.to_be_bytes()),
                        "{shown} instead of echo {number}"
                    );
                }
                // Or there are as many jobs as there may be.
                Some(None) if answer.starts_with(b"\0RES\0\0\0\x08") => self.kept += 1,
                Some(None) => assert!(answer.starts_with(b"\0RES\0\0\0\x13"), "{shown} instead of JOB_CREATED"),
                None => panic!("{shown}, which was not asked for"),
            }
            self.peer.received.drain(..size);
        }
    }
}

/// Ends the process, with the script, when one does not end.
struct Watchdog(Arc<Mutex<(Instant, String)>>);

impl Watchdog {
    fn start() -> Self {
        let running = Arc::new(Mutex::new((Instant::now(), String::new())));
        let seen = Arc::downgrade(&running);
        std::thread::spawn(move || {
            while let Some(running) = seen.upgrade() {
                let (since, what) = running.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if since.elapsed() > HANGS {
                    eprintln!("a turn does not end: {what}");
                    std::process::abort();
                }
                drop(running);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        Self(running)
    }

    fn now_runs(&self, seed: u64, script: &Script) {
        let what = format!("GEARMAND_SESSION_SEED={seed}\n{script:?}");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), what);
    }
}
