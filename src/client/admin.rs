//! `gearmand admin`: every command of the text protocol, as table, as JSON or as it is on the wire.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::address::{ServerAddress, ServerArgs};
use super::admin_text::{RawAnswer, TextAnswer, TextConnection};
use super::listing::{self, Listing};
use super::{EXIT_FAILED, ToolError, connection, tell, values};

/// What `gearmand admin` is told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 the server answered OK or with a list, 1 it answered ERR, 2 usage, 3 no server \
    could be reached or none answered in time. Of several servers the first that can be reached is asked."
)]
pub struct AdminArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON, one document a line
    #[arg(long, global = true)]
    json: bool,
    /// Print answers as they are on the wire
    #[arg(long, global = true, conflicts_with = "json")]
    raw: bool,
    /// Repeat a list every so many seconds, until interrupted
    #[arg(long, global = true, value_name = "SECONDS", value_parser = values::seconds)]
    watch: Option<Duration>,
    /// Time limit for an answer, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = values::seconds)]
    timeout: Duration,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What to ask or to do; `status` if nothing is said.
#[derive(Clone, Debug, clap::Subcommand)]
enum Action {
    /// List functions: jobs (queued and running), running jobs, workers
    Status,
    /// List functions: queued jobs by priority, workers
    #[command(visible_alias = "priority-status")]
    Prioritystatus,
    /// List connections and the functions that they do
    Workers,
    /// List jobs: handle, failed attempts, abandoned, in the background
    ShowJobs,
    /// List the unique ids of jobs
    ShowUniqueJobs,
    /// Tell where background jobs are kept, and how that does (not known to C++ gearmand)
    ShowStore,
    /// Cancel a job; the result of one that runs is dropped
    CancelJob {
        /// As `submit` prints it and `show-jobs` lists it
        #[arg(value_parser = values::admin_word)]
        handle: String,
    },
    /// Create a function without jobs or workers
    CreateFunction {
        /// Its name
        #[arg(value_parser = values::admin_word)]
        function: String,
    },
    /// Remove a function that nothing and nobody uses
    DropFunction {
        /// Its name
        #[arg(value_parser = values::admin_word)]
        function: String,
    },
    /// Limit the number of jobs of a function; 0 is no limit
    ///
    /// One limit is for all priorities. Two are for high and normal, three for high, normal and low. None removes the limits.
    Maxqueue {
        /// Its name
        #[arg(value_parser = values::admin_word)]
        function: String,
        /// How many jobs the function may have, of all priorities together, when one of this priority comes
        #[arg(num_args = 0..=3, value_parser = values::count, allow_negative_numbers = true)]
        limits: Vec<u32>,
    },
    /// Print the process id of the server
    Getpid,
    /// Print the log level of the server
    #[command(visible_alias = "server-verbose")]
    Verbose,
    /// Print the version of the server
    #[command(visible_alias = "server-version")]
    Version,
    /// End the server, where it runs with --allow-shutdown
    Shutdown {
        /// Let running jobs finish first
        #[arg(long)]
        graceful: bool,
    },
    /// Send lines as they are and print the answers as they come
    Raw {
        /// One command of the text protocol each
        #[arg(required = true, value_name = "LINE", value_parser = values::admin_line)]
        lines: Vec<String>,
    },
}

/// How a value of an OK answer is called in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    List(Listing),
    Value(&'static str),
    Done,
    Unknown,
}

impl Action {
    fn lines(&self) -> Vec<String> {
        let one = |line: &str| vec![line.to_owned()];
        match self {
            Self::Status => one("status"),
            Self::Prioritystatus => one("prioritystatus"),
            Self::Workers => one("workers"),
            Self::ShowJobs => one("show jobs"),
            Self::ShowUniqueJobs => one("show unique jobs"),
            Self::ShowStore => one("show store"),
            Self::CancelJob { handle } => vec![format!("cancel job {handle}")],
            Self::CreateFunction { function } => vec![format!("create function {function}")],
            Self::DropFunction { function } => vec![format!("drop function {function}")],
            Self::Maxqueue { function, limits } => {
                let mut words = vec!["maxqueue".to_owned(), function.clone()];
                words.extend(limits.iter().map(ToString::to_string));
                vec![words.join(" ")]
            }
            Self::Getpid => one("getpid"),
            Self::Verbose => one("verbose"),
            Self::Version => one("version"),
            Self::Shutdown { graceful: false } => one("shutdown"),
            Self::Shutdown { graceful: true } => one("shutdown graceful"),
            Self::Raw { lines } => lines.clone(),
        }
    }

