//! The commands that change something and that C++ gearmand does not know.
//!
//! Names in them are unescaped like those in listings, by [`read_name`](super::read_name), so a name with a
//! space can be typed.

use super::AdminError;
use crate::protocol::Priority;
use crate::protocol::names::parse_decimal;

/// The action. Names and handles are as they were typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlCommand<'a> {
    /// `pause FUNCTION`, `resume FUNCTION`
    Pause {
        /// The function.
        function: &'a [u8],
        /// True to pause, false to resume.
        paused: bool,
    },
    /// `limit running FUNCTION N`
    LimitRunning {
        /// The function.
        function: &'a [u8],
        /// How many of its jobs may run at once; 0 for no limit.
        most: u32,
    },
    /// `cancel jobs FUNCTION`
    CancelJobs(&'a [u8]),
    /// `move job HANDLE FUNCTION`
    MoveJob {
        /// The job.
        handle: &'a [u8],
        /// Its new function.
        to: &'a [u8],
    },
    /// `move jobs FUNCTION FUNCTION`
    MoveJobs {
        /// Their present function.
        from: &'a [u8],
        /// Their new function.
        to: &'a [u8],
    },
    /// `priority job HANDLE high|normal|low`
    SetPriority {
        /// The job.
        handle: &'a [u8],
        /// Its new priority.
        priority: Priority,
    },
    /// `run job HANDLE`
    RunJob(&'a [u8]),
    /// `disable WORKERS [FUNCTION]`
    Disable(Workers<'a>, Option<&'a [u8]>),
    /// `drain WORKERS [FUNCTION]`
    Drain(Workers<'a>, Option<&'a [u8]>),
    /// `enable WORKERS [FUNCTION]`
    Enable(Workers<'a>, Option<&'a [u8]>),
    /// `kick WORKERS`
    Kick(Workers<'a>),
}

/// Selects workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers<'a> {
    /// `connection:SLOT-GENERATION`
    Connection {
        /// The first part of the connection's id.
        slot: u32,
        /// The second part.
        generation: u32,
    },
    /// `client:ID`
    Client(&'a [u8]),
    /// `host:ADDRESS`
    Host(&'a str),
}

impl<'a> ControlCommand<'a> {
    /// Parses the command that begins with `word`, which is in lower case. `None` if there is no such
    /// command; the inner `None` if it needs another number of arguments.
    pub(super) fn parse(word: &[u8], arguments: &[&'a [u8]]) -> Option<Result<Option<Self>, AdminError<'a>>> {
        Some(match word {
            b"pause" | b"resume" => {
                let function = one(arguments);
                Ok(function.map(|function| Self::Pause { function, paused: word == b"pause" }))
            }
            b"limit" => match after(b"running", arguments) {
                Some([function, most]) if !function.is_empty() => {
                    count(most).map(|most| Some(Self::LimitRunning { function, most }))
                }
                _ => Ok(None),
            },
            b"move" => Ok(match (after(b"job", arguments), after(b"jobs", arguments)) {
                (Some([handle, to]), _) if !to.is_empty() => Some(Self::MoveJob { handle, to }),
                (_, Some([from, to])) if !from.is_empty() && !to.is_empty() => Some(Self::MoveJobs { from, to }),
                _ => None,
            }),
            b"priority" => match after(b"job", arguments) {
                Some([handle, name]) => priority(name).map(|priority| Some(Self::SetPriority { handle, priority })),
                _ => Ok(None),
            },
            b"run" => Ok(after(b"job", arguments).and_then(one).map(Self::RunJob)),
            b"disable" => with_workers(arguments, Self::Disable),
            b"drain" => with_workers(arguments, Self::Drain),
            b"enable" => with_workers(arguments, Self::Enable),
            b"kick" => match arguments {
                [who] if !who.is_empty() => workers(who).map(|who| Some(Self::Kick(who))),
                _ => Ok(None),
            },
            _ => return None,
        })
    }
}

/// The only argument, if there is one and it is not empty.
fn one<'a>(arguments: &[&'a [u8]]) -> Option<&'a [u8]> {
    match arguments {
        [argument] if !argument.is_empty() => Some(argument),
        _ => None,
    }
}

/// The arguments after the word `what`.
fn after<'w, 'a>(what: &[u8], arguments: &'w [&'a [u8]]) -> Option<&'w [&'a [u8]]> {
    arguments.split_first().filter(|(first, _)| first.eq_ignore_ascii_case(what)).map(|(_, rest)| rest)
}

type Make<'a> = fn(Workers<'a>, Option<&'a [u8]>) -> ControlCommand<'a>;

fn with_workers<'a>(arguments: &[&'a [u8]], make: Make<'a>) -> Result<Option<ControlCommand<'a>>, AdminError<'a>> {
    match arguments {
        [who] if !who.is_empty() => workers(who).map(|who| Some(make(who, None))),
        [who, function] if !function.is_empty() => workers(who).map(|who| Some(make(who, Some(function)))),
        _ => Ok(None),
    }
}

