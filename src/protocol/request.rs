//! Requests of clients and workers: a packet with every field parsed and in range.

use super::error::{NotRegistered, PeerError};
use super::names::{
    CLIENT_ID_MAX, FUNCTION_MAX, HANDLE_MAX, NUMBER_MAX, OPTION_MAX, Priority, REDUCER_MAX, UNIQUE_MAX, Workload,
};
use super::packet::{PacketType, split_arguments};

/// The shortest timeout that CAN_DO_TIMEOUT can set, in milliseconds; shorter ones are raised to it.
pub const SHORTEST_TIMEOUT_MS: u64 = 1000;

/// A request. It borrows from the bytes it was parsed from.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// CAN_DO, CAN_DO_TIMEOUT: the worker offers a function.
    CanDo {
        /// The function.
        function: &'a [u8],
        /// How long a run may take before the job is revoked, in milliseconds; `None` for no limit.
        timeout_ms: Option<u64>,
    },
    /// CAN_DO, CAN_DO_TIMEOUT that is rejected, without a response.
    CannotRegister(NotRegistered),
    /// CANT_DO: the worker withdraws a function.
    CantDo {
        /// The function.
        function: &'a [u8],
    },
    /// RESET_ABILITIES: the worker withdraws all its functions.
    ResetAbilities,
    /// PRE_SLEEP: the worker wants a NOOP when there is work.
    PreSleep,
    /// GRAB_JOB, GRAB_JOB_UNIQ, GRAB_JOB_ALL: the worker wants a job now.
    GrabJob(GrabKind),
    /// Any of the SUBMIT packets.
    Submit(Submission<'a>),
    /// WORK_STATUS: progress of a job. Both numbers are passed on unchanged.
    WorkStatus {
        /// The job.
        handle: &'a [u8],
        /// Parts done.
        numerator: &'a [u8],
        /// Parts in total.
        denominator: &'a [u8],
    },
    /// WORK_DATA: a part of the result.
    WorkData {
        /// The job.
        handle: &'a [u8],
        /// The part.
        workload: Workload<'a>,
    },
    /// WORK_WARNING: like WORK_DATA, but a warning.
    WorkWarning {
        /// The job.
        handle: &'a [u8],
        /// The warning.
        workload: Workload<'a>,
    },
    /// WORK_COMPLETE: the job is done.
    WorkComplete {
        /// The job.
        handle: &'a [u8],
        /// Its result.
        workload: Workload<'a>,
    },
    /// WORK_FAIL: the job has failed.
    WorkFail {
        /// The job.
        handle: &'a [u8],
    },
    /// WORK_EXCEPTION: the job has failed, with a reason.
    WorkException {
        /// The job.
        handle: &'a [u8],
        /// The reason.
        workload: Workload<'a>,
    },
    /// GET_STATUS
    GetStatus {
        /// The job.
        handle: &'a [u8],
    },
    /// GET_STATUS_UNIQUE
    GetStatusUnique {
        /// The job's unique id, for any function.
        unique: &'a [u8],
    },
    /// ECHO_REQ
    Echo {
        /// The bytes that are sent back.
        workload: Workload<'a>,
    },
    /// OPTION_REQ for a known option.
    Option {
        /// The option.
        option: ConnectionOption,
        /// The option's name as the client wrote it, which the response repeats.
        written: &'a [u8],
    },
    /// SET_CLIENT_ID
    SetClientId {
        /// The id, truncated if it is too long.
        id: &'a [u8],
    },
}

/// An option that a connection can set with OPTION_REQ. It stays set until the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionOption {
    /// The client gets exceptions instead of plain failures.
    Exceptions,
    /// The worker has started none of the jobs that it holds, now and later: requeued ones use up no attempt.
    /// For a worker that has grabbed ahead and stops. C++ gearmand does not know it.
    NotBegun,
}

impl ConnectionOption {
    /// All options.
    pub const ALL: [Self; 2] = [Self::Exceptions, Self::NotBegun];

