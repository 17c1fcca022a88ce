//! A worker that asks for jobs.

use super::Wire;
use super::packet;

/// Asks for a job in vain.
#[track_caller]
pub(crate) fn grab_nothing(worker: &mut Wire) {
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::NO_JOB, b"");
}

/// Does jobs until there are none, and returns their workloads in order.
#[track_caller]
pub(crate) fn grab_all(worker: &mut Wire) -> Vec<String> {
    let mut workloads = Vec::new();
    loop {
        worker.send(packet::GRAB_JOB, b"");
        let (packet_type, body) = worker.recv();
        if packet_type == packet::NO_JOB {
            return workloads;
        }
        assert_eq!(packet_type, packet::JOB_ASSIGN);
        let text = String::from_utf8(body).expect("text");
        let fields: Vec<&str> = text.splitn(3, '\0').collect();
        workloads.push(fields[2].to_owned());
        worker.send(packet::WORK_COMPLETE, &packet::body(&[fields[0].as_bytes(), b""]));
    }
}
