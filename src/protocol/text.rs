//! The administrative text protocol: one line per command, a response of a few lines, on the same port as the
//! binary packets.
//!
//! Formats that monitoring tools parse are kept byte for byte: listings end with a line `.`, responses with a
//! value end with a bare newline, `OK` and `ERR` alone end with a carriage return and a newline. The listings
//! of C++ gearmand never get more columns. Other listings begin with a line of column names, and readers must
//! find columns by name.

mod control;
mod filter;
mod name;

pub use self::control::{ControlCommand, Workers, connection_id};
pub use self::filter::JobWords;
pub use self::name::{escaped, read_name, write_escaped, write_name};

use super::names::{JobHandle, parse_decimal, write_decimal};

/// Maximum number of words of a command, other than `list jobs`.
pub const MAX_WORDS: usize = 5;

/// A command, with the number and form of its arguments validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand<'a> {
    /// `workers`: every connection with its functions.
    Workers,
    /// `status`: every function with its counts of jobs, running jobs and workers.
    Status,
    /// `prioritystatus`: every function with its queued jobs by priority, and its workers.
    PriorityStatus,
    /// `show jobs`
    ShowJobs,
    /// `show unique jobs`
    ShowUniqueJobs,
    /// `show store`: the state of the store of background jobs. C++ gearmand knows neither this command nor
    /// the `show` commands below.
    ShowStore,
    /// `show functions`
    ShowFunctions,
    /// `show workers`
    ShowWorkers,
    /// `show worker SLOT-GENERATION`
    ShowWorker {
        /// The first part of the connection's id.
        slot: u32,
        /// The second part.
        generation: u32,
    },
    /// `show job HANDLE`
    ShowJob(&'a [u8]),
    /// `show server`
    ShowServer,
    /// `show rules`: the worker rules.
    ShowRules,
    /// `list jobs [NAME=VALUE ...]`
    ListJobs(JobWords<'a>),
    /// A command that changes something, and that C++ gearmand does not know.
    Control(ControlCommand<'a>),
    /// `cancel job HANDLE`
    CancelJob(&'a [u8]),
    /// `create function NAME`
    CreateFunction(&'a [u8]),
    /// `drop function NAME`
    DropFunction(&'a [u8]),
    /// `maxqueue NAME [HIGH [NORMAL [LOW]]]`; 0 is no limit.
    MaxQueue {
        /// The function.
        function: &'a [u8],
        /// The limit for a new job of each priority, compared with all jobs of the function.
        limits: [u32; 3],
    },
    /// `getpid`
    GetPid,
    /// `verbose`: the log level.
    Verbose,
    /// `version`
    Version,
    /// `shutdown`, `shutdown graceful`: only if the configuration allows it.
    Shutdown {
        /// Whether running jobs may finish first.
        graceful: bool,
    },
}

/// Why a line is not a valid command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminError<'a> {
    /// No command begins with this word.
    UnknownCommand(&'a [u8]),
    /// The command, as it was typed, needs other arguments.
    WrongArguments(&'a [u8]),
    /// Unknown argument of `show`.
    UnknownShow,
    /// `cancel` takes `job` and a handle, or `jobs` and a function.
    BadCancel,
    /// More than [`MAX_WORDS`] words.
    TooManyWords,
    /// An argument is invalid; the text says what is expected.
    BadArgument(&'static str),
}

impl AdminError<'_> {
    /// Appends the response.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::UnknownCommand(word) => {
                out.extend_from_slice(b"ERR UNKNOWN_COMMAND Unknown+server+command");
                out.extend_from_slice(word);
                out.extend_from_slice(b"\r\n");
            }
            Self::WrongArguments(word) => {
                out.extend_from_slice(
                    b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+",
                );
                out.extend_from_slice(word);
                out.extend_from_slice(b"\r\n");
            }
            Self::UnknownShow => out.extend_from_slice(b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
            Self::BadCancel => out.extend_from_slice(b"ERR UNKNOWN_ERROR\r\n"),
            Self::TooManyWords => {
                out.extend_from_slice(b"ERR INVALID_ARGUMENTS Too+many+words+in+this+command\r\n");
            }
            Self::BadArgument(wanted) => write_error("INVALID_ARGUMENTS", wanted, out),
        }
    }
}

/// The response to a command without any other output.
pub const OK: &[u8] = b"OK\r\n";
/// The last line of every listing.
pub const END_OF_LIST: &[u8] = b".\n";
/// `drop function` for an unknown function.
pub const FUNCTION_NOT_FOUND: &[u8] = b"ERR function not found\r\n";
/// `drop function` for a function that has workers or running jobs.
pub const FUNCTION_IN_USE: &[u8] = b"ERR there are still connected workers or executing clients\r\n";
/// `cancel job` for an unknown handle.
pub const UNKNOWN_JOB: &[u8] = b"ERR UNKNOWN_JOB\r\n";
/// `create function` or `maxqueue` for a new function when the limit of functions is reached.
pub const TOO_MANY_FUNCTIONS: &[u8] = b"ERR TOO_MANY_FUNCTIONS Too+many+functions+on+this+server+(max-functions)\r\n";
/// `create function` or `maxqueue` with a name that is too long.
pub const FUNCTION_TOO_LARGE: &[u8] = b"ERR ARGUMENT_TOO_LARGE Function+name+too+large\r\n";
/// A command that changes something, on a read-only server.
pub const READ_ONLY: &[u8] = b"ERR READ_ONLY Text+commands+are+read-only+on+this+server+(admin-read-only)\r\n";
/// A line that is longer than the limit; the connection is closed after it.
pub const LINE_TOO_LONG: &[u8] = b"ERR LINE_TOO_LONG The+line+is+longer+than+the+limit+(max-admin-line)\r\n";

impl<'a> AdminCommand<'a> {
    /// Parses a line without its line end.
    ///
    /// Words are separated by runs of spaces. A leading space makes an empty first word, a trailing one an
    /// empty last word. Only `list jobs` can have more than [`MAX_WORDS`] words.
    ///
    /// # Errors
    /// The error to respond with.
    pub fn parse(line: &'a [u8]) -> Result<Self, AdminError<'a>> {
        let is_list = line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"list "));
        let max_words = if is_list { filter::MAX_WORDS } else { MAX_WORDS };
        let words = split_words(line, max_words).ok_or(AdminError::TooManyWords)?;
        let (typed, arguments) = words.split_first().map_or((&b""[..], &[][..]), |(word, rest)| (*word, rest));
        let command = until_nul(typed).to_ascii_lowercase();
        match command.as_slice() {
            b"workers" => Ok(Self::Workers),
            b"status" => Ok(Self::Status),
            b"prioritystatus" => Ok(Self::PriorityStatus),
            b"getpid" => Ok(Self::GetPid),
            b"verbose" => Ok(Self::Verbose),
            b"version" => Ok(Self::Version),
            b"show" => Self::parse_show(typed, arguments),
            b"cancel" => Self::parse_cancel(typed, arguments),
            b"create" => Self::function_argument(typed, arguments).map(Self::CreateFunction),
            b"drop" => Self::function_argument(typed, arguments).map(Self::DropFunction),
            b"maxqueue" => Self::parse_maxqueue(typed, arguments),
            b"shutdown" => match arguments {
                [] => Ok(Self::Shutdown { graceful: false }),
                [how] if how.eq_ignore_ascii_case(b"graceful") => Ok(Self::Shutdown { graceful: true }),
                _ => Err(AdminError::WrongArguments(typed)),
            },
            b"list" => match arguments {
                [what, filters @ ..] if what.eq_ignore_ascii_case(b"jobs") => {
                    JobWords::parse(filters).map(Self::ListJobs)
                }
                _ => Err(AdminError::WrongArguments(typed)),
            },
            word => match ControlCommand::parse(word, arguments) {
                Some(command) => command?.map(Self::Control).ok_or(AdminError::WrongArguments(typed)),
                None => Err(AdminError::UnknownCommand(typed)),
            },
        }
    }

    /// Whether it changes something, even if it only creates a function.
    pub const fn is_change(&self) -> bool {
        matches!(
            self,
            Self::CancelJob(_)
                | Self::CreateFunction(_)
                | Self::DropFunction(_)
                | Self::MaxQueue { .. }
                | Self::Shutdown { .. }
                | Self::Control(_)
        )
    }

    /// Whether it takes almost no time, apart from a long response: it changes nothing, and does not search
    /// through data to make a short response. All commands that tools send to C++ gearmand are like this.
    pub const fn is_quick(&self) -> bool {
        matches!(
            self,
            Self::GetPid
                | Self::Verbose
                | Self::Version
                | Self::Status
                | Self::PriorityStatus
                | Self::Workers
                | Self::ShowJobs
                | Self::ShowUniqueJobs
        )
    }

    fn parse_show(typed: &'a [u8], arguments: &[&'a [u8]]) -> Result<Self, AdminError<'a>> {
        match arguments {
            [] => Err(AdminError::UnknownCommand(typed)),
            [what] if what.eq_ignore_ascii_case(b"jobs") => Ok(Self::ShowJobs),
            [what] if what.eq_ignore_ascii_case(b"store") => Ok(Self::ShowStore),
            [what] if what.eq_ignore_ascii_case(b"functions") => Ok(Self::ShowFunctions),
            [what] if what.eq_ignore_ascii_case(b"workers") => Ok(Self::ShowWorkers),
            [what] if what.eq_ignore_ascii_case(b"server") => Ok(Self::ShowServer),
            [what] if what.eq_ignore_ascii_case(b"rules") => Ok(Self::ShowRules),
            [what, handle] if what.eq_ignore_ascii_case(b"job") => Ok(Self::ShowJob(handle)),
            [what, id] if what.eq_ignore_ascii_case(b"worker") => {
                let (slot, generation) = control::worker_id(id)?;
                Ok(Self::ShowWorker { slot, generation })
            }
            [unique, what] if unique.eq_ignore_ascii_case(b"unique") && what.eq_ignore_ascii_case(b"jobs") => {
                Ok(Self::ShowUniqueJobs)
            }
            _ => Err(AdminError::UnknownShow),
        }
    }

    fn parse_cancel(typed: &'a [u8], arguments: &[&'a [u8]]) -> Result<Self, AdminError<'a>> {
        match arguments {
            [] | [_] => Err(AdminError::UnknownCommand(typed)),
            [what, handle] if what.eq_ignore_ascii_case(b"job") => Ok(Self::CancelJob(handle)),
            [what, function] if what.eq_ignore_ascii_case(b"jobs") && !function.is_empty() => {
                Ok(Self::Control(ControlCommand::CancelJobs(function)))
            }
            _ => Err(AdminError::BadCancel),
        }
    }

    fn parse_maxqueue(typed: &'a [u8], arguments: &[&'a [u8]]) -> Result<Self, AdminError<'a>> {
        let (function, limits) = match arguments {
            // A script may omit the number but not the space before it.
            [function] | [function, b""] => (function, [0; 3]),
            [function, all] => (function, [queue_limit(all)?; 3]),
            [function, high, normal] => (function, [queue_limit(high)?, queue_limit(normal)?, 0]),
            [function, high, normal, low] => (function, [queue_limit(high)?, queue_limit(normal)?, queue_limit(low)?]),
            _ => return Err(AdminError::WrongArguments(typed)),
        };
        Ok(Self::MaxQueue { function, limits })
    }

    fn function_argument(typed: &'a [u8], arguments: &[&'a [u8]]) -> Result<&'a [u8], AdminError<'a>> {
        match arguments {
            [what, function] if what.eq_ignore_ascii_case(b"function") && !function.is_empty() => Ok(function),
            _ => Err(AdminError::WrongArguments(typed)),
        }
    }
}