fn workers(word: &[u8]) -> Result<Workers<'_>, AdminError<'_>> {
    const WANTED: AdminError<'_> = AdminError::BadArgument("Workers are connection:ID, client:ID or host:ADDRESS");
    let colon = memchr::memchr(b':', word).ok_or(WANTED)?;
    let value = &word[colon + 1..];
    if value.is_empty() {
        return Err(WANTED);
    }
    match word[..colon].to_ascii_lowercase().as_slice() {
        b"connection" => worker_id(value).map(|(slot, generation)| Workers::Connection { slot, generation }),
        b"client" => Ok(Workers::Client(value)),
        b"host" => str::from_utf8(value).map(Workers::Host).map_err(|_| WANTED),
        _ => Err(WANTED),
    }
}

/// Parses `SLOT-GENERATION`, the id of a connection.
pub fn connection_id(word: &[u8]) -> Option<(u32, u32)> {
    let number = |digits: &[u8]| parse_decimal(digits).and_then(|number| u32::try_from(number).ok());
    memchr::memchr(b'-', word).and_then(|hyphen| number(&word[..hyphen]).zip(number(&word[hyphen + 1..])))
}

/// The same, with an error if the word is anything else.
pub(super) fn worker_id(word: &[u8]) -> Result<(u32, u32), AdminError<'_>> {
    connection_id(word)
        .ok_or(AdminError::BadArgument("A connection id is two numbers with a hyphen, as listed by show workers"))
}

fn count(word: &[u8]) -> Result<u32, AdminError<'_>> {
    parse_decimal(word)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(AdminError::BadArgument("A limit is a number of jobs, 0 for none"))
}

/// Parses the name of a priority.
pub(super) fn priority(word: &[u8]) -> Result<Priority, AdminError<'_>> {
    let name = str::from_utf8(word).ok().map(str::to_ascii_lowercase);
    name.and_then(|name| Priority::from_name(&name)).ok_or(AdminError::BadArgument("A priority is high, normal or low"))
}

#[cfg(test)]
mod tests {
    use super::super::{AdminCommand, AdminError};
    use super::*;

    fn parse(line: &str) -> Result<AdminCommand<'_>, AdminError<'_>> {
        AdminCommand::parse(line.as_bytes())
    }

    #[test]
    fn every_command_is_read() {
        let connection = Workers::Connection { slot: 12, generation: 3456 };
        let expected = [
            ("pause f", ControlCommand::Pause { function: b"f", paused: true }),
            ("RESUME F", ControlCommand::Pause { function: b"F", paused: false }),
            ("limit Running f 3", ControlCommand::LimitRunning { function: b"f", most: 3 }),
            ("limit running f 0", ControlCommand::LimitRunning { function: b"f", most: 0 }),
            ("cancel jobs f", ControlCommand::CancelJobs(b"f")),
            ("move job H:x:1 g", ControlCommand::MoveJob { handle: b"H:x:1", to: b"g" }),
            ("move JOBS f  g", ControlCommand::MoveJobs { from: b"f", to: b"g" }),
            ("priority job H:x:1 High", ControlCommand::SetPriority { handle: b"H:x:1", priority: Priority::High }),
            ("run job H:x:1", ControlCommand::RunJob(b"H:x:1")),
            ("disable connection:12-3456", ControlCommand::Disable(connection, None)),
            ("drain client:a:b f", ControlCommand::Drain(Workers::Client(b"a:b"), Some(b"f"))),
            ("enable Host:::1", ControlCommand::Enable(Workers::Host("::1"), None)),
            ("kick host:10.0.0.1", ControlCommand::Kick(Workers::Host("10.0.0.1"))),
        ];
        for (line, command) in expected {
            assert_eq!(parse(line), Ok(AdminCommand::Control(command)), "{line}");
        }
    }

    #[test]
    fn what_lacks_an_argument_or_has_one_too_many_is_named() {
        for line in [
            "pause",
            "pause ",
            "pause f g",
            "resume",
            "limit",
            "limit running f",
            "limit walking f 1",
            "limit running f 1 2",
            "move",
            "move job x",
            "move jobs f ",
            "move job x f g",
            "priority job x",
            "priority high x",
            "run",
            "run job",
            "run job ",
            "disable",
            "drain ",
            "enable host:x ",
            "kick",
            "kick host:x f",
        ] {
            let word = line.split(' ').next().unwrap();
            assert_eq!(parse(line), Err(AdminError::WrongArguments(word.as_bytes())), "{line}");
        }
    }

    #[test]
    fn arguments_are_checked_for_their_form() {
        for line in [
            "limit running f -1",
            "limit running f 4294967296",
            "limit running f x",
            "priority job x urgent",
            "disable worker:1",
            "disable host",
            "disable host:",
            "kick connection:1",
            "kick connection:1-",
            "kick connection:1-2-3",
            "kick connection:1-4294967296",
            "show worker 1",
        ] {
            assert!(matches!(parse(line), Err(AdminError::BadArgument(_))), "{line}");
        }
        assert!(matches!(AdminCommand::parse(b"kick host:\xff"), Err(AdminError::BadArgument(_))));
    }
}
