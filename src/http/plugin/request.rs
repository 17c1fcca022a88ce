//! Parses the head of a request, and the job in it.
//!
//! gearmand's plugin is strict about some things and lenient about others. Requests for which it silently
//! closes the connection are closed here as well. Ambiguous requests are rejected, since a proxy in front may
//! interpret them differently (request smuggling).

use crate::protocol::packet::PacketType;

/// Maximum size of a head in bytes, including the empty line.
pub(super) const HEAD_MAX: usize = 8192;

/// The unique id of a request without one: equal workloads coalesce.
const COALESCE_BY_WORKLOAD: &[u8] = b"-";

/// The HTTP version of the peer, also used for the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    Http11,
}

impl Version {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// A supported method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
    Post,
    Put,
}

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) version: Version,
    /// Whether it is a HEAD request, which gets no body.
    pub(super) is_head: bool,
    /// The job; `None` for a HEAD request without a function, which checks whether the server is alive.
    pub(super) job: Option<Job>,
    /// Size of the workload, in bytes.
    pub(super) length: usize,
    /// Whether the client waits for `100 Continue` before it sends the workload.
    pub(super) waits_for_continue: bool,
}

/// A job without its workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) submission: PacketType,
    pub(super) is_background: bool,
    /// As in the request: it is not decoded.
    pub(super) function: Vec<u8>,
    pub(super) unique: Vec<u8>,
}

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The connection is closed silently, as gearmand does.
    Silent,
    /// An error response.
    Status(Version, Status),
}

/// The status of an error response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The headers contradict each other.
    BadRequest,
    /// A cross-site request of a browser. A HEAD request gets no reason.
    Forbidden { is_head: bool },
    /// There is no function name.
    NotFound,
    /// The workload exceeds the packet limit.
    ContentTooLarge,
    /// The result exceeds the packet limit.
    InternalServerError,
    /// The body has a transfer encoding.
    NotImplemented,
    /// The memory budget for the result is exhausted.
    ServiceUnavailable,
}

/// Parses the head at the beginning of the received bytes, and returns its size; `None` if it is incomplete.
pub(super) fn parse(received: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    // A NUL is rejected, since it would end an argument of the resulting packet.
    let mut lines = Lines { rest: received };
    let Some(first) = lines.next() else {
        return if received.contains(&0) { Err(Refusal::Silent) } else { Ok(None) };
    };
    let (method, target, version) = request_line(first)?;
    let mut headers = Headers::new(version);
    while let Some(line) = lines.next() {
        if line.is_empty() {
            let request = headers.request(method, target)?;
            return Ok(Some((request, received.len() - lines.rest.len())));
        }
        headers.add(line)?;
    }
    Ok(None)
}

/// Iterates over complete lines, without line ends.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// Method, target without its leading slashes, version.
fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Refusal> {
    let (method, rest) = word(line).ok_or(Refusal::Silent)?;
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        b"PUT" => Method::Put,
        _ => return Err(Refusal::Silent),
    };
    let (target, rest) = word(rest).ok_or(Refusal::Silent)?;
    let version = match rest {
        b"HTTP/1.0" => Version::Http10,
        b"HTTP/1.1" => Version::Http11,
        _ => return Err(Refusal::Silent),
    };
    if target.contains(&0) {
        return Err(Refusal::Silent);
    }
    let slashes = target.iter().take_while(|byte| **byte == b'/').count();
    Ok((method, &target[slashes..], version))
}

/// Splits at the first run of spaces.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', line)?;
    let spaces = line[end..].iter().take_while(|byte| **byte == b' ').count();
    Some((&line[..end], &line[end + spaces..]))
}

/// The headers parsed so far.
struct Headers<'a> {
    version: Version,
    length: Option<usize>,
    unique: &'a [u8],
    is_background: bool,
    priority: Priority,
    expects_continue: bool,
    host: &'a [u8],
    /// Origin of the requesting page.
    origin: Option<&'a [u8]>,
    /// Whether a browser reports a cross-site request.
    is_foreign: bool,
}

#[derive(Clone, Copy)]
enum Priority {
    High,
    Normal,
    Low,
}

impl<'a> Headers<'a> {
    const fn new(version: Version) -> Self {
        Self {
            version,
            length: None,
            unique: COALESCE_BY_WORKLOAD,
            is_background: false,
            priority: Priority::Normal,
            expects_continue: false,
            host: b"",
            origin: None,
            is_foreign: false,
        }
    }

