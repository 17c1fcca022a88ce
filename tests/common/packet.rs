//! Packet types of the binary protocol by number, written down a second time on purpose: a test that took
//! them from the server could not find a wrong one.

pub(crate) const CAN_DO: u32 = 1;
pub(crate) const CANT_DO: u32 = 2;
pub(crate) const RESET_ABILITIES: u32 = 3;
pub(crate) const PRE_SLEEP: u32 = 4;
pub(crate) const NOOP: u32 = 6;
pub(crate) const SUBMIT_JOB: u32 = 7;
pub(crate) const JOB_CREATED: u32 = 8;
pub(crate) const GRAB_JOB: u32 = 9;
pub(crate) const NO_JOB: u32 = 10;
pub(crate) const JOB_ASSIGN: u32 = 11;
pub(crate) const WORK_STATUS: u32 = 12;
pub(crate) const WORK_COMPLETE: u32 = 13;
pub(crate) const WORK_FAIL: u32 = 14;
pub(crate) const GET_STATUS: u32 = 15;
pub(crate) const ECHO_REQ: u32 = 16;
pub(crate) const ECHO_RES: u32 = 17;
pub(crate) const SUBMIT_JOB_BG: u32 = 18;
pub(crate) const ERROR: u32 = 19;
pub(crate) const STATUS_RES: u32 = 20;
pub(crate) const SUBMIT_JOB_HIGH: u32 = 21;
pub(crate) const SET_CLIENT_ID: u32 = 22;
pub(crate) const CAN_DO_TIMEOUT: u32 = 23;
pub(crate) const ALL_YOURS: u32 = 24;
pub(crate) const WORK_EXCEPTION: u32 = 25;
pub(crate) const OPTION_REQ: u32 = 26;
pub(crate) const OPTION_RES: u32 = 27;
pub(crate) const WORK_DATA: u32 = 28;
pub(crate) const WORK_WARNING: u32 = 29;
pub(crate) const GRAB_JOB_UNIQ: u32 = 30;
pub(crate) const JOB_ASSIGN_UNIQ: u32 = 31;
pub(crate) const SUBMIT_JOB_HIGH_BG: u32 = 32;
pub(crate) const SUBMIT_JOB_LOW: u32 = 33;
pub(crate) const SUBMIT_JOB_LOW_BG: u32 = 34;
pub(crate) const SUBMIT_JOB_SCHED: u32 = 35;
pub(crate) const SUBMIT_JOB_EPOCH: u32 = 36;
pub(crate) const SUBMIT_REDUCE_JOB: u32 = 37;
pub(crate) const SUBMIT_REDUCE_JOB_BACKGROUND: u32 = 38;
pub(crate) const GRAB_JOB_ALL: u32 = 39;
pub(crate) const JOB_ASSIGN_ALL: u32 = 40;
pub(crate) const GET_STATUS_UNIQUE: u32 = 41;
pub(crate) const STATUS_RES_UNIQUE: u32 = 42;

/// Bytes before the body: magic, type, length.
pub(crate) const HEADER_SIZE: usize = 12;

/// Joins arguments the way every packet body does: NUL between them, none at the end. The last one may be the
/// opaque workload.
pub(crate) fn body(arguments: &[&[u8]]) -> Vec<u8> {
    arguments.join(&0)
}

/// The bytes of a request packet.
pub(crate) fn request(packet_type: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a packet's body is under 4 GiB");
    let mut bytes = Vec::with_capacity(12 + body.len());
    bytes.extend_from_slice(b"\0REQ");
    bytes.extend_from_slice(&packet_type.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}
