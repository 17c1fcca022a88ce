//! Very many clients wait for one job: they are told in pieces, and others act between these.

use std::collections::BTreeMap;
use std::sync::Arc;

use gearmand::job_server::{
    ConnectionEnd, ConnectionId, DisconnectProgress, Effects, Event, JobServer, Now, Policy, StoreOp,
};
use gearmand::protocol::{GrabKind, JobHandle, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

use super::random::Random;

const NOW: Now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };

/// What a connection was told of a job.
#[derive(Debug, Default)]
struct Told {
    created: usize,
    /// Numbers of the data packets.
    data: Vec<u64>,
    ended: usize,
}

#[derive(Default)]
struct Ears {
    told: BTreeMap<(u32, u64), Told>,
    assigned: Option<u64>,
}

impl Effects for Ears {
    fn send(&mut self, to: ConnectionId, response: Response<'_>) {
        let mut told = |handle: JobHandle<'_>| {
            let told = self.told.entry((to.generation, handle.number)).or_default();
            assert!(told.ended < told.created || told.created == 0, "one was told of a job that has ended for it");
            std::mem::take(told)
        };
        let (number, told) = match response {
            Response::JobCreated { handle } => {
                let told = self.told.entry((to.generation, handle.number)).or_default();
                told.created += 1;
                return;
            }
            Response::WorkData { handle, workload } => {
                let mut told = told(handle);
                told.data.push(std::str::from_utf8(workload.as_bytes()).unwrap().parse().unwrap());
                (handle.number, told)
            }
            Response::WorkComplete { handle, .. } | Response::WorkFail { handle } => {
                let mut told = told(handle);
                told.ended += 1;
                (handle.number, told)
            }
            Response::JobAssign { handle, .. } => {
                self.assigned = Some(handle.number);
                return;
            }
            _ => return,
        };
        self.told.insert((to.generation, number), told);
    }

    fn hold(&mut self, _: ConnectionId, _: usize) {
        unreachable!("there is no store to wait for");
    }

    fn fill(&mut self, _: ConnectionId, _: u64, _: Response<'_>) {
        unreachable!("there is no store to wait for");
    }

    fn store(&mut self, operation: StoreOp) {
        unreachable!("there is no store for {operation:?}");
    }

    fn report(&mut self, _: Event<'_>) {}
}

