//! `gearmand admin`: every command of the text protocol, with table, JSON or raw output.

mod action;
mod answers;

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use self::action::{Action, Form, JobFilter};
use self::answers::Style;
use super::address::{ServerAddress, ServerArgs};
use super::admin_text::{RawAnswer, TextAnswer, TextConnection};
use super::listing;
use super::table::Table;
use super::{EXIT_FAILED, ToolError, connection, tell, values};
use crate::protocol::text::read_name;

/// What `gearmand admin` is told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 the server answered OK or with a list, 1 it answered ERR, 2 usage, 3 no server \
    reachable or no answer in time. Of several servers, the first reachable one is used."
)]
pub struct AdminArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON, one document per line
    #[arg(long, global = true)]
    json: bool,
    /// Print answers as received
    #[arg(long, global = true, conflicts_with = "json")]
    raw: bool,
    /// Repeat a list at this interval, such as 5s or 1m, until interrupted; without a unit: seconds
    #[arg(long, global = true, value_name = "TIME", value_parser = values::time)]
    watch: Option<Duration>,
    /// Time limit for an answer; without a unit: seconds
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = values::time)]
    timeout: Duration,
    #[command(subcommand)]
    action: Option<Action>,
}

/// Sends the command and prints the response; repeats this with `--watch`.
pub(super) async fn run(args: AdminArgs) -> Result<u8, ToolError> {
    let servers = args.server.resolve()?;
    let action = args.action.clone().unwrap_or(Action::Status);
    let Some(interval) = args.watch else {
        if !confirm(&action)? {
            tell("admin", format_args!("cancelled, nothing changed"));
            return Ok(EXIT_FAILED);
        }
        return ask_all(&args, &servers, &action).await;
    };
    if matches!(action.form(), Form::Value(_) | Form::Done | Form::Unknown) {
        return Err(ToolError::Usage("--watch is for lists".to_owned()));
    }
    let clear = io::stdout().is_terminal() && !args.json && !args.raw;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if clear {
            print(b"\x1b[H\x1b[2J")?;
        }
        match ask_all(&args, &servers, &action).await {
            // The server may come back.
            Err(ToolError::Unreachable(why)) => tell("admin", format_args!("{why}")),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
}

async fn ask_all(args: &AdminArgs, servers: &[ServerAddress], action: &Action) -> Result<u8, ToolError> {
    let (address, stream) = connection::open_first(servers, args.server.connect_timeout).await?;
    let mut asker = Asker { connection: TextConnection::new(stream), address, timeout: args.timeout };
    let mut status = 0;
    let is_unknown = match action {
        // Maxqueue answers as C++ gearmand does, which does not tell; neither does the number of moved jobs.
        Action::Maxqueue { function, .. }
        | Action::MoveJob { function, .. }
        | Action::MoveJobs { to: function, .. }
            if action.kept_for_later().is_some() =>
        {
            asker.knows(function).await? == Some(false)
        }
        _ => false,
    };
    for line in action.lines() {
        let answer = match action {
            Action::ListJobs(filter) => asker.list_jobs(filter).await?,
            _ => asker.ask(&line).await?,
        };
        if let TextAnswer::Err(why) = &answer.answer {
            status = EXIT_FAILED;
            if !args.raw && action.form() != Form::Unknown {
                complain(address, action, why);
            }
        }
        let is_for_later = is_unknown && matches!(&answer.answer, TextAnswer::Ok(_));
        if let Some(warning) = action.kept_for_later()
            && (is_for_later || action.counts_for_later() && answer.answer == TextAnswer::Ok(b"0".to_vec()))
        {
            tell("admin", format_args!("{address}: warning: {}", listing::printable(&warning)));
        }
        let style = if args.raw {
            Style::Raw
        } else if args.json {
            Style::Json
        } else {
            Style::Text
        };
        print(&answers::shown(style, action, &answer)?)?;
    }
    Ok(status)
}

/// Reports an error response, with a hint about its possible cause.
fn complain(address: &ServerAddress, action: &Action, why: &[u8]) {
    let text = listing::printable(&String::from_utf8_lossy(why));
    // Newer error responses separate their words by plus signs.
    let text = if action.is_new() { text.replace('+', " ") } else { text };
    tell("admin", format_args!("{address}: {text}"));
    if let Action::DropFunction { function } = action
        && memchr::memmem::find(why, b"cancel jobs ").is_some()
    {
        let function = listing::printable(function);
        tell("admin", format_args!("`gearmand admin cancel-jobs {function}` cancels them"));
    }
    let unknown: [&[u8]; 3] = [b"UNKNOWN_COMMAND", b"UNKNOWN_SHOW_ARGUMENTS", b"UNKNOWN_ERROR"];
    if matches!(action, Action::Shutdown { .. }) && why.starts_with(b"UNKNOWN_COMMAND") {
        tell("admin", format_args!("the server does not allow shutdown: it needs --allow-shutdown"));
    } else if action.is_new() && unknown.iter().any(|code| why.starts_with(code)) {
        tell(
            "admin",
            format_args!("this server does not know the command: it is C++ gearmand, or older than this tool"),
        );
    }
}

/// Asks for confirmation before many things are changed. Without a terminal at standard input, the action is
/// taken as confirmed.
fn confirm(action: &Action) -> Result<bool, ToolError> {
    let stdin = io::stdin();
    let Some(question) = action.question().filter(|_| stdin.is_terminal()) else { return Ok(true) };
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{} [y/N] ", listing::printable(&question)).and_then(|()| stderr.flush());
    asked.map_err(|error| ToolError::Io("cannot ask", error))?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| ToolError::Io("cannot read the answer", error))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A connection with a time limit for responses.
struct Asker<'a> {
    connection: TextConnection,
    address: &'a ServerAddress,
    timeout: Duration,
}