/// A limit of `maxqueue`. C++ gearmand takes a number below zero for no limit, and words that are not numbers
/// too; the latter are refused here.
fn queue_limit(word: &[u8]) -> Result<u32, AdminError<'static>> {
    const WANTED: AdminError<'_> =
        AdminError::BadArgument("A limit is a number of jobs, 0 for none: maxqueue NAME [HIGH [NORMAL [LOW]]]");
    let (digits, is_negative) = match word {
        [b'-', digits @ ..] => (digits, true),
        [b'+', digits @ ..] | digits => (digits, false),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(WANTED);
    }
    let number = parse_decimal(digits).and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX);
    Ok(if is_negative { 0 } else { number })
}

/// `None` if there are more than `max_words`.
fn split_words(line: &[u8], max_words: usize) -> Option<Vec<&[u8]>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        if words.len() == max_words {
            return None;
        }
        let Some(end) = memchr::memchr(b' ', rest) else {
            words.push(rest);
            return Some(words);
        };
        words.push(&rest[..end]);
        let next = rest[end..].iter().position(|byte| *byte != b' ').unwrap_or(rest.len() - end);
        rest = &rest[end + next..];
    }
}

fn until_nul(word: &[u8]) -> &[u8] {
    memchr::memchr(0, word).map_or(word, |end| &word[..end])
}