    /// Its name. Case is ignored.
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Exceptions => b"exceptions",
            Self::NotBegun => b"not-begun",
        }
    }
}

/// The kind of response that a grabbing worker understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrabKind {
    /// GRAB_JOB, answered by JOB_ASSIGN.
    Plain,
    /// GRAB_JOB_UNIQ, answered by JOB_ASSIGN_UNIQ.
    Unique,
    /// GRAB_JOB_ALL, answered by JOB_ASSIGN_ALL for a job with a reducer, else by JOB_ASSIGN_UNIQ.
    All,
}

/// A job as it is submitted.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// The function to run.
    pub function: &'a [u8],
    /// Submissions of one function with equal uniques join one job. Empty: they never join. `-`: the workload
    /// is the unique.
    pub unique: &'a [u8],
    /// The reducer; empty if it is not a reduce job.
    pub reducer: &'a [u8],
    /// High before normal before low.
    pub priority: Priority,
    /// Whether the job continues without its client.
    pub background: bool,
    /// When it is due, in seconds since 1970-01-01 UTC; `None` for at once.
    pub due_s: Option<u64>,
    /// The job's argument.
    pub workload: Workload<'a>,
}

impl<'a> Request<'a> {
    /// Parses the body of a packet of type `number`. Uses only `body`, which may hold any bytes.
    ///
    /// # Errors
    /// The ERROR packet to send. The connection can continue: the frame was complete.
    pub fn parse(number: u32, body: Workload<'a>) -> Result<Self, PeerError> {
        let bytes = body.as_bytes();
        let packet_type = PacketType::from_number(number).ok_or(if number == 5 {
            PeerError::COMMAND_NOT_EXPECTED
        } else {
            PeerError::COMMAND_UNKNOWN
        })?;
        Ok(match packet_type {
            PacketType::CanDo => can_do(bytes, Ok(None)),
            PacketType::CanDoTimeout => can_do_timeout(bytes)?,
            PacketType::CantDo => Self::CantDo { function: bytes },
            PacketType::ResetAbilities => Self::ResetAbilities,
            PacketType::PreSleep => Self::PreSleep,
            PacketType::GrabJob => Self::GrabJob(GrabKind::Plain),
            PacketType::GrabJobUniq => Self::GrabJob(GrabKind::Unique),
            PacketType::GrabJobAll => Self::GrabJob(GrabKind::All),
            PacketType::SubmitJob => submit(body, Priority::Normal, false)?,
            PacketType::SubmitJobBg => submit(body, Priority::Normal, true)?,
            PacketType::SubmitJobHigh => submit(body, Priority::High, false)?,
            PacketType::SubmitJobHighBg => submit(body, Priority::High, true)?,
            PacketType::SubmitJobLow => submit(body, Priority::Low, false)?,
            PacketType::SubmitJobLowBg => submit(body, Priority::Low, true)?,
            PacketType::SubmitJobEpoch => submit_epoch(body)?,
            PacketType::SubmitReduceJob => submit_reduce(body, false)?,
            PacketType::SubmitReduceJobBackground => submit_reduce(body, true)?,
            PacketType::WorkStatus => work_status(bytes)?,
            PacketType::WorkData => {
                let (handle, workload) = handle_and_workload(body)?;
                Self::WorkData { handle, workload }
            }
            PacketType::WorkWarning => {
                let (handle, workload) = handle_and_workload(body)?;
                Self::WorkWarning { handle, workload }
            }
            PacketType::WorkComplete => {
                let (handle, workload) = handle_and_workload(body)?;
                Self::WorkComplete { handle, workload }
            }
            PacketType::WorkException => {
                let (handle, workload) = handle_and_workload(body)?;
                Self::WorkException { handle, workload }
            }
            // Some workers end the handle with a NUL, or send a reason after it as with WORK_EXCEPTION.
            PacketType::WorkFail => Self::WorkFail { handle: handle(until_nul(bytes))? },
            PacketType::GetStatus => Self::GetStatus { handle: handle(until_nul(bytes))? },
            PacketType::GetStatusUnique => Self::GetStatusUnique { unique: unique(until_nul(bytes))? },
            PacketType::EchoReq => Self::Echo { workload: body },
            PacketType::OptionReq => option(bytes)?,
            PacketType::SetClientId => {
                let id = until_nul(bytes);
                Self::SetClientId { id: id.get(..CLIENT_ID_MAX).unwrap_or(id) }
            }
            PacketType::Noop
            | PacketType::JobCreated
            | PacketType::NoJob
            | PacketType::JobAssign
            | PacketType::EchoRes
            | PacketType::Error
            | PacketType::StatusRes
            | PacketType::AllYours
            | PacketType::OptionRes
            | PacketType::JobAssignUniq
            | PacketType::SubmitJobSched
            | PacketType::JobAssignAll
            | PacketType::StatusResUnique => return Err(PeerError::COMMAND_NOT_EXPECTED),
        })
    }
}