struct World {
    random: Random,
    server: JobServer,
    ears: Ears,
    clients: Vec<ConnectionId>,
    worker: ConnectionId,
    /// What the worker has sent and the server has not done yet.
    sent: Option<(u64, u64, bool)>,
    held: Option<u64>,
    data: u64,
    /// Jobs whose result was accepted.
    done: Vec<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let turn_budget = random.pick(&[1, 20, 60, 200]);
        let mut server = JobServer::new(Policy { turn_budget, ..Policy::default() }, Arc::new(Stats::default()));
        let clients = (0..12).map(|_| connect(&mut server)).collect();
        let worker = connect(&mut server);
        let (sent, held, data, done) = (None, None, 0, Vec::new());
        let mut world = Self { random, server, ears: Ears::default(), clients, worker, sent, held, data, done };
        world.ask(world.worker, &Request::CanDo { function: b"f", timeout_ms: None });
        world
    }

    /// The server checks its invariants by itself, while there are few waits.
    fn ask(&mut self, who: ConnectionId, request: &Request<'_>) -> bool {
        self.server.start_turn();
        self.server.request(NOW, who, request, &mut self.ears)
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..50 => {
                let client = self.random.pick(&self.clients);
                self.submit(client);
            }
            50..80 => self.work(),
            80..90 => {
                self.server.timeout(NOW, &mut self.ears);
            }
            90..95 => {
                let index = self.random.index(self.clients.len());
                let gone = std::mem::replace(&mut self.clients[index], connect(&mut self.server));
                self.leave(gone);
                self.ears.told.retain(|(client, _), _| *client != gone.generation);
            }
            95..98 => {
                let gone = std::mem::replace(&mut self.worker, connect(&mut self.server));
                self.leave(gone);
                (self.sent, self.held) = (None, None);
                self.ask(self.worker, &Request::CanDo { function: b"f", timeout_ms: None });
            }
            _ => {
                let Some(held) = self.held.filter(|_| self.random.chance(30)) else { return };
                self.server.start_turn();
                self.server.cancel_job(NOW, handle(held).as_bytes(), &mut self.ears);
            }
        }
    }

    fn submit(&mut self, client: ConnectionId) {
        let submission = Submission {
            function: b"f",
            unique: b"one",
            reducer: b"",
            priority: Priority::Normal,
            background: false,
            due_s: None,
            workload: Workload::borrowed(b""),
        };
        self.ask(client, &Request::Submit(submission));
    }

    /// The worker goes on with what it has sent, or sends something else.
    fn work(&mut self) {
        let Some((job, data, is_last)) = self.sent.or_else(|| self.next_to_say()) else { return };
        let (name, payload) = (handle(job), data.to_string());
        let workload = Workload::borrowed(payload.as_bytes());
        let request = if is_last {
            self.done.push(job);
            Request::WorkComplete { handle: name.as_bytes(), workload }
        } else {
            Request::WorkData { handle: name.as_bytes(), workload }
        };
        let is_all = self.ask(self.worker, &request);
        self.sent = (!is_all).then_some((job, data, is_last));
        if is_all && is_last {
            self.held = None;
        }
    }

    fn next_to_say(&mut self) -> Option<(u64, u64, bool)> {
        if self.held.is_none() {
            self.ears.assigned = None;
            assert!(self.ask(self.worker, &Request::GrabJob(GrabKind::Plain)));
            self.held = self.ears.assigned;
            assert!(self.held.is_none_or(|job| !self.done.contains(&job)), "a job that was done is run again");
        }
        self.data += 1;
        Some((self.held?, self.data, self.random.chance(20)))
    }

    fn leave(&mut self, who: ConnectionId) {
        let end = ConnectionEnd { wants_answers: self.random.chance(50), missed_last: false };
        loop {
            self.server.start_turn();
            if self.server.disconnect(NOW, who, end, &mut self.ears) == DisconnectProgress::Done {
                break;
            }
            self.server.check_invariants();
        }
    }

    /// Everything that was begun comes to its end, and every submission has had its one final packet.
    fn wind_up(&mut self) {
        for turns in 0.. {
            assert!(turns < 100_000, "it does not end");
            self.server.timeout(NOW, &mut self.ears);
            self.work();
            if self.server.job_count() == 0 {
                break;
            }
        }
        for ((client, job), Told { created, data, ended }) in &self.ears.told {
            assert_eq!(created, ended, "submissions of job {job} by {client}, and their ends");
            assert!(*created > 1 || data.is_sorted(), "{client} was told of job {job} in another order: {data:?}");
        }
    }
}

fn connect(server: &mut JobServer) -> ConnectionId {
    server.connect(Arc::new(ConnectionGauges::new(0, String::new())))
}

fn handle(number: u64) -> String {
    JobHandle { prefix: "H:localhost", number }.to_string()
}

#[test]
fn every_submission_has_its_one_end_whoever_comes_and_goes_meanwhile() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.act();
            world.server.check_invariants();
        }
        world.wind_up();
    }
}

/// 1,000 waits of each client are told in many holds, none of which is long.
#[test]
fn very_many_are_told_in_pieces_of_one_copy() {
    let mut world = World::new(0);
    world.server.set_policy(NOW, &Policy::default(), &mut world.ears);
    for client in world.clients.clone() {
        (0..1_100).for_each(|_| world.submit(client));
    }
    let created: usize = world.ears.told.values().map(|told| told.created).sum();
    assert_eq!(created, 12_000, "submissions beyond the limit of one connection and job");
    let (job, ..) = world.next_to_say().unwrap();
    let name = handle(job);
    let request = Request::WorkComplete { handle: name.as_bytes(), workload: Workload::borrowed(&[b'1'; 600]) };
    let mut turns = 1;
    while !world.ask(world.worker, &request) {
        assert!(world.server.spent() < 4096 + 100, "{}", world.server.spent());
        turns += 1;
    }
    assert!(turns > 10, "{turns} turns");
    assert!(world.ears.told.values().all(|told| told.ended == 1_000));
    assert_eq!(world.server.job_count(), 0);
}
