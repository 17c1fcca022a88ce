//! Response heads, byte for byte as gearmand writes them.

use bytes::Bytes;

use super::request::{Request, Status, Version};

/// Requests the body that a peer holds back.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The body of the response to a cross-site request.
const FOREIGN: &[u8] = b"Pages of other sites can submit no jobs here (Origin, Sec-Fetch-Site).\n";

/// The outcome of a job.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The job's handle, or an error code.
    pub(super) handle: Bytes,
    /// Name of the packet that ended the job.
    pub(super) command: &'static str,
    /// The result.
    pub(super) payload: Bytes,
}

/// The head of the response to a job. The status is 200 even for a failed job: the command header gives the
/// outcome.
pub(super) fn answered(request: &Request, answer: &Answer) -> Vec<u8> {
    let mut head = status_line(request.version, "200 OK");
    head.extend_from_slice(b"X-Gearman-Job-Handle: ");
    head.extend_from_slice(&answer.handle);
    head.extend_from_slice(b"\r\n");
    if !request.is_head {
        head.extend_from_slice(format!("X-Gearman-Command: {}\r\n", answer.command).as_bytes());
    }
    write_length(&mut head, answer.payload.len());
    write_server(&mut head, request.version);
    head.extend_from_slice(b"\r\n");
    head
}

/// The response to a HEAD request without a function.
pub(super) fn alive(version: Version) -> Vec<u8> {
    let mut head = status_line(version, "200 OK");
    write_length(&mut head, 0);
    write_server(&mut head, version);
    head.extend_from_slice(b"\r\n");
    head
}

/// The response to a rejected request.
pub(super) fn refused(version: Version, status: Status) -> Vec<u8> {
    let mut head = status_line(
        version,
        match status {
            Status::BadRequest => "400 BAD_REQUEST",
            Status::Forbidden { .. } => "403 FORBIDDEN",
            Status::NotFound => "404 NOT_FOUND",
            Status::ContentTooLarge => "413 CONTENT_TOO_LARGE",
            Status::InternalServerError => "500 INTERNAL_SERVER_ERROR",
            Status::NotImplemented => "501 NOT_IMPLEMENTED",
            Status::ServiceUnavailable => "503 SERVICE_UNAVAILABLE",
        },
    );
    write_server(&mut head, version);
    let reason = if matches!(status, Status::Forbidden { .. }) { FOREIGN } else { b"" };
    write_length(&mut head, reason.len());
    head.extend_from_slice(b"\r\n");
    if status != (Status::Forbidden { is_head: true }) {
        head.extend_from_slice(reason);
    }
    head
}

fn status_line(version: Version, status: &str) -> Vec<u8> {
    format!("{} {status}\r\n", version.name()).into_bytes()
}

fn write_length(head: &mut Vec<u8>, length: usize) {
    head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
}

/// Writes the server name and, for HTTP/1.1, that the connection closes.
fn write_server(head: &mut Vec<u8>, version: Version) {
    head.extend_from_slice(concat!("Server: Gearman/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes());
    if version == Version::Http11 {
        head.extend_from_slice(b"Connection: close\r\n");
    }
}
