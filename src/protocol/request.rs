//! What a client or worker asks of the server: a packet with every field parsed and in range.

use super::error::PeerError;
use super::names::{
    CLIENT_ID_MAX, FUNCTION_MAX, HANDLE_MAX, OPTION_MAX, Priority, REDUCER_MAX, UNIQUE_MAX, Workload, parse_decimal,
};
use super::packet::{PacketType, split_arguments};

/// The shortest timeout that CAN_DO_TIMEOUT can set, in milliseconds; shorter ones are raised to it.
pub const SHORTEST_TIMEOUT_MS: u64 = 1000;

/// A request. It borrows from the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// CAN_DO, CAN_DO_TIMEOUT: the worker offers a function.
    CanDo {
        /// The function.
        function: &'a [u8],
        /// How long the worker may take for a job before it is taken away, in milliseconds; `None` for as long as it likes.
        timeout_ms: Option<u64>,
    },
    /// CANT_DO: the worker withdraws a function.
    CantDo {
        /// The function.
        function: &'a [u8],
    },
    /// RESET_ABILITIES: the worker withdraws all its functions.
    ResetAbilities,
    /// PRE_SLEEP: the worker wants to be told when there is work.
    PreSleep,
    /// GRAB_JOB, GRAB_JOB_UNIQ, GRAB_JOB_ALL: the worker wants a job now.
    GrabJob(GrabKind),
    /// Any of the SUBMIT packets.
    Submit(Submission<'a>),
    /// WORK_STATUS: how far a job is. Both numbers are passed on as they came.
    WorkStatus {
        /// The job.
        handle: &'a [u8],
        /// What is done.
        numerator: &'a [u8],
        /// Of how much.
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
        /// The job's unique id, whichever its function.
        unique: &'a [u8],
    },
    /// ECHO_REQ
    Echo {
        /// What comes back.
        workload: Workload<'a>,
    },
    /// OPTION_REQ for `exceptions`, the only option there is.
    OptionExceptions {
        /// The option's name as it was written, which is how it is confirmed.
        written: &'a [u8],
    },
    /// SET_CLIENT_ID
    SetClientId {
        /// The id, what is too long of it cut off.
        id: &'a [u8],
    },
}

/// Which answer a grabbing worker understands.
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
    /// The function that shall run it.
    pub function: &'a [u8],
    /// Equal uniques of one function are one job. Empty: never. `-`: the workload is the unique.
    pub unique: &'a [u8],
    /// Empty for a job that is no reduce job.
    pub reducer: &'a [u8],
    /// High before normal before low.
    pub priority: Priority,
    /// Whether the job lives on without its client.
    pub background: bool,
    /// Not before this time, in seconds since 1970-01-01 UTC; `None` for at once.
    pub due_s: Option<u64>,
    /// The job's argument.
    pub workload: Workload<'a>,
}