    const fn form(&self) -> Form {
        match self {
            Self::Status => Form::List(Listing::Status),
            Self::Prioritystatus => Form::List(Listing::PriorityStatus),
            Self::Workers => Form::List(Listing::Workers),
            Self::ShowJobs => Form::List(Listing::Jobs),
            Self::ShowUniqueJobs => Form::List(Listing::UniqueJobs),
            Self::ShowStore => Form::List(Listing::Store),
            Self::Getpid => Form::Value("pid"),
            Self::Verbose => Form::Value("verbose"),
            Self::Version => Form::Value("version"),
            Self::CancelJob { .. }
            | Self::CreateFunction { .. }
            | Self::DropFunction { .. }
            | Self::Maxqueue { .. }
            | Self::Shutdown { .. } => Form::Done,
            Self::Raw { .. } => Form::Unknown,
        }
    }
}

/// Asks, prints, and repeats that if it is told to.
pub(super) async fn run(args: AdminArgs) -> Result<u8, ToolError> {
    let servers = args.server.resolve()?;
    let action = args.action.clone().unwrap_or(Action::Status);
    let Some(interval) = args.watch else {
        return ask_all(&args, &servers, &action).await;
    };
    if !matches!(action.form(), Form::List(_)) {
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
            // It may come back.
            Err(ToolError::Unreachable(why)) => tell("admin", format_args!("{why}")),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
}

async fn ask_all(args: &AdminArgs, servers: &[ServerAddress], action: &Action) -> Result<u8, ToolError> {
    let (address, stream) = connection::open_first(servers, args.server.connect_timeout).await?;
    let mut connection = TextConnection::new(stream);
    let mut status = 0;
    for line in action.lines() {
        let answer = match tokio::time::timeout(args.timeout, connection.ask(&line)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(ToolError::Unreachable(format!("no answer from {address}: {error}"))),
            Err(_) => {
                let why = format!("no answer from {address} within {} s", args.timeout.as_secs_f64());
                return Err(ToolError::Unreachable(why));
            }
        };
        if let TextAnswer::Err(why) = &answer.answer {
            status = EXIT_FAILED;
            if !args.raw && action.form() != Form::Unknown {
                tell("admin", format_args!("{address}: {}", listing::printable(&String::from_utf8_lossy(why))));
                if matches!(action, Action::Shutdown { .. }) && why.starts_with(b"UNKNOWN_COMMAND") {
                    tell("admin", format_args!("the server does not allow it: it needs --allow-shutdown"));
                }
            }
        }
        print(&shown(args, action.form(), answer))?;
    }
    Ok(status)
}

/// What goes to standard output for an answer.
fn shown(args: &AdminArgs, form: Form, answer: RawAnswer) -> Vec<u8> {
    if args.raw || (form == Form::Unknown && !args.json) {
        return answer.wire;
    }
    if args.json {
        return format!("{}\n", as_json(form, &answer.answer)).into_bytes();
    }
    match (answer.answer, form) {
        // Said on standard error.
        (TextAnswer::Err(_), _) => Vec::new(),
        (TextAnswer::Ok(text), _) if text.is_empty() => b"OK\n".to_vec(),
        (TextAnswer::Ok(text), _) => format!("{}\n", listing::printable(&String::from_utf8_lossy(&text))).into_bytes(),
        (TextAnswer::Listing(lines), Form::List(listing)) => listing.table(&lines).into_bytes(),
        (TextAnswer::Listing(_), _) => answer.wire,
    }
}

fn as_json(form: Form, answer: &TextAnswer) -> Value {
    match (answer, form) {
        (TextAnswer::Err(why), _) => json!({ "error": String::from_utf8_lossy(why) }),
        (TextAnswer::Listing(lines), Form::List(listing)) => listing.json(lines),
        (TextAnswer::Listing(lines), _) => listing::plain_json(lines),
        (TextAnswer::Ok(text), Form::Value(name)) => {
            let text = String::from_utf8_lossy(text);
            let value = if name == "pid" { text.parse::<u64>().ok().map(Value::from) } else { None };
            json!({ name: value.unwrap_or_else(|| Value::from(text)) })
        }
        (TextAnswer::Ok(text), _) if text.is_empty() => json!({ "ok": true }),
        (TextAnswer::Ok(text), _) => json!({ "ok": true, "value": String::from_utf8_lossy(text) }),
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
            assert!(AdminCommand::parse(line.as_bytes(), 5).is_ok(), "{line}");
        }
        assert_eq!(lines(&["raw", "status", "show jobs"]), ["status", "show jobs"]);
        assert!(lines(&[]).is_empty());
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

    #[test]
    fn answers_have_one_json_form() {
        let ok = |text: &str| TextAnswer::Ok(text.as_bytes().to_vec());
        assert_eq!(as_json(Form::Value("pid"), &ok("12")), json!({"pid": 12}));
        assert_eq!(as_json(Form::Value("version"), &ok("2.0.0")), json!({"version": "2.0.0"}));
        assert_eq!(as_json(Form::Done, &ok("")), json!({"ok": true}));
        assert_eq!(as_json(Form::Done, &TextAnswer::Err(b"UNKNOWN_JOB".to_vec())), json!({"error": "UNKNOWN_JOB"}));
        assert_eq!(as_json(Form::Unknown, &TextAnswer::Listing(vec![b"a".to_vec()])), json!({"lines": ["a"]}));
    }
}
