//! Framing of the Gearman protocol, as little as the load generator and the floor server need.
//!
//! It is deliberately separate from the server's own codec: a mistake there must not cancel out here.

use crate::failure::{Result, fail};

pub(crate) const CAN_DO: u32 = 1;
pub(crate) const PRE_SLEEP: u32 = 4;
pub(crate) const NOOP: u32 = 6;
pub(crate) const SUBMIT_JOB: u32 = 7;
pub(crate) const JOB_CREATED: u32 = 8;
pub(crate) const NO_JOB: u32 = 10;
pub(crate) const WORK_COMPLETE: u32 = 13;
pub(crate) const ECHO_REQ: u32 = 16;
pub(crate) const ECHO_RES: u32 = 17;
pub(crate) const SUBMIT_JOB_BG: u32 = 18;
pub(crate) const ERROR: u32 = 19;
pub(crate) const JOB_ASSIGN_UNIQ: u32 = 31;
pub(crate) const SUBMIT_JOB_EPOCH: u32 = 36;
pub(crate) const GRAB_JOB_ALL: u32 = 39;

/// Bytes of a packet's header: magic, type, body length.
pub(crate) const HEADER: usize = 12;

/// Magic of requests, sent by clients and workers.
pub(crate) const REQUEST: [u8; 4] = *b"\0REQ";
/// Magic of responses, sent by the server.
pub(crate) const RESPONSE: [u8; 4] = *b"\0RES";

/// A longer response means a broken stream: the largest workload here is 1 MiB.
const LARGEST_BODY: usize = 2 << 20;

/// One response from a server, still in the read buffer.
pub(crate) struct Response<'a> {
    /// Packet type.
    pub(crate) kind: u32,
    /// Everything after the header.
    pub(crate) body: &'a [u8],
}

/// Appends a packet made of `parts`, which include their own NUL separators.
pub(crate) fn append(output: &mut Vec<u8>, magic: [u8; 4], kind: u32, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    output.extend_from_slice(&magic);
    output.extend_from_slice(&kind.to_be_bytes());
    output.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        output.extend_from_slice(part);
    }
}

/// The type and body length in a header, whatever its magic.
pub(crate) fn header(bytes: &[u8]) -> Option<(u32, usize)> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some((number(4)?, number(8)? as usize))
}

/// The first complete response in `bytes`; none if more must be read.
///
/// Fails on a wrong magic or an absurd length.
pub(crate) fn response(bytes: &[u8]) -> Result<Option<Response<'_>>> {
    let Some((kind, length)) = header(bytes) else {
        return Ok(None);
    };
    if !bytes.starts_with(&RESPONSE) || length > LARGEST_BODY {
        return fail(format!("not a response header: {:?}", &bytes[..HEADER]));
    }
    Ok(bytes.get(HEADER..HEADER + length).map(|body| Response { kind, body }))
}

/// Splits `body` at its first NUL.
pub(crate) fn split(body: &[u8]) -> Result<(&[u8], &[u8])> {
    match memchr::memchr(0, body) {
        Some(at) => Ok((&body[..at], &body[at + 1..])),
        None => fail("a response lacks a separator"),
    }
}
