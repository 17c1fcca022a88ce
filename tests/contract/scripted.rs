//! A job server that has one job, and writes down in which order a worker speaks: what a real one only shows
//! to whoever looks at the right moment.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::common::{packet, wait_for};

/// What it says of the one job.
pub(crate) const HANDLE: &[u8] = b"H:scripted:1";

/// What came from a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A packet: its type and its body.
    Packet(u32, Vec<u8>),
    /// The end of a connection that had registered these functions.
    End(Vec<Vec<u8>>),
}

/// The server. Its threads end with their connections, and with the test.
pub(crate) struct Scripted {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Scripted {
    /// Starts it with one job of this function, which the first worker gets that can do it and asks.
    pub(crate) fn with_job(function: &'static [u8], workload: &'static [u8]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let job = Arc::new(Mutex::new(Some((function, workload))));
        let shared = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (heard, job) = (Arc::clone(&shared), Arc::clone(&job));
                std::thread::spawn(move || serve(stream, &heard, &job));
            }
        });
        Self { address, heard }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Waits until it has heard this, and returns its place in the order.
    pub(crate) fn position(&self, what: &str, is_it: impl Fn(&Heard) -> bool) -> usize {
        wait_for(what, || self.heard.lock().expect("no thread fails").iter().position(&is_it))
    }
}

type Waiting = Mutex<Option<(&'static [u8], &'static [u8])>>;

fn serve(mut stream: TcpStream, heard: &Mutex<Vec<Heard>>, job: &Waiting) {
    let note = |what| heard.lock().expect("no thread fails").push(what);
    let mut functions: Vec<Vec<u8>> = Vec::new();
    while let Some((packet_type, body)) = read(&mut stream) {
        note(Heard::Packet(packet_type, body.clone()));
        match packet_type {
            packet::CAN_DO => functions.push(body),
            packet::CANT_DO => functions.retain(|function| *function != body),
            packet::GRAB_JOB | packet::GRAB_JOB_UNIQ | packet::GRAB_JOB_ALL => {
                let able = |(function, _): &(&[u8], &[u8])| functions.iter().any(|known| known == function);
                let (answer, body) = match job.lock().expect("no thread fails").take_if(|job| able(job)) {
                    Some((function, workload)) => (packet::JOB_ASSIGN, packet::body(&[HANDLE, function, workload])),
                    None => (packet::NO_JOB, Vec::new()),
                };
                let mut bytes = packet::request(answer, &body);
                bytes[..4].copy_from_slice(b"\0RES");
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
            _ => {}
        }
    }
    note(Heard::End(functions));
}

/// The next request, or `None` at the end of the stream.
fn read(stream: &mut TcpStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0; packet::HEADER_SIZE];
    stream.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut body = vec![0; word(8) as usize];
    stream.read_exact(&mut body).ok()?;
    Some((word(4), body))
}
