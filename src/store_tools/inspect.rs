//! `gearmand queue`: inspects a store without changing it, even while a server uses it.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{Local, TimeZone as _};
use serde_json::{Map, Value, json};

use super::url::{QueueUrl, QueueUrlParser};
use super::{EXIT_FAILED, ToolError, configured, files};
use crate::client::{aligned_within, insert_bytes, json_text, printable, printable_bytes, row_text, terminal, widths};
use crate::job_server::StoredJob;
use crate::protocol::FunctionName;
use crate::store::location::{Access, Location};
use crate::store::{Store, Workloads};

/// Number of rows that determine the column widths. Later rows are printed immediately.
const ROWS_FOR_WIDTH: usize = 1000;

const HEADINGS: [&str; 8] = ["HANDLE", "FUNCTION", "UNIQUE", "PRIORITY", "DUE", "ATTEMPTS", "BYTES", "AGE"];
/// Columns with numbers, which are right-aligned.
const NUMBERS: [bool; 8] = [false, false, false, false, false, true, true, true];

/// What `gearmand queue` is told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "QUEUE is a path of a SQLite file, sqlite:PATH[?table=T], postgres://USER:PASSWORD@HOST:PORT/DB?table=T, \
    'postgres:host=... dbname=... [table=T]', mysql://USER:PASSWORD@HOST:PORT/DB?table=T or \
    redis://:PASSWORD@HOST:PORT?prefix=P. Without --from it is the queue that the server's configuration file and \
    environment name. Nothing in it is changed, and a server may be using it; only compact changes the file, and \
    requires that no server uses it.\n\n\
    Exit status: 0 all is well, 1 there are invalid entries or reading the queue failed, 2 usage, 3 the queue \
    does not exist or cannot be reached."
)]
pub struct QueueArgs {
    /// The queue [default: the server's]
    #[arg(long, global = true, value_name = "QUEUE", value_parser = QueueUrlParser)]
    from: Option<QueueUrl>,
    /// The configuration file of the server that uses the queue
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "from")]
    config_file: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the jobs in their order
    List {
        /// Only jobs of this function
        #[arg(short, long, value_name = "NAME")]
        function: Option<String>,
        /// Only the first N jobs
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Count the jobs of each function, by priority
    Count,
    /// Read and validate all jobs
    Verify,
    /// Copy the file of a queue as a consistent snapshot, also while a server uses it
    Backup {
        /// The target file, which must not exist
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Shrink the file of a queue that is not in use; a running server does so when it is almost empty
    Compact,
}

/// Runs the requested action.
pub(super) fn run(args: QueueArgs) -> Result<u8, ToolError> {
    let (location, prefix) = match args.from {
        Some(QueueUrl(location)) => (location, configured::handle_prefix("queue")),
        None => configured::queue(args.config_file)?,
    };
    let form = if args.json { Form::Json } else { Form::Table(terminal::room()) };
    let mut out = BufWriter::new(io::stdout().lock());
    let status = match args.action {
        Action::List { function, limit } => {
            let only = Only { function: function.map(String::into_bytes), limit: limit.unwrap_or(u64::MAX) };
            list(&mut *open(&location, &prefix)?, &only, form, &mut out)?
        }
        Action::Count => count(&mut *open(&location, &prefix)?, form, &mut out)?,
        Action::Verify => verify(&mut *open(&location, &prefix)?, &location, args.json, &mut out)?,
        Action::Backup { file } => files::backup(&location, &file)?,
        Action::Compact => files::compact(&location)?,
    };
    out.flush()?;
    Ok(status)
}

fn open(location: &Location, prefix: &Arc<str>) -> Result<Box<dyn Store>, ToolError> {
    location.open(Access::Read, prefix).map_err(|error| ToolError::Open(error.text))
}

/// The filter for listed jobs.
pub(super) struct Only {
    pub(super) function: Option<Vec<u8>>,
    pub(super) limit: u64,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One object per line.
    Json,
    /// A table, limited to this many terminal columns.
    Table(Option<usize>),
}

/// Lists jobs while reading them.
pub(super) fn list(store: &mut dyn Store, only: &Only, form: Form, out: &mut dyn Write) -> Result<u8, ToolError> {
    let mut table = Table::new(form);
    let mut printed = Ok(());
    let mut left = only.limit;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    store.replay(&mut |job, _| {
        let wanted = only.function.as_deref().is_none_or(|function| function == job.function.as_bytes());
        if left > 0 && wanted && printed.is_ok() {
            left -= 1;
            printed = if form == Form::Json {
                writeln!(out, "{}", json_text(&object(&job)))
            } else {
                table.add(row(&job, now_s), out)
            };
        }
        // The size of a workload is only known if it is read.
        if left > 0 && printed.is_ok() { Workloads::Wanted } else { Workloads::Unwanted }
    })?;
    printed?;
    if form != Form::Json {
        table.finish(out)?;
    }
    Ok(0)
}

fn row(job: &StoredJob, now_s: u64) -> Row {
    let text = |bytes: &[u8]| {
        if bytes.is_empty() { "-".to_owned() } else { printable_bytes(bytes) }
    };
    [
        printable(&job.handle().to_string()),
        text(job.function.as_bytes()),
        text(job.unique()),
        job.priority.name().to_owned(),
        if job.due_s == 0 { "-".to_owned() } else { local_time(job.due_s) },
        job.attempts.to_string(),
        job.workload().len().to_string(),
        if job.submitted_s == 0 { "-".to_owned() } else { age(now_s.saturating_sub(job.submitted_s)) },
    ]
}

fn object(job: &StoredJob) -> Value {
    let time = |seconds: u64| if seconds == 0 { Value::Null } else { Value::from(seconds) };
    let mut object = Map::new();
    object.insert("handle".to_owned(), Value::from(job.handle().to_string()));
    insert_bytes(&mut object, "function", job.function.as_bytes());
    insert_bytes(&mut object, "unique", job.unique());
    if !job.reducer().is_empty() {
        insert_bytes(&mut object, "reducer", job.reducer());
    }
    object.insert("priority".to_owned(), Value::from(job.priority.name()));
    object.insert("due".to_owned(), time(job.due_s));
    object.insert("attempts".to_owned(), Value::from(job.attempts));
    object.insert("bytes".to_owned(), Value::from(job.workload().len()));
    object.insert("submitted".to_owned(), time(job.submitted_s));
    Value::Object(object)
}

fn local_time(unix_s: u64) -> String {
    let time = i64::try_from(unix_s).ok().and_then(|seconds| Local.timestamp_opt(seconds, 0).single());
    time.map_or_else(|| unix_s.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}

/// A duration in its two largest units.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Job counts of a function.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    by_priority: [u64; 3],
    /// Jobs that are not due yet.
    scheduled: u64,
}

/// Counts the jobs of each function.
pub(super) fn count(store: &mut dyn Store, form: Form, out: &mut dyn Write) -> Result<u8, ToolError> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut functions: BTreeMap<FunctionName, Counts> = BTreeMap::new();
    store.replay(&mut |job, _| {
        let counts = functions.entry(job.function).or_default();
        counts.by_priority[job.priority.index()] += 1;
        counts.scheduled += u64::from(job.due_s > now_s);
        Workloads::Unwanted
    })?;
    let Form::Table(room) = form else {
        for (function, Counts { by_priority: [high, normal, low], scheduled }) in functions {
            let mut object = Map::new();
            insert_bytes(&mut object, "function", function.as_bytes());
            let numbers = [("jobs", high + normal + low), ("high", high), ("normal", normal), ("low", low)];
            object.extend(
                numbers
                    .iter()
                    .chain(&[("scheduled", scheduled)])
                    .map(|(name, number)| ((*name).to_owned(), Value::from(*number))),
            );
            writeln!(out, "{}", json_text(&Value::Object(object)))?;
        }
        return Ok(0);
    };
    let mut rows = vec![["FUNCTION", "JOBS", "HIGH", "NORMAL", "LOW", "SCHEDULED"].map(str::to_owned).to_vec()];
    for (function, Counts { by_priority: [high, normal, low], scheduled }) in functions {
        let numbers = [high + normal + low, high, normal, low, scheduled].map(|number| number.to_string());
        rows.push([printable_bytes(function.as_bytes())].into_iter().chain(numbers).collect());
    }
    write!(out, "{}", aligned_within(&rows, &[false, true, true, true, true, true], room))?;
    Ok(0)
}