    fn add(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        if line.contains(&0) {
            return Err(Refusal::Silent);
        }
        let ambiguous = Refusal::Status(self.version, Status::BadRequest);
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            // Obsolete line folding: the previous header continues.
            return Err(ambiguous);
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Ok(());
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.last().is_some_and(u8::is_ascii_whitespace) {
            return Err(ambiguous);
        }
        self.note_site(name, value);
        if name.eq_ignore_ascii_case(b"Content-Length") {
            if self.length.is_some() {
                return Err(ambiguous);
            }
            self.length = Some(content_length(value).ok_or(Refusal::Silent)?);
        } else if name.eq_ignore_ascii_case(b"Transfer-Encoding") {
            return Err(Refusal::Status(self.version, Status::NotImplemented));
        } else if name.eq_ignore_ascii_case(b"Expect") {
            self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
        } else if name.eq_ignore_ascii_case(b"X-Gearman-Unique") {
            self.unique = if value.is_empty() { COALESCE_BY_WORKLOAD } else { value };
        } else if name.eq_ignore_ascii_case(b"X-Gearman-Background") {
            self.is_background |= value.eq_ignore_ascii_case(b"true");
        } else if name.eq_ignore_ascii_case(b"X-Gearman-Priority") {
            if value.eq_ignore_ascii_case(b"high") {
                self.priority = Priority::High;
            } else if value.eq_ignore_ascii_case(b"low") {
                self.priority = Priority::Low;
            }
        }
        Ok(())
    }

    /// Records the headers about the requesting site, which only browsers set.
    fn note_site(&mut self, name: &[u8], value: &'a [u8]) {
        if name.eq_ignore_ascii_case(b"Host") {
            self.host = value;
        } else if name.eq_ignore_ascii_case(b"Origin") {
            self.is_foreign |= self.origin.replace(value).is_some();
        } else if name.eq_ignore_ascii_case(b"Sec-Fetch-Site") {
            self.is_foreign |= value != b"same-origin" && value != b"none";
        }
    }

    fn is_foreign(&self) -> bool {
        let is_other = |origin: &[u8]| {
            let own = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
            !own.is_some_and(|own| own.eq_ignore_ascii_case(self.host))
        };
        self.is_foreign || self.origin.is_some_and(is_other)
    }

    fn request(self, method: Method, function: &[u8]) -> Result<Request, Refusal> {
        let is_head = method == Method::Head;
        if self.is_foreign() {
            return Err(Refusal::Status(self.version, Status::Forbidden { is_head }));
        }
        // As in gearmand, other methods have no body. It is not parsed as another request either.
        let length = if matches!(method, Method::Post | Method::Put) { self.length.unwrap_or(0) } else { 0 };
        let job = match (function.is_empty(), is_head) {
            (false, _) => Some(self.job(function)),
            (true, true) => None,
            (true, false) => return Err(Refusal::Status(self.version, Status::NotFound)),
        };
        let waits_for_continue = self.expects_continue && self.version == Version::Http11 && length > 0;
        Ok(Request { version: self.version, is_head, job, length, waits_for_continue })
    }

    fn job(&self, function: &[u8]) -> Job {
        let submission = match (self.is_background, self.priority) {
            (false, Priority::High) => PacketType::SubmitJobHigh,
            (false, Priority::Normal) => PacketType::SubmitJob,
            (false, Priority::Low) => PacketType::SubmitJobLow,
            (true, Priority::High) => PacketType::SubmitJobHighBg,
            (true, Priority::Normal) => PacketType::SubmitJobBg,
            (true, Priority::Low) => PacketType::SubmitJobLowBg,
        };
        Job { submission, is_background: self.is_background, function: function.to_vec(), unique: self.unique.to_vec() }
    }
}