fn submit(body: Workload<'_>, priority: Priority, background: bool) -> Result<Request<'_>, PeerError> {
    let [name, key, workload] = arguments(body.as_bytes())?;
    Ok(Request::Submit(Submission {
        function: function(name)?,
        unique: unique(key)?,
        reducer: b"",
        priority,
        background,
        due_s: None,
        workload: part_of(body, workload),
    }))
}

fn submit_epoch(body: Workload<'_>) -> Result<Request<'_>, PeerError> {
    let [name, key, time, workload] = arguments(body.as_bytes())?;
    let due_s = leading_integer(time).ok_or(PeerError::EPOCH_OUT_OF_RANGE)?;
    Ok(Request::Submit(Submission {
        function: function(name)?,
        unique: unique(key)?,
        reducer: b"",
        priority: Priority::Normal,
        background: true,
        due_s: u64::try_from(due_s).ok().filter(|due_s| *due_s > 0),
        workload: part_of(body, workload),
    }))
}

fn submit_reduce(body: Workload<'_>, background: bool) -> Result<Request<'_>, PeerError> {
    // The fourth argument is required and has no meaning.
    let [name, key, reducer, _, workload] = arguments(body.as_bytes())?;
    if reducer.len() > REDUCER_MAX {
        return Err(PeerError::UNIQUE_TOO_LARGE);
    }
    Ok(Request::Submit(Submission {
        function: function(name)?,
        unique: unique(key)?,
        reducer,
        priority: Priority::Normal,
        background,
        due_s: None,
        workload: part_of(body, workload),
    }))
}

/// A registration with this timeout in milliseconds, if the timeout is valid.
fn can_do(name: &[u8], timeout_ms: Result<Option<u64>, NotRegistered>) -> Request<'_> {
    if name.len() > FUNCTION_MAX {
        return Request::CannotRegister(NotRegistered::NameTooLong);
    }
    match timeout_ms {
        Ok(timeout_ms) => Request::CanDo { function: name, timeout_ms },
        Err(why) => Request::CannotRegister(why),
    }
}

fn can_do_timeout(body: &[u8]) -> Result<Request<'_>, PeerError> {
    let [name, timeout] = arguments(body)?;
    let in_force = |timeout_ms: i64| {
        let timeout_ms = u64::try_from(timeout_ms).ok().filter(|timeout_ms| *timeout_ms > 0);
        timeout_ms.map(|timeout_ms| timeout_ms.max(SHORTEST_TIMEOUT_MS))
    };
    Ok(can_do(name, leading_integer(timeout).map(in_force).ok_or(NotRegistered::TimeoutOutOfRange)))
}

/// Progress is parsed as numbers, and passed on unchanged to all waiting clients. Its size is limited because
/// long values would be sent to each of them.
fn work_status(body: &[u8]) -> Result<Request<'_>, PeerError> {
    let [name, numerator, denominator] = arguments(body)?;
    let (numerator, denominator) = (first(numerator, NUMBER_MAX), first(denominator, NUMBER_MAX));
    Ok(Request::WorkStatus { handle: handle(name)?, numerator, denominator })
}