/// Appends `ERR CODE TEXT`, the text with `+` for its spaces.
pub fn write_error(code: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ERR ");
    out.extend_from_slice(code.as_bytes());
    out.push(b' ');
    out.extend(text.bytes().map(|byte| if byte == b' ' { b'+' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// Appends the response to `drop function` for a function with queued jobs: it names the command that purges
/// them.
pub fn write_has_jobs(function: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"ERR there are still queued jobs, which this command removes: cancel jobs ");
    write_escaped(function, out, b' ');
    out.extend_from_slice(b"\r\n");
}

/// Appends a line of `status` or `prioritystatus`: a function and its counts, separated by tabs.
pub fn write_counts(function: &[u8], counts: &[u64], out: &mut Vec<u8>) {
    write_name(function, out, false);
    for count in counts {
        out.push(b'\t');
        write_decimal(*count, out);
    }
    out.push(b'\n');
}

/// Appends a line of `show jobs`: handle, failed attempts, 1 if the job is abandoned, 1 if it is a background
/// job.
pub fn write_job(handle: JobHandle<'_>, retries: u32, abandoned: bool, background: bool, out: &mut Vec<u8>) {
    handle.write(out);
    for count in [u64::from(retries), u64::from(abandoned), u64::from(background)] {
        out.push(b'\t');
        write_decimal(count, out);
    }
    out.push(b'\n');
}

/// Appends `OK N`, where N is the number of changes, with the line end of [`OK`].
pub fn write_affected(affected: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"OK ");
    write_decimal(affected, out);
    out.extend_from_slice(b"\r\n");
}

/// Whether a line belongs to the head of an HTTP request, which a web page can make a browser send to any
/// port.
///
/// Lines of its body could be commands. No command looks like this.
pub fn is_http(line: &[u8]) -> bool {
    if line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:")) {
        return true;
    }
    let mut words = line.trim_ascii().splitn(3, |byte| *byte == b' ');
    let (_, Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let is_target =
        [&b"/"[..], b"http://", b"https://"].iter().any(|start| target.starts_with(start)) || target == b"*";
    is_target && version.starts_with(b"HTTP/")
}

/// Appends `OK VALUE` and a bare newline, the line end of value responses.
pub fn write_value(value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"OK ");
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str) -> String {
        let mut out = Vec::new();
        match AdminCommand::parse(line.as_bytes()) {
            Ok(command) => return format!("{command:?}"),
            Err(error) => error.write(&mut out),
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn http_is_told_from_commands() {
        for line in [
            "POST / HTTP/1.1",
            "post /a?b HTTP/1.0\r",
            "GET http://h:1/ HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "Host: h",
            "hOST:h",
        ] {
            assert!(is_http(line.as_bytes()), "{line}");
        }
        for line in ["create function HTTP/1.1", "drop function host:", "kick host:h", "pause /f", "", "POST /", "host"]
        {
            assert!(!is_http(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn commands_are_read_in_any_case_and_extra_words_of_listings_are_ignored() {
        for line in ["status", "STATUS", "status x y", "status ", "status\0x"] {
            assert_eq!(AdminCommand::parse(line.as_bytes()), Ok(AdminCommand::Status), "{line}");
        }
        assert_eq!(AdminCommand::parse(b"create  function   abc"), Ok(AdminCommand::CreateFunction(b"abc")));
        assert_eq!(
            AdminCommand::parse(b"maxqueue f +3 0 -1"),
            Ok(AdminCommand::MaxQueue { function: b"f", limits: [3, 0, 0] })
        );
    }

    #[test]
    fn errors_are_worded_as_tools_know_them() {
        assert_eq!(answer(""), "ERR UNKNOWN_COMMAND Unknown+server+command\r\n");
        assert_eq!(answer(" status"), "ERR UNKNOWN_COMMAND Unknown+server+command\r\n");
        assert_eq!(answer("nope x"), "ERR UNKNOWN_COMMAND Unknown+server+commandnope\r\n");
        assert_eq!(answer("show"), "ERR UNKNOWN_COMMAND Unknown+server+commandshow\r\n");
        assert_eq!(answer("cancel job"), "ERR UNKNOWN_COMMAND Unknown+server+commandcancel\r\n");
        for line in ["show unique", "show jobs x", "show jobs ", "show unique jobs x"] {
            assert_eq!(answer(line), "ERR UNKNOWN_SHOW_ARGUMENTS\r\n", "{line}");
        }
        assert_eq!(answer("cancel foo bar"), "ERR UNKNOWN_ERROR\r\n");
        let incomplete = "ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+";
        for (line, word) in [
            ("maxqueue", "maxqueue"),
            ("CREATE function", "CREATE"),
            ("create function a b", "create"),
            ("drop", "drop"),
        ] {
            assert_eq!(answer(line), format!("{incomplete}{word}\r\n"));
        }
        assert!(answer("a b c d e f").starts_with("ERR INVALID_ARGUMENTS Too+many"));
    }

    #[test]
    fn names_cannot_break_a_listing() {
        let mut out = Vec::new();
        write_name(b"a\tb c\n\xff", &mut out, true);
        assert_eq!(out, b"a\\x09b\\x20c\\x0a\xff");
    }

    #[test]
    fn only_the_list_of_jobs_may_have_more_words_than_the_limit() {
        let many = "list jobs function=f state=queued unique=u priority=low client=c waiting=w older=1 limit=1 after=1";
        assert!(matches!(AdminCommand::parse(many.as_bytes()), Ok(AdminCommand::ListJobs(_))));
        assert_eq!(AdminCommand::parse(format!("{many} x").as_bytes()), Err(AdminError::TooManyWords));
        assert_eq!(AdminCommand::parse(b"listing jobs a b c d"), Err(AdminError::TooManyWords));
        assert_eq!(AdminCommand::parse(b"move jobs a b c d"), Err(AdminError::TooManyWords));
    }

    #[test]
    fn what_is_shown_and_what_changes_something_is_told_apart() {
        let parse = |line: &'static str| AdminCommand::parse(line.as_bytes()).unwrap();
        assert_eq!(parse("show functions"), AdminCommand::ShowFunctions);
        assert_eq!(parse("SHOW Workers"), AdminCommand::ShowWorkers);
        assert_eq!(parse("show server"), AdminCommand::ShowServer);
        assert_eq!(parse("show rules"), AdminCommand::ShowRules);
        assert_eq!(parse("show job H:x:1"), AdminCommand::ShowJob(b"H:x:1"));
        assert_eq!(parse("show worker 3-14"), AdminCommand::ShowWorker { slot: 3, generation: 14 });
        for line in ["status", "show functions", "show job x", "list jobs", "verbose", "getpid", "version"] {
            assert!(!parse(line).is_change(), "{line}");
        }
        for line in ["verbose", "getpid", "version", "status", "workers", "show jobs"] {
            assert!(parse(line).is_quick(), "{line}");
        }
        for line in ["show server", "show job H:x:1", "show workers", "create function f", "kick host:h"] {
            assert!(!parse(line).is_quick(), "{line}");
        }
        for line in [
            "cancel job x",
            "cancel jobs f",
            "create function f",
            "drop function f",
            "maxqueue f",
            "shutdown",
            "kick host:h",
        ] {
            assert!(parse(line).is_change(), "{line}");
        }
        for line in ["show job", "show worker", "show functions x", "show server x"] {
            assert_eq!(answer(line), "ERR UNKNOWN_SHOW_ARGUMENTS\r\n", "{line}");
        }
    }
}