impl Asker<'_> {
    async fn ask(&mut self, line: &str) -> Result<RawAnswer, ToolError> {
        let address = self.address;
        match tokio::time::timeout(self.timeout, self.connection.ask(line)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ToolError::Unreachable(format!("no answer from {address}: {error}"))),
            Err(_) => {
                let limit = self.timeout.as_secs_f64();
                Err(ToolError::Unreachable(format!("no answer from {address} within {limit} s")))
            }
        }
    }

    /// Whether `status` lists a function; `None` if that cannot be determined.
    async fn knows(&mut self, function: &str) -> Result<Option<bool>, ToolError> {
        let answer = self.ask("status").await?;
        let TextAnswer::Listing(lines) = answer.answer else { return Ok(None) };
        let read = read_name(function.as_bytes());
        let is_listed = |line: &Vec<u8>| {
            // This listing does not escape backslashes, but it does escape control characters.
            let name = line.split(|byte| *byte == b'\t').next().unwrap_or_default();
            name == function.as_bytes() || name == read || read_name(name) == read
        };
        Ok(Some(lines.iter().any(is_listed)))
    }

    /// Requests pages until there are as many jobs as wanted. A page may be empty without being the last one.
    /// Empty pages are accepted for as long as one response may take.
    async fn list_jobs(&mut self, filter: &JobFilter) -> Result<RawAnswer, ToolError> {
        let mut heard = Instant::now();
        let mut all = RawAnswer { wire: Vec::new(), answer: TextAnswer::Listing(Vec::new()) };
        let mut lines = Vec::new();
        let (mut found, mut after) = (0, None::<String>);
        loop {
            let page = self.ask(&filter.line(filter.limit - found, after.as_deref())).await?;
            let TextAnswer::Listing(of_page) = &page.answer else { return Ok(page) };
            let Some(table) = Table::parse(of_page) else { return Ok(page) };
            found = found.saturating_add(u32::try_from(table.rows.len()).unwrap_or(u32::MAX));
            all.wire.extend_from_slice(&page.wire);
            // Keep the heading line once, and the position of the next page only from the last page.
            let continues = usize::from(!lines.is_empty());
            let rows = of_page.len() - usize::from(table.next.is_some());
            lines.extend_from_slice(of_page.get(continues..rows).unwrap_or_default());
            if !table.rows.is_empty() {
                heard = Instant::now();
            } else if table.next.is_some() && heard.elapsed() >= self.timeout {
                let (address, limit) = (self.address, self.timeout.as_secs_f64());
                let why = "raise --timeout to search many millions of jobs";
                return Err(ToolError::Unreachable(format!("no job from {address} within {limit} s: {why}")));
            }
            if table.next.is_none() || found >= filter.limit {
                lines.extend_from_slice(&of_page[rows..]);
                all.answer = TextAnswer::Listing(lines);
                return Ok(all);
            }
            after = table.next;
        }
    }
}