fn option(written: &[u8]) -> Result<Request<'_>, PeerError> {
    let name = until_nul(written);
    let mut known = ConnectionOption::ALL.into_iter();
    let option = known.find(|option| written.len() <= OPTION_MAX && name.eq_ignore_ascii_case(option.name()));
    option.map(|option| Request::Option { option, written }).ok_or(PeerError::UNKNOWN_OPTION)
}

fn handle_and_workload(body: Workload<'_>) -> Result<(&[u8], Workload<'_>), PeerError> {
    let [name, workload] = arguments(body.as_bytes())?;
    Ok((handle(name)?, part_of(body, workload)))
}

fn arguments<const COUNT: usize>(body: &[u8]) -> Result<[&[u8]; COUNT], PeerError> {
    split_arguments(body).ok_or(PeerError::TOO_FEW_ARGUMENTS)
}

fn part_of<'a>(body: Workload<'a>, part: &'a [u8]) -> Workload<'a> {
    match body.owner() {
        Some(owner) => Workload::shared(part, owner),
        None => Workload::borrowed(part),
    }
}

fn function(name: &[u8]) -> Result<&[u8], PeerError> {
    at_most(name, FUNCTION_MAX, PeerError::FUNCTION_TOO_LARGE)
}

fn unique(unique: &[u8]) -> Result<&[u8], PeerError> {
    at_most(unique, UNIQUE_MAX, PeerError::UNIQUE_TOO_LARGE)
}

fn handle(handle: &[u8]) -> Result<&[u8], PeerError> {
    at_most(handle, HANDLE_MAX, PeerError::HANDLE_TOO_LARGE)
}

fn at_most(bytes: &[u8], limit: usize, error: PeerError) -> Result<&[u8], PeerError> {
    if bytes.len() > limit { Err(error) } else { Ok(bytes) }
}

/// At most the first `limit` bytes.
fn first(bytes: &[u8], limit: usize) -> &[u8] {
    &bytes[..bytes.len().min(limit)]
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    memchr::memchr(0, bytes).map_or(bytes, |end| &bytes[..end])
}

/// The integer at the beginning of `bytes`, parsed like C's `strtoll`: after blanks and a sign, all digits
/// that follow; 0 if there are none. `None` if it does not fit into 64 bits.
///
/// Clients and workers send `2.5`, ` 60`, `60s` and nothing at all.
pub fn leading_integer(bytes: &[u8]) -> Option<i64> {
    let (is_negative, digits) = sign_and_digits(bytes);
    digits.iter().try_fold(0_i64, |value, digit| {
        let digit = i64::from(digit - b'0');
        let value = value.checked_mul(10)?;
        if is_negative { value.checked_sub(digit) } else { value.checked_add(digit) }
    })
}

