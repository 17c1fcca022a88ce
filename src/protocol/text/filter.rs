//! The filters of `list jobs`.

use std::time::Duration;

use super::AdminError;
use super::control::priority;
use crate::protocol::Priority;
use crate::protocol::names::parse_decimal;
use crate::protocol::units::{self, TimeUnit};

/// The number of words of `list jobs` with all of its filters.
pub(super) const MAX_WORDS: usize = 11;

/// Selects the jobs to list. Names are as they were typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobWords<'a> {
    /// `function=NAME`
    pub function: Option<&'a [u8]>,
    /// `state=scheduled`, `state=queued` or `state=running`
    pub state: Option<&'static str>,
    /// `unique=ID`
    pub unique: Option<&'a [u8]>,
    /// `priority=high`, `priority=normal` or `priority=low`
    pub priority: Option<Priority>,
    /// `client=ID`: held by a worker with this client id.
    pub client: Option<&'a [u8]>,
    /// `waiting=ID`: a connection with this client id waits for the result.
    pub waiting: Option<&'a [u8]>,
    /// `older=TIME`: submitted at least this long ago; a number without a unit counts seconds.
    pub older: Option<Duration>,
    /// `limit=N`: maximum number of jobs.
    pub limit: Option<usize>,
    /// `after=CURSOR`: only jobs after the cursor that an earlier response ended with.
    pub after: Option<u64>,
}

impl<'a> JobWords<'a> {
    pub(super) fn parse(words: &[&'a [u8]]) -> Result<Self, AdminError<'a>> {
        let mut filters = Self::default();
        for word in words {
            filters.add(word)?;
        }
        Ok(filters)
    }

    fn add(&mut self, word: &'a [u8]) -> Result<(), AdminError<'a>> {
        const UNKNOWN: AdminError<'_> = AdminError::BadArgument(
            "Filters are function= state= unique= priority= client= waiting= older= limit= after=",
        );
        let equals = memchr::memchr(b'=', word).ok_or(UNKNOWN)?;
        let value = &word[equals + 1..];
        let is_new = match word[..equals].to_ascii_lowercase().as_slice() {
            b"function" => self.function.replace(value).is_none(),
            b"state" => self.state.replace(state(value)?).is_none(),
            b"unique" => self.unique.replace(value).is_none(),
            b"priority" => self.priority.replace(priority(value)?).is_none(),
            b"client" => self.client.replace(value).is_none(),
            b"waiting" => self.waiting.replace(value).is_none(),
            b"older" => self.older.replace(age(value)?).is_none(),
            b"limit" => self.limit.replace(usize::try_from(number(value)?).unwrap_or(usize::MAX)).is_none(),
            b"after" => self.after.replace(number(value)?).is_none(),
            _ => return Err(UNKNOWN),
        };
        if is_new { Ok(()) } else { Err(AdminError::BadArgument("Each filter can be given once")) }
    }
}

fn state(word: &[u8]) -> Result<&'static str, AdminError<'_>> {
    ["scheduled", "queued", "running"]
        .into_iter()
        .find(|state| word.eq_ignore_ascii_case(state.as_bytes()))
        .ok_or(AdminError::BadArgument("The state of a job is scheduled, queued or running"))
}

fn age(word: &[u8]) -> Result<Duration, AdminError<'_>> {
    let time = str::from_utf8(word).ok().and_then(|text| units::time(text, TimeUnit::Seconds).ok());
    time.ok_or(AdminError::BadArgument("An age is a number of seconds, or has the unit ms, s, m, h or d"))
}

fn number(word: &[u8]) -> Result<u64, AdminError<'_>> {
    parse_decimal(word).ok_or(AdminError::BadArgument("limit= and after= are numbers"))
}

#[cfg(test)]
mod tests {
    use super::super::AdminCommand;
    use super::*;

    fn parse(line: &str) -> Result<JobWords<'_>, AdminError<'_>> {
        match AdminCommand::parse(line.as_bytes())? {
            AdminCommand::ListJobs(words) => Ok(words),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn filters_are_read_in_any_order_and_case() {
        assert_eq!(parse("list jobs"), Ok(JobWords::default()));
        let all = JobWords {
            function: Some(b"f=g"),
            state: Some("queued"),
            unique: Some(b""),
            priority: Some(Priority::Low),
            client: Some(b"c"),
            waiting: Some(b"w"),
            older: Some(Duration::from_millis(1500)),
            limit: Some(7),
            after: Some(99),
        };
        let line =
            "LIST Jobs after=99 limit=7 OLDER=1.5 client=c waiting=w priority=LOW unique= state=Queued function=f=g";
        assert_eq!(parse(line), Ok(all));
    }

    #[test]
    fn filters_are_checked() {
        for filter in [
            "function",
            "colour=red",
            "state=storing",
            "priority=1",
            "older=-1",
            "older=nan",
            "older=1e99",
            "older=5y",
            "older=",
            "limit=x",
            "limit=-1",
            "after=",
            "",
        ] {
            let line = format!("list jobs {filter}");
            assert!(matches!(parse(&line), Err(AdminError::BadArgument(_))), "{line}");
        }
        assert!(matches!(parse("list jobs limit=1 limit=1"), Err(AdminError::BadArgument(_))));
        for line in ["list", "list workers", "list ", "list job"] {
            assert_eq!(parse(line), Err(AdminError::WrongArguments(b"list")), "{line}");
        }
    }
}