/// The result of a verification.
#[derive(Debug, Default)]
struct Findings {
    sound: u64,
    /// Jobs whose number is 0 or not above that of the previous job.
    disordered: u64,
    /// Jobs with the function and unique id of an earlier one: a server coalesces them.
    joined: u64,
}

/// Reads the whole store, and reports whether it is valid.
pub(super) fn verify(
    store: &mut dyn Store,
    location: &Location,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, ToolError> {
    let mut findings = Findings::default();
    let mut last_number = 0;
    let mut uniques = HashSet::new();
    let replayed = store.replay(&mut |job, _| {
        let in_order = job.number > last_number;
        last_number = last_number.max(job.number);
        let by_itself = job.unique().is_empty() || job.unique() == b"-";
        let joined = !by_itself && !uniques.insert((job.function.clone(), Box::<[u8]>::from(job.unique())));
        findings.disordered += u64::from(!in_order);
        findings.joined += u64::from(joined);
        findings.sound += u64::from(in_order && !joined);
        Workloads::Wanted
    })?;
    let Findings { sound, disordered, joined } = findings;
    let quarantined = replayed.quarantined;
    if json {
        let object = json!({ "sound": sound, "quarantined": quarantined, "disordered": disordered, "joined": joined });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{}: {sound} jobs are sound", printable(&location.to_string()))?;
        for (number, what) in [
            (quarantined, "entries are invalid; a server would quarantine them"),
            (disordered, "jobs have a number out of order; a server would renumber them"),
            (joined, "jobs have the function and unique id of an earlier one; a server would coalesce them"),
        ] {
            if number > 0 {
                writeln!(out, "{number} {what}")?;
            }
        }
    }
    Ok(if quarantined + disordered + joined > 0 { EXIT_FAILED } else { 0 })
}

type Row = [String; 8];

/// Prints rows in columns. The first rows are held back until the column widths are known.
struct Table {
    room: Option<usize>,
    waiting: Vec<Row>,
    widths: Option<Vec<usize>>,
}

impl Table {
    fn new(form: Form) -> Self {
        let room = if let Form::Table(room) = form { room } else { None };
        Self { room, waiting: vec![HEADINGS.map(str::to_owned)], widths: None }
    }

    fn add(&mut self, row: Row, out: &mut dyn Write) -> io::Result<()> {
        self.waiting.push(row);
        if self.widths.is_some() || self.waiting.len() > ROWS_FOR_WIDTH { self.finish(out) } else { Ok(()) }
    }

    /// Prints the rows held back.
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let rows: Vec<Vec<String>> = self.waiting.drain(..).map(Vec::from).collect();
        let widths = self.widths.get_or_insert_with(|| widths(&rows, &NUMBERS, self.room));
        let is_cut = self.room.is_some();
        rows.iter().try_for_each(|row| writeln!(out, "{}", row_text(row, widths, &NUMBERS, is_cut)))
    }
}
