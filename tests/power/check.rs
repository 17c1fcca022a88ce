//! What must be so of the jobs that come back after a power cut.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;

use gearmand::job_server::StoreFailure;
use gearmand::store::StoreError;
use gearmand::store::location::Access;
use tempfile::TempDir;

use super::conversation::Conversation;
use crate::common::wait_for;
use crate::durable::{self, Contents};

/// What is wrong with a store after a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It does not open: a server would not start.
    Unreadable(String),
    /// A job that was acknowledged and has not ended is not there.
    Lost(String),
    /// A job is there that nobody had submitted, or twice, or an entry that makes no sense.
    Invented(String),
    /// A job is not as it was submitted.
    Changed(String),
    /// A job is there whose end was kept.
    CameBack(String),
    /// Numbers do not go up as jobs came in, or would be given once more.
    Numbers(String),
    /// Whoever reads it again reads something else.
    Unstable,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "does not open: {why}"),
            Self::Lost(job) => write!(f, "lost: {job}"),
            Self::Invented(job) => write!(f, "nobody submitted it: {job}"),
            Self::Changed(job) => write!(f, "not as submitted: {job}"),
            Self::CameBack(job) => write!(f, "its end was kept, and it is there: {job}"),
            Self::Numbers(what) => write!(f, "numbers: {what}"),
            Self::Unstable => f.write_str("the second reading differs from the first"),
        }
    }
}

/// Writes the files of a cut under `directory`, opens them as a server would, and tells what is wrong.
pub(crate) fn check(
    directory: &Path,
    files: &BTreeMap<String, Vec<u8>>,
    database: &Path,
    conversation: &Conversation,
    moment: usize,
) -> Vec<Problem> {
    let image = TempDir::new_in(directory).expect("a directory for an image");
    for (path, bytes) in files {
        let name = Path::new(path).file_name().expect("a name");
        fs::write(image.path().join(name), bytes).expect("a file of an image");
    }
    let path = image.path().join(database.file_name().expect("a name"));
    let contents = match read(&path) {
        Ok(contents) => contents,
        Err(error) => return vec![Problem::Unreadable(error.to_string())],
    };
    let mut problems = judge(&contents, conversation, moment);
    match read(&path) {
        Ok(again) if again == contents => {}
        Ok(_) => problems.push(Problem::Unstable),
        Err(error) => problems.push(Problem::Unreadable(format!("the second time: {error}"))),
    }
    problems
}

/// Reads an image as a server would that starts.
///
/// Nobody else knows of the image. But a test beside this one may just be starting a process, which has
/// copies of all descriptors of this one until it runs its program, and with them the lock of whoever has
/// read the image before.
fn read(path: &Path) -> Result<Contents, StoreError> {
    wait_for("the image to be free", || match durable::read(path, Access::Own) {
        Err(error) if error.failure == StoreFailure::Locked => None,
        result => Some(result),
    })
}

fn judge(contents: &Contents, conversation: &Conversation, moment: usize) -> Vec<Problem> {
    let mut problems = Vec::new();
    let submitted: HashMap<u64, usize> = conversation
        .jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| job.submitted < moment)
        .map(|(index, job)| (job.submission.serial().expect("a job of the test"), index))
        .collect();
    let mut there = HashSet::new();
    let mut last_of_connection: HashMap<usize, (usize, u64)> = HashMap::new();
    for recovered in &contents.jobs {
        let shown = format!("{} serial {:?}", recovered.handle, recovered.submission.serial());
        let Some(index) = recovered.submission.serial().and_then(|serial| submitted.get(&serial)).copied() else {
            problems.push(Problem::Invented(shown));
            continue;
        };
        let job = &conversation.jobs[index];
        if !there.insert(index) {
            problems.push(Problem::Invented(format!("{shown}, a second time")));
        }
        let acknowledged = job.acknowledged.is_some_and(|at| at < moment);
        if recovered.submission != job.submission
            || acknowledged && job.handle.as_ref() != Some(&recovered.handle)
            || !recovered.handle.ends_with(&format!(":{}", recovered.number))
        {
            problems.push(Problem::Changed(format!("{shown}: {recovered:?} was {:?}", job.submission)));
        }
        if job.gone.is_some_and(|at| at < moment) {
            problems.push(Problem::CameBack(shown.clone()));
        }
        // Jobs of one connection have numbers in their order, and come back in the order of numbers.
        if let Some((earlier, number)) = last_of_connection.insert(job.connection, (index, recovered.number))
            && (earlier >= index || number >= recovered.number)
        {
            problems.push(Problem::Numbers(format!("{shown} comes after number {number} of the same connection")));
        }
    }
    let owed = conversation.jobs.iter().enumerate().filter(|(_, job)| job.is_owed(moment));
    problems.extend(owed.filter(|(index, _)| !there.contains(index)).map(|(_, job)| {
        Problem::Lost(format!("{} serial {:?}", job.handle.as_deref().unwrap_or("-"), job.submission.serial()))
    }));
    if contents.quarantined > 0 {
        problems.push(Problem::Invented(format!("{} entries that make no sense", contents.quarantined)));
    }
    let highest = conversation
        .jobs
        .iter()
        .filter(|job| job.acknowledged.is_some_and(|at| at < moment))
        .filter_map(|job| job.handle.as_ref()?.rsplit(':').next()?.parse::<u64>().ok())
        .max();
    if highest > Some(contents.last_number) {
        problems
            .push(Problem::Numbers(format!("{highest:?} was given, and {} is the last known", contents.last_number)));
    }
    problems
}