impl<'a> Request<'a> {
    /// Parses the body of a packet of type `number`. Looks at nothing but `body`, whatever it holds.
    ///
    /// # Errors
    /// The ERROR packet that the peer deserves. The connection can go on: the frame was whole.
    pub fn parse(number: u32, body: Workload<'a>) -> Result<Self, PeerError> {
        let bytes = body.as_bytes();
        let packet_type = PacketType::from_number(number).ok_or(if number == 5 {
            PeerError::COMMAND_NOT_EXPECTED
        } else {
            PeerError::COMMAND_UNKNOWN
        })?;
        Ok(match packet_type {
            PacketType::CanDo => Self::CanDo { function: function(bytes)?, timeout_ms: None },
            PacketType::CanDoTimeout => can_do_timeout(bytes)?,
            PacketType::CantDo => Self::CantDo { function: function(bytes)? },
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
            // Some workers end the handle with a NUL, which libgearman's clients do not expect to get back.
            PacketType::WorkFail => Self::WorkFail { handle: handle(bytes.strip_suffix(b"\0").unwrap_or(bytes))? },
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
    let due_s = signed_decimal(time).ok_or(PeerError::EPOCH_NOT_A_NUMBER)?;
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
    // The fourth argument has to be there and has no meaning.
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

fn can_do_timeout(body: &[u8]) -> Result<Request<'_>, PeerError> {
    let [name, timeout] = arguments(body)?;
    let timeout = timeout.strip_suffix(b"\0").unwrap_or(timeout);
    let timeout_ms = signed_decimal(timeout).ok_or(PeerError::TIMEOUT_NOT_A_NUMBER)?;
    Ok(Request::CanDo {
        function: function(name)?,
        timeout_ms: u64::try_from(timeout_ms)
            .ok()
            .filter(|timeout_ms| *timeout_ms > 0)
            .map(|timeout_ms| timeout_ms.max(SHORTEST_TIMEOUT_MS)),
    })
}

fn work_status(body: &[u8]) -> Result<Request<'_>, PeerError> {
    let [name, numerator, denominator] = arguments(body)?;
    if leading_number(numerator).is_none() || leading_number(denominator).is_none() {
        return Err(PeerError::STATUS_NOT_A_NUMBER);
    }
    Ok(Request::WorkStatus { handle: handle(name)?, numerator, denominator })
}

fn option(written: &[u8]) -> Result<Request<'_>, PeerError> {
    let name = until_nul(written);
    if written.len() > OPTION_MAX || !name.eq_ignore_ascii_case(b"exceptions") {
        return Err(PeerError::UNKNOWN_OPTION);
    }
    Ok(Request::OptionExceptions { written })
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

fn until_nul(bytes: &[u8]) -> &[u8] {
    memchr::memchr(0, bytes).map_or(bytes, |end| &bytes[..end])
}

fn signed_decimal(bytes: &[u8]) -> Option<i64> {
    match bytes.split_first() {
        Some((b'-', digits)) => {
            parse_decimal(digits).map(|value| i64::try_from(value).map_or(i64::MIN, |value| -value))
        }
        Some((b'+', digits)) => i64::try_from(parse_decimal(digits)?).ok(),
        _ => i64::try_from(parse_decimal(bytes)?).ok(),
    }
}

/// The whole number that `bytes` begins with, as C's `atoi` reads it, but held to 32 bits and not wrapped.
///
/// Workers report progress such as `33.3` too, and clients show it: only what does not begin with a number is refused.
pub fn leading_number(bytes: &[u8]) -> Option<u32> {
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, bytes),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    if negative {
        return Some(0);
    }
    Some(parse_decimal(&digits[..end]).map_or(u32::MAX, |value| u32::try_from(value).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(packet_type: PacketType, body: &[u8]) -> Result<Request<'_>, PeerError> {
        Request::parse(packet_type.number(), Workload::borrowed(body))
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
    fn timeouts_have_a_floor_and_no_overflow() {
        let timeout = |text: &str| {
            let body = [b"f\0", text.as_bytes()].concat();
            match Request::parse(PacketType::CanDoTimeout.number(), Workload::borrowed(&body)) {
                Ok(Request::CanDo { timeout_ms, .. }) => Ok(timeout_ms),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        };
        assert_eq!(timeout("1500"), Ok(Some(1500)));
        assert_eq!(timeout("10"), Ok(Some(1000)));
        assert_eq!(timeout("0"), Ok(None));
        assert_eq!(timeout("-5"), Ok(None));
        for bad in ["", "abc", "99999999999999999999", "1e3"] {
            assert_eq!(timeout(bad), Err(PeerError::TIMEOUT_NOT_A_NUMBER), "{bad}");
        }
    }

    #[test]
    fn numbers_of_progress_are_read_as_far_as_they_go() {
        for (text, value) in
            [("33.3", Some(33)), ("-1", Some(0)), ("99999999999", Some(u32::MAX)), ("abc", None), ("", None)]
        {
            assert_eq!(leading_number(text.as_bytes()), value, "{text}");
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