/// A progress value: the integer at the beginning of `bytes`, 0 for a negative one, at most `u64::MAX`.
///
/// Workers report progress such as `33.3` or nothing at all, and clients show it unchanged.
pub fn leading_count(bytes: &[u8]) -> u64 {
    let (is_negative, digits) = sign_and_digits(bytes);
    if is_negative {
        return 0;
    }
    digits.iter().fold(0_u64, |value, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

/// Whether a number is negative, and its digits: those that follow blanks and a sign. Only the first
/// [`NUMBER_MAX`] bytes are examined.
fn sign_and_digits(bytes: &[u8]) -> (bool, &[u8]) {
    let bytes = first(bytes, NUMBER_MAX);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = bytes.iter().position(|byte| !is_blank(byte)).unwrap_or(bytes.len());
    let (is_negative, digits) = match &bytes[start..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    (is_negative, &digits[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(packet_type: PacketType, body: &[u8]) -> Result<Request<'_>, PeerError> {
        Request::parse(packet_type.number(), Workload::borrowed(body))
    }

    #[test]
    fn of_very_long_numbers_the_beginning_is_read_and_passed_on() {
        let digits = vec![b'7'; 1 << 20];
        let body = [b"H:1\0", &digits[..], b"\0", &digits[..]].concat();
        let Ok(Request::WorkStatus { numerator, denominator, .. }) = parse(PacketType::WorkStatus, &body) else {
            panic!("no progress");
        };
        assert_eq!((numerator, denominator), (&digits[..NUMBER_MAX], &digits[..NUMBER_MAX]));
        let zeros = vec![b'0'; NUMBER_MAX];
        assert_eq!(leading_integer(&[&zeros[..], b"7"].concat()), Some(0));
        assert_eq!(leading_count(&[&zeros[1..], b"78"].concat()), 7);
        assert_eq!(leading_integer(&digits), None);
    }

    #[test]
    fn a_unique_of_64_bytes_is_whole_and_one_of_65_is_refused() {
        let body = [b"f\0", &[b'u'; 64][..], b"\0x"].concat();
        let Ok(Request::Submit(job)) = parse(PacketType::SubmitJob, &body) else {
            panic!("not a submission");
        };
        assert_eq!((job.unique.len(), job.workload.as_bytes()), (64, &b"x"[..]));
        let body = [b"f\0", &[b'u'; 65][..], b"\0x"].concat();
        for packet_type in [PacketType::SubmitJob, PacketType::SubmitJobLowBg] {
            assert_eq!(parse(packet_type, &body).unwrap_err(), PeerError::UNIQUE_TOO_LARGE);
        }
    }

    #[test]
    fn timeouts_are_read_as_far_as_they_go() {
        let timeout = |text: &str| {
            let body = [b"f\0", text.as_bytes()].concat();
            match parse(PacketType::CanDoTimeout, &body) {
                Ok(Request::CanDo { timeout_ms, .. }) => Ok(timeout_ms),
                Ok(Request::CannotRegister(why)) => Err(why),
                other => panic!("{other:?}"),
            }
        };
        for (text, timeout_ms) in [
            ("1500", Some(1500)),
            ("10", Some(1000)),
            ("0", None),
            ("-5", None),
            ("2.5", Some(1000)),
            ("0.5", None),
            ("", None),
            (" 60000", Some(60_000)),
            ("60000s", Some(60_000)),
            ("60000\0", Some(60_000)),
            ("soon", None),
            ("00000000000000000000001500", Some(1500)),
        ] {
            assert_eq!(timeout(text), Ok(timeout_ms), "{text}");
        }
        assert_eq!(timeout("99999999999999999999"), Err(NotRegistered::TimeoutOutOfRange));
    }

    #[test]
    fn numbers_are_read_as_far_as_they_go() {
        for (text, integer, count) in [
            ("33.3", Some(33), 33),
            (" \t\n3", Some(3), 3),
            ("+7", Some(7), 7),
            ("-1", Some(-1), 0),
            ("- 1", Some(0), 0),
            ("99999999999", Some(99_999_999_999), 99_999_999_999),
            ("1e3", Some(1), 1),
            ("abc", Some(0), 0),
            ("", Some(0), 0),
            ("-9223372036854775808", Some(i64::MIN), 0),
            ("9223372036854775808", None, 9_223_372_036_854_775_808),
            ("99999999999999999999", None, u64::MAX),
        ] {
            assert_eq!(leading_integer(text.as_bytes()), integer, "{text}");
            assert_eq!(leading_count(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn any_body_of_any_type_is_a_request_or_an_error() {
        for number in 0..50 {
            for body in [&b""[..], b"\0", b"\0\0\0\0\0\0\0", b"a", &[0xff; 9000]] {
                let _ = Request::parse(number, Workload::borrowed(body));
            }
        }
    }
}
