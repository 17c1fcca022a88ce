//! Valid conversations, as clients, workers and operators have them: what mutations start from.

use crate::common::packet::{self, body, request};

/// The first part of job handles of the server that the conversations are for.
pub(crate) const HANDLE_PREFIX: &str = "H:x";

/// The number of a job, written with as many digits as a job's number will have in the test.
fn handle(number: u64) -> Vec<u8> {
    format!("{HANDLE_PREFIX}:{number}").into_bytes()
}

fn joined(packets: &[Vec<u8>]) -> Vec<u8> {
    packets.concat()
}

/// All conversations, each as the bytes that the peer sends. They speak of jobs up to number `job`.
pub(crate) fn conversations(job: u64) -> Vec<Vec<u8>> {
    let mut all = clients(job);
    all.extend(workers(job));
    all.extend(operators(job));
    all
}

fn clients(job: u64) -> Vec<Vec<u8>> {
    let submit = |packet_type, function: &[u8], unique: &[u8]| {
        request(packet_type, &body(&[function, unique, b"a workload\0with\nbytes"]))
    };
    let foreground =
        [packet::SUBMIT_JOB, packet::SUBMIT_JOB_HIGH, packet::SUBMIT_JOB_LOW].map(|kind| submit(kind, b"reverse", b""));
    let background = [packet::SUBMIT_JOB_BG, packet::SUBMIT_JOB_HIGH_BG, packet::SUBMIT_JOB_LOW_BG]
        .map(|kind| submit(kind, b"resize", b"unique"));
    let workload = vec![b'w'; 40_000];
    vec![
        joined(&foreground),
        joined(&background),
        joined(&[
            request(packet::OPTION_REQ, b"exceptions"),
            request(packet::SET_CLIENT_ID, b"client"),
            submit(packet::SUBMIT_JOB, b"reverse", b"-"),
            submit(packet::SUBMIT_JOB, b"reverse", &[b'u'; 64]),
            request(packet::GET_STATUS, &handle(job)),
            request(packet::GET_STATUS_UNIQUE, &[b'u'; 64]),
        ]),
        joined(&[
            request(packet::SUBMIT_JOB_EPOCH, &body(&[b"later", b"e", b"4102444800", b"workload"])),
            request(packet::SUBMIT_JOB_EPOCH, &body(&[b"reverse", b"", b"1", b"workload"])),
            request(packet::SUBMIT_JOB_SCHED, &body(&[b"reverse", b"", b"0", b"0", b"1", b"1", b"1", b"x"])),
        ]),
        joined(&[
            request(packet::SUBMIT_REDUCE_JOB, &body(&[b"reverse", b"r", b"reducer", b"0", b"workload"])),
            request(packet::SUBMIT_REDUCE_JOB_BACKGROUND, &body(&[b"reverse", b"s", b"reducer", b"0", b""])),
        ]),
        joined(&[request(packet::SUBMIT_JOB_BG, &body(&[b"resize", b"big", &workload])), submit(7, b"reverse", b"")]),
        joined(&[request(packet::ECHO_REQ, &workload), request(packet::ECHO_REQ, b"")]),
    ]
}

fn workers(job: u64) -> Vec<Vec<u8>> {
    let able = |function: &[u8]| request(packet::CAN_DO, function);
    let grab = |packet_type| request(packet_type, b"");
    let answer = |packet_type, number, rest: &[&[u8]]| {
        let handle = handle(number);
        request(packet_type, &body(&[&[&handle[..]], rest].concat()))
    };
    let work_for_last = [job, job.saturating_sub(1), job.saturating_sub(2)].map(|number| {
        joined(&[
            answer(packet::WORK_STATUS, number, &[b"1", b"2"]),
            answer(packet::WORK_DATA, number, &[b"data"]),
            answer(packet::WORK_WARNING, number, &[b"warning"]),
            answer(packet::WORK_COMPLETE, number, &[b"result"]),
        ])
    });
    vec![
        joined(&[able(b"reverse"), able(b"resize"), grab(packet::PRE_SLEEP), grab(packet::GRAB_JOB)]),
        joined(&[
            able(b"reverse"),
            able(b"resize"),
            grab(packet::GRAB_JOB_UNIQ),
            grab(packet::GRAB_JOB_ALL),
            grab(packet::GRAB_JOB),
            joined(&work_for_last),
            grab(packet::PRE_SLEEP),
        ]),
        joined(&[
            request(packet::CAN_DO_TIMEOUT, &body(&[b"resize", b"1"])),
            grab(packet::GRAB_JOB),
            request(packet::CANT_DO, b"resize"),
            answer(packet::WORK_FAIL, job, &[]),
            answer(packet::WORK_EXCEPTION, job, &[b"exception"]),
        ]),
        joined(&[
            able(b"later"),
            request(packet::CAN_DO_TIMEOUT, &body(&[b"reverse", b"60000"])),
            grab(packet::ALL_YOURS),
            grab(packet::GRAB_JOB_UNIQ),
            grab(packet::RESET_ABILITIES),
            grab(packet::PRE_SLEEP),
        ]),
    ]
}

fn operators(job: u64) -> Vec<Vec<u8>> {
    vec![
        b"status\nworkers\nprioritystatus\n".to_vec(),
        b"show jobs\nshow unique jobs\r\nversion\ngetpid\nverbose\n".to_vec(),
        format!("cancel job {HANDLE_PREFIX}:{job}\ncreate function made\ndrop function made\n").into_bytes(),
        b"maxqueue limited 1 2 3\nmaxqueue limited 1\ndrop function limited\nshutdown\nshutdown graceful\nnonsense\n\n"
            .to_vec(),
        joined(&[b"status\n".to_vec(), request(packet::ECHO_REQ, b"mixed"), b"workers\n".to_vec()]),
    ]
}