/// Digits only. A value that does not fit saturates, which exceeds any limit.
fn content_length(value: &[u8]) -> Option<usize> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |length: usize, byte: &u8| length.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
    Some(value.iter().fold(0, digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str) -> Request {
        let (request, size) = parse(head.as_bytes()).unwrap().unwrap();
        assert_eq!(size, head.len());
        request
    }

    fn job(head: &str) -> Job {
        request(head).job.unwrap()
    }

    #[test]
    fn headers_say_what_becomes_of_the_job() {
        let asked = job("POST /f HTTP/1.1\r\nX-Gearman-Background: true\r\nX-Gearman-Priority: high\r\n\r\n");
        assert_eq!((asked.submission, asked.is_background), (PacketType::SubmitJobHighBg, true));
        assert_eq!((&asked.function[..], &asked.unique[..]), (&b"f"[..], &b"-"[..]));
        let asked = job("GET f HTTP/1.0\nx-gearman-unique:u 1 \nX-Gearman-Priority: LOW\nX-Gearman-Background: 1\n\n");
        assert_eq!((asked.submission, asked.is_background), (PacketType::SubmitJobLow, false));
        assert_eq!(asked.unique, b"u 1");
    }

    #[test]
    fn a_target_is_taken_as_it_stands_but_for_its_leading_slashes() {
        for (target, function) in [("///a//b", "a//b"), ("/a%20b?x=1", "a%20b?x=1"), ("a", "a")] {
            assert_eq!(job(&format!("GET {target} HTTP/1.1\r\n\r\n")).function, function.as_bytes());
        }
        assert_eq!(job("GET  /f  HTTP/1.1\r\n\r\n").function, b"f");
        assert_eq!(request("HEAD / HTTP/1.1\r\n\r\n").job, None);
        let nameless = Err(Refusal::Status(Version::Http10, Status::NotFound));
        assert_eq!(parse(b"GET // HTTP/1.0\r\n\r\n"), nameless);
    }

    #[test]
    fn only_post_and_put_have_a_body_and_its_length_is_said_once_in_digits() {
        assert_eq!(request("POST /f HTTP/1.1\r\nContent-Length:  12\r\n\r\n").length, 12);
        assert_eq!(request("PUT /f HTTP/1.1\r\nCONTENT-LENGTH:0\r\n\r\n").length, 0);
        assert_eq!(request("GET /f HTTP/1.1\r\nContent-Length: 12\r\n\r\n").length, 0);
        assert_eq!(request("POST /f HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n").length, usize::MAX);
        for value in ["-1", "+1", "1x", "0x1", "", "1 2", "1,1"] {
            let head = format!("POST /f HTTP/1.1\r\nContent-Length: {value}\r\n\r\n");
            assert_eq!(parse(head.as_bytes()), Err(Refusal::Silent), "{value}");
        }
    }

    #[test]
    fn what_two_readers_could_take_in_two_ways_is_refused() {
        for (headers, status) in [
            ("Content-Length: 1\r\nContent-Length: 1", Status::BadRequest),
            ("Content-Length : 1", Status::BadRequest),
            ("Content-Length: 1\r\n 2", Status::BadRequest),
            ("Transfer-Encoding: chunked", Status::NotImplemented),
            ("transfer-encoding:identity", Status::NotImplemented),
        ] {
            let head = format!("POST /f HTTP/1.1\r\n{headers}\r\n\r\n");
            assert_eq!(parse(head.as_bytes()), Err(Refusal::Status(Version::Http11, status)), "{headers}");
        }
        for head in [&b"GET /a\0b HTTP/1.1\r\n\r\n"[..], b"GET /a HTTP/1.1\r\nX-Gearman-Unique: a\0b\r\n\r\n", b"\0"] {
            assert_eq!(parse(head), Err(Refusal::Silent), "{}", head.escape_ascii());
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let refusal = |is_head| Err(Refusal::Status(Version::Http11, Status::Forbidden { is_head }));
        for headers in [
            "Host: h:1\r\nOrigin: http://h:2",
            "Host: h\r\nOrigin: null",
            "Host: h\r\nOrigin: h",
            "Origin: http://h",
            "Host: h\r\nOrigin: http://h\r\norigin: http://h",
            "Sec-Fetch-Site: cross-site",
            "sec-fetch-site:same-site",
            "Host: h\r\nOrigin: http://h\r\nSec-Fetch-Site:",
        ] {
            assert_eq!(parse(format!("POST /f HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()), refusal(false), "{headers}");
            assert_eq!(parse(format!("HEAD /f HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()), refusal(true), "{headers}");
        }
        for headers in ["Origin: http://H:1\r\nHost: h:1", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"] {
            assert!(parse(format!("POST /f HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()).is_ok(), "{headers}");
        }
    }

    #[test]
    fn a_bad_first_line_is_known_before_the_head_ends() {
        for line in ["", "x", "get /f HTTP/1.1", "TRACE /f HTTP/1.1", "GET /f", "GET /f HTTP/2.0", "GET /a b HTTP/1.1"]
        {
            assert_eq!(parse(format!("{line}\r\n").as_bytes()), Err(Refusal::Silent), "{line}");
        }
        assert_eq!(parse(b"GET /f HTTP/1.1\r\nX: y\r\n"), Ok(None));
        assert_eq!(parse(b"GET /f HTT"), Ok(None));
    }
}