fn print(bytes: &[u8]) -> Result<(), ToolError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| ToolError::Io("cannot print", error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::client::Tool;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        tool: Tool,
    }

    fn admin(arguments: &[&str]) -> Result<AdminArgs, clap::Error> {
        let words = ["gearmand", "admin"].iter().chain(arguments);
        match Program::try_parse_from(words)?.tool {
            Tool::Admin(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn lines(arguments: &[&str]) -> Vec<String> {
        admin(arguments).unwrap().action.map_or_else(Vec::new, |action| action.lines())
    }

    #[test]
    fn each_action_is_a_line_of_the_text_protocol() {
        use crate::protocol::text::AdminCommand;
        for (arguments, line) in [
            (&["status"][..], "status"),
            (&["prioritystatus"], "prioritystatus"),
            (&["priority-status"], "prioritystatus"),
            (&["workers"], "workers"),
            (&["show-jobs"], "show jobs"),
            (&["show-unique-jobs"], "show unique jobs"),
            (&["show-store"], "show store"),
            (&["cancel-job", "H:x:1"], "cancel job H:x:1"),
            (&["create-function", "f"], "create function f"),
            (&["drop-function", "f"], "drop function f"),
            (&["maxqueue", "f"], "maxqueue f"),
            (&["maxqueue", "f", "1", "2", "3"], "maxqueue f 1 2 3"),
            (&["getpid"], "getpid"),
            (&["verbose"], "verbose"),
            (&["version"], "version"),
            (&["shutdown"], "shutdown"),
            (&["shutdown", "--graceful"], "shutdown graceful"),
        ] {
            assert_eq!(lines(arguments), [line]);
            assert!(AdminCommand::parse(line.as_bytes()).is_ok(), "{line}");
        }
        assert_eq!(lines(&["raw", "status", "show jobs"]), ["status", "show jobs"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn control_is_said_in_the_words_of_the_text_protocol() {
        for (arguments, line) in [
            (&["show-functions"][..], "show functions"),
            (&["show-workers"], "show workers"),
            (&["show-worker", "1-2"], "show worker 1-2"),
            (&["show-job", "H:x:1"], "show job H:x:1"),
            (&["show-server"], "show server"),
            (&["show-rules"], "show rules"),
            (&["list-jobs"], "list jobs limit=100"),
            (
                &["list-jobs", "--function", "a b", "--waiting", "c d", "--older", "1.5", "--limit", "7"],
                "list jobs function=a\\x20b waiting=c\\x20d older=1.5 limit=7",
            ),
            (
                &["list-jobs", "--unique", "u", "--client", "c", "--priority", "low", "--after", "9"],
                "list jobs unique=u priority=low client=c limit=100 after=9",
            ),
            (&["list-jobs", "--older", "5m", "--limit", "7"], "list jobs older=300 limit=7"),
            (&["list-jobs", "--older", "1.5h", "--limit", "7"], "list jobs older=5400 limit=7"),
            (&["pause", "f"], "pause f"),
            (&["pause", ""], "pause \\e"),
            (&["drop-function", "a b"], "drop function a\\x20b"),
            (&["resume", "a b"], "resume a\\x20b"),
            (&["limit-running", "f", "3"], "limit running f 3"),
            (&["cancel-jobs", "f"], "cancel jobs f"),
            (&["move-job", "H:x:1", "f"], "move job H:x:1 f"),
            (&["move-jobs", "f", "g", "-y"], "move jobs f g"),
            (&["priority-job", "H:x:1", "high"], "priority job H:x:1 high"),
            (&["run-job", "H:x:1"], "run job H:x:1"),
            (&["disable", "host:::1"], "disable host:::1"),
            (&["drain", "client:my id", "f"], "drain client:my\\x20id f"),
            (&["enable", "connection:1-2"], "enable connection:1-2"),
            (&["kick", "host:10.0.0.1", "--yes"], "kick host:10.0.0.1"),
        ] {
            assert_eq!(lines(arguments), [line]);
        }
        for wrong in [
            &["kick", "10.0.0.1"][..],
            &["limit-running", "f"],
            &["limit-running", "f", "-1"],
            &["priority-job", "H:x:1", "urgent"],
            &["list-jobs", "--limit", "0"],
            &["list-jobs", "--state", "storing"],
            &["list-jobs", "--older", "5y"],
            &["list-jobs", "--older", "m"],
        ] {
            assert!(admin(wrong).unwrap_err().use_stderr(), "{wrong:?}");
        }
    }

    #[test]
    fn only_what_changes_many_things_is_asked_about() {
        let question = |arguments: &[&str]| admin(arguments).unwrap().action.and_then(|action| action.question());
        for arguments in
            [&["cancel-jobs", "f"][..], &["move-jobs", "f", "g"], &["kick", "host:h"], &["kick", "client:c"]]
        {
            assert!(question(arguments).is_some(), "{arguments:?}");
            assert_eq!(question(&[arguments, &["--yes"]].concat()), None, "{arguments:?}");
        }
        for arguments in
            [&["kick", "connection:1-2"][..], &["cancel-job", "H:x:1"], &["pause", "f"], &["drain", "host:h"]]
        {
            assert_eq!(question(arguments), None, "{arguments:?}");
        }
    }

    #[test]
    fn options_stand_before_or_behind_the_action_and_h_is_the_host() {
        for arguments in
            [&["-h", "::1", "-p", "99", "--json", "status"][..], &["status", "-h", "::1", "-p", "99", "--json"]]
        {
            let args = admin(arguments).unwrap();
            assert!(args.json);
            assert_eq!(args.server.resolve().unwrap()[0].to_string(), "[::1]:99");
        }
        assert_eq!(admin(&["--help"]).unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
        assert_eq!(admin(&["status", "--help"]).unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
        for wrong in [&["nope"][..], &["cancel-job"], &["create-function", "a b"], &["--raw", "--json"], &["raw"]] {
            assert!(admin(wrong).unwrap_err().use_stderr(), "{wrong:?}");
        }
    }
}
