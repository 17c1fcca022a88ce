//! Views of jobs, which only the hub knows.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::times::Times;
use super::{JobFilter, Page, Views, base64_of_no_text, function_id, lossy, worker_id};
use crate::admin::view::{FailedAttemptView, JobView, PreviewView, ProgressView};
use crate::job_server::{self, FailedAttempt, Found, JobKey, JobQuery, Now, RequeueReason, RunView, Stage, StageKind};
use crate::protocol::FunctionName;
use crate::store::preview::{PendingPreview, Preview};

pub use crate::store::preview::HEAD_MAX;

/// How long a view of a job waits for the store.
pub const STORE_WAIT: Duration = Duration::from_secs(1);

/// How often the hub is queried for one page. If few of many jobs match, a page may be partly filled or
/// empty.
const LOOKS_PER_PAGE: usize = 64;
/// The same for a piece of a listing.
const LOOKS_PER_PIECE: usize = 4;
/// How many jobs are shown per query: making a view of a job takes longer than skipping it.
const SHOWN_PER_LOOK: usize = 32;
/// A page ends when the names of its jobs reach this size, in bytes: names can be long.
const PAGE_BYTES: usize = 64 * 1024;

impl Views {
    /// A page of jobs. The order is unspecified; queued jobs of a single function are in the order in which
    /// workers get them.
    pub fn jobs(&self, now: Now, filter: &JobFilter) -> Page<JobView, u64> {
        self.jobs_by_looks(now, filter, LOOKS_PER_PAGE)
    }

    /// The same with fewer queries, for a caller that must yield soon.
    pub(in crate::admin) fn some_jobs(&self, now: Now, filter: &JobFilter) -> Page<JobView, u64> {
        self.jobs_by_looks(now, filter, LOOKS_PER_PIECE)
    }

    fn jobs_by_looks(&self, now: Now, filter: &JobFilter, most_looks: usize) -> Page<JobView, u64> {
        let query = JobQuery {
            function: filter.function.as_deref(),
            unique: filter.unique.as_deref(),
            stage: match filter.state.as_deref() {
                None => None,
                Some("scheduled") => Some(StageKind::Scheduled),
                Some("queued") => Some(StageKind::Queued),
                Some("running") => Some(StageKind::Running),
                Some(_) => return Page { items: Vec::new(), next: None, looked_at: 0 },
            },
            holder: filter.client.as_deref(),
            waiter: filter.waiting_client.as_deref(),
        };
        // A job that a client waits for several times is found several times.
        let mut seen = HashSet::new();
        let (mut items, times) = (Vec::new(), self.times(now));
        let (mut place, mut looked_at, mut bytes) = (filter.after.unwrap_or(0), 0, 0);
        for _ in 0..most_looks {
            // Threads that wait for the lock get it between two queries.
            self.hub.yield_to_waiters();
            let enough = filter.limit.min(items.len() + SHOWN_PER_LOOK);
            let Found { next, looks } = self.hub.find_jobs(&query, place, |job| {
                let is_new = query.waiter.is_none() || seen.insert(job.handle.number);
                if is_new && matches(&times, &job, filter) {
                    bytes += job.function.as_bytes().len() + job.unique.len();
                    items.push(job_view(&times, &job, 0));
                }
                let is_enough = items.len() >= enough || bytes >= PAGE_BYTES;
                if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            looked_at += looks;
            let Some(next) = next else {
                return Page { items, next: None, looked_at };
            };
            place = next;
            if items.len() >= filter.limit || bytes >= PAGE_BYTES {
                break;
            }
        }
        Page { items, next: Some(place), looked_at }
    }

    /// Examines some of the running jobs, from `place` on, and updates the age of the oldest run of each
    /// function, in milliseconds. Returns where to continue; `None` after the last.
    pub fn note_oldest_running(
        &self,
        now: Now,
        place: usize,
        oldest: &mut HashMap<FunctionName, u64>,
    ) -> Option<usize> {
        let times = self.times(now);
        self.hub.yield_to_waiters();
        self.hub.list_running_jobs(place, |job| {
            if let Stage::Running(run) = job.stage {
                let age_ms = times.age_ms(run.since_unix_ms);
                match oldest.get_mut(job.function) {
                    Some(oldest_ms) => *oldest_ms = age_ms.max(*oldest_ms),
                    None => {
                        oldest.insert(job.function.clone(), age_ms);
                    }
                }
            }
            ControlFlow::Continue(())
        })
    }

    /// One job, with at most `preview` bytes of its workload, up to [`HEAD_MAX`]. If only the store has the
    /// workload, the store is asked, unless `preview` is 0.
    pub fn job(&self, now: Now, handle: &[u8], preview: usize) -> Option<PendingJobView> {
        let times = self.times(now);
        let (view, key) = self.hub.show_job(handle, |job| {
            let is_elsewhere = job.workload.is_none() && preview > 0;
            let key =
                || JobKey { number: job.handle.number, function: job.function.clone(), unique: job.unique.into() };
            let failed_attempts =
                Some(job.failed_attempts.iter().map(|run| failed_attempt_view(&times, run)).collect());
            (JobView { failed_attempts, ..job_view(&times, &job, preview) }, is_elsewhere.then(key))
        })?;
        let workload = key.and_then(|key| self.hub.request_preview(key));
        Some(PendingJobView { view, workload, preview })
    }
}

/// The view of a job, parts of which may still be unknown.
#[derive(Debug)]
pub struct PendingJobView {
    /// The known part.
    pub view: JobView,
    workload: Option<PendingPreview>,
    preview: usize,
}

impl PendingJobView {
    /// Whether it waits for an answer of the store.
    pub fn is_waiting(&self) -> bool {
        self.workload.is_some()
    }

    /// Ready when the view is complete; until then `waker` is woken when the store has answered. A caller may
    /// stop waiting, after [`STORE_WAIT`] for example, and use the known part.
    pub fn poll(&mut self, waker: &Waker) -> Poll<()> {
        let Some(workload) = &self.workload else { return Poll::Ready(()) };
        let seen = ready!(workload.poll(waker));
        self.workload = None;
        if let Some(Preview { bytes, head }) = seen {
            self.view.workload_bytes = Some(bytes);
            self.view.preview = Some(preview_view(&head, bytes, self.preview));
        }
        Poll::Ready(())
    }
}

/// Whether a job passes the filters that no index covers.
fn matches(times: &Times, job: &job_server::JobView<'_>, filter: &JobFilter) -> bool {
    filter.priority.is_none_or(|priority| priority == job.priority)
        && filter.older_than_s.is_none_or(|least| job.submitted_ms > 0 && times.age_s(job.submitted_ms) >= least)
}

fn state_of(stage: &Stage) -> &'static str {
    match stage {
        Stage::Scheduled => "scheduled",
        Stage::Queued => "queued",
        Stage::Running(_) => "running",
    }
}

pub(super) fn job_view(times: &Times, job: &job_server::JobView<'_>, preview: usize) -> JobView {
    let run = match job.stage {
        Stage::Running(run) => Some(run),
        Stage::Scheduled | Stage::Queued => None,
    };
    JobView {
        handle: job.handle.to_string(),
        unique: lossy(job.unique),
        unique_base64: base64_of_no_text(job.unique),
        function_id: function_id(job.function.as_bytes()),
        function: lossy(job.function.as_bytes()),
        priority: job.priority.name(),
        state: state_of(&job.stage),
        submitted_unix_ms: Some(job.submitted_ms).filter(|ms| *ms > 0).map(|ms| times.unix_ms(ms)),
        age_s: (job.submitted_ms > 0).then(|| times.age_s(job.submitted_ms)),
        due_unix_s: Some(job.due_s).filter(|due_s| *due_s > 0),
        attempts: u16::try_from(job.attempts).unwrap_or(u16::MAX),
        background: job.background,
        stored: job.stored,
        holder: run.map(|run| worker_id(run.holder)),
        since_unix_ms: run.map(|run| times.unix_ms(run.since_unix_ms)),
        deadline_unix_ms: run.and_then(|run| deadline(times.now, &run)),
        // 0 of 0: the worker has not reported its progress.
        progress: run
            .filter(|run| run.denominator > 0)
            .map(|run| ProgressView { numerator: run.numerator, denominator: run.denominator }),
        clients: u64::from(job.clients),
        failed_attempts: None,
        workload_bytes: job.workload.map(|workload| workload.len() as u64),
        preview: job
            .workload
            .filter(|_| preview > 0)
            .map(|workload| preview_view(workload, workload.len() as u64, preview)),
    }
}

fn failed_attempt_view(times: &Times, run: &FailedAttempt) -> FailedAttemptView {
    FailedAttemptView {
        since_unix_ms: times.unix_ms(run.since_unix_ms),
        until_unix_ms: times.unix_ms(run.until_unix_ms),
        holder: worker_id(run.holder),
        client_id: (!run.client.is_empty()).then(|| lossy(&run.client)),
        address: run.host.to_string(),
        end: match run.reason {
            RequeueReason::TimedOut => "timed_out",
            RequeueReason::Disconnected => "disconnected",
            RequeueReason::GivenBack => "given_back",
        },
    }
}

/// When the run times out and the job is revoked, in milliseconds since 1970.
fn deadline(now: Now, run: &RunView) -> Option<u64> {
    let left_us = run.deadline_us?.saturating_sub(now.monotonic_us);
    Some(now.unix_us.saturating_add(left_us) / 1000)
}

/// The beginning of a workload of `bytes` bytes, as text if it is text.
fn preview_view(head: &[u8], bytes: u64, most: usize) -> PreviewView {
    let shown = &head[..head.len().min(most)];
    let truncated = (shown.len() as u64) < bytes;
    // A character may be cut in two at the end.
    let text = match std::str::from_utf8(shown) {
        Ok(text) => Some(text),
        Err(error) if truncated && error.error_len().is_none() => {
            std::str::from_utf8(&shown[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    match text.filter(|text| !text.contains('\0')) {
        Some(text) => PreviewView { content: text.to_owned(), encoding: "text", truncated },
        None => PreviewView { content: STANDARD.encode(shown), encoding: "base64", truncated },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::Hub;
    use crate::job_server::Policy;
    use crate::outbox::Outbox;
    use crate::protocol::{GrabKind, Priority, Request, Submission, Workload};
    use crate::stats::{ConnectionGauges, Stats};

    #[test]
    fn the_jobs_of_a_client_are_found_whatever_waits() {
        let now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };
        let hub = Arc::new(Hub::new(Policy::default(), Arc::new(Stats::default()), None));
        let gauges = Arc::new(ConnectionGauges::new(0, String::new()));
        let id = hub.connect(gauges, Arc::new(Outbox::new(1 << 30, Arc::default()))).expect("the hub is open");
        let submit = |priority| {
            let job = Submission {
                function: b"f",
                unique: b"",
                reducer: b"",
                priority,
                background: true,
                due_s: None,
                workload: Workload::borrowed(b""),
            };
            hub.apply(now, id, &[Ok(Request::Submit(job))]);
        };
        // More than one page examines.
        (0..20_000).for_each(|_| submit(Priority::Normal));
        submit(Priority::High);
        let requests = [
            Ok(Request::SetClientId { id: b"w" }),
            Ok(Request::CanDo { function: b"f", timeout_ms: None }),
            Ok(Request::GrabJob(GrabKind::Plain)),
        ];
        hub.apply(now, id, &requests);
        let filter = JobFilter { client: Some(b"w".to_vec()), limit: 10, ..JobFilter::default() };
        let page = Views::new(hub, "").jobs(now, &filter);
        let handles: Vec<_> = page.items.iter().map(|job| &*job.handle).collect();
        assert_eq!((&handles[..], page.next), (&["H:localhost:20001"][..], None));
    }

    #[test]
    fn the_age_of_the_oldest_running_job_outlives_a_set_clock() {
        const HOUR_US: u64 = 3_600_000_000;
        let at = |monotonic_us, unix_us| Now { monotonic_us, unix_us };
        let begin = at(1_000_000, 1_800_000_000_000_000);
        let hub = Arc::new(Hub::new(Policy::default(), Arc::new(Stats::default()), None));
        let views = Views::new(Arc::clone(&hub), "");
        views.sample(begin);
        let gauges = Arc::new(ConnectionGauges::new(0, String::new()));
        let id = hub.connect(gauges, Arc::new(Outbox::new(1 << 30, Arc::default()))).expect("the hub is open");
        let job = Submission {
            function: b"f",
            unique: b"",
            reducer: b"",
            priority: Priority::Normal,
            background: true,
            due_s: None,
            workload: Workload::borrowed(b""),
        };
        let requests = [
            Ok(Request::Submit(job)),
            Ok(Request::CanDo { function: b"f", timeout_ms: None }),
            Ok(Request::GrabJob(GrabKind::Plain)),
        ];
        hub.apply(begin, id, &requests);
        for unix_us in [begin.unix_us + HOUR_US, begin.unix_us - HOUR_US] {
            let mut oldest = HashMap::new();
            views.note_oldest_running(at(8_000_000, unix_us), 0, &mut oldest);
            assert_eq!(oldest.into_values().collect::<Vec<_>>(), [7000]);
        }
    }

    #[test]
    fn the_jobs_that_a_client_waits_for_are_found_among_many() {
        let now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };
        let hub = Arc::new(Hub::new(Policy::default(), Arc::new(Stats::default()), None));
        let connect = |name: &'static [u8]| {
            let gauges = Arc::new(ConnectionGauges::new(0, String::new()));
            let id = hub.connect(gauges, Arc::new(Outbox::new(1 << 30, Arc::default()))).expect("the hub is open");
            hub.apply(now, id, &[Ok(Request::SetClientId { id: name })]);
            id
        };
        let submit = |id, unique: &[u8], function| {
            let job = Submission {
                function,
                unique,
                reducer: b"",
                priority: Priority::Normal,
                background: false,
                due_s: None,
                workload: Workload::borrowed(b""),
            };
            hub.apply(now, id, &[Ok(Request::Submit(job))]);
        };
        let (other, wanted, namesake) = (connect(b"other"), connect(b"wanted"), connect(b"wanted"));
        // More than one page examines, and one job that others and both connections of that id wait for.
        (0..20_000).for_each(|_| submit(other, b"", b"f"));
        for id in [other, wanted, namesake, namesake] {
            submit(id, b"u", b"f");
        }
        submit(wanted, b"", b"g");
        let views = Views::new(Arc::clone(&hub), "");
        let find = |filter: JobFilter| {
            let (mut handles, mut after) = (Vec::new(), None);
            loop {
                let page = views.jobs(now, &JobFilter { limit: 10, after, ..filter.clone() });
                handles.extend(page.items.into_iter().map(|job| job.handle));
                after = page.next;
                if after.is_none() {
                    return handles;
                }
            }
        };
        let of = |client: &[u8]| JobFilter { waiting_client: Some(client.to_vec()), ..JobFilter::default() };
        let mut found = find(of(b"wanted"));
        found.sort();
        found.dedup();
        assert_eq!(found, ["H:localhost:20001", "H:localhost:20002"]);
        assert_eq!(find(JobFilter { function: Some(b"g".to_vec()), ..of(b"wanted") }), ["H:localhost:20002"]);
        assert_eq!(find(JobFilter { state: Some("running".to_owned()), ..of(b"wanted") }), [""; 0]);
        assert_eq!(find(of(b"nobody")), [""; 0]);
        hub.disconnect(now, wanted, crate::job_server::ConnectionEnd::default());
        assert_eq!(find(of(b"wanted")), ["H:localhost:20001"]);
    }

    #[test]
    fn a_filter_with_an_index_looks_at_few_of_many_jobs() {
        let now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };
        let hub = Arc::new(Hub::new(Policy::default(), Arc::new(Stats::default()), None));
        let gauges = Arc::new(ConnectionGauges::new(0, String::new()));
        let id = hub.connect(gauges, Arc::new(Outbox::new(1 << 30, Arc::default()))).expect("the hub is open");
        let submit = |function: &[u8], unique: &[u8], due_s| {
            let job = Submission {
                function,
                unique,
                reducer: b"",
                priority: Priority::Normal,
                background: true,
                due_s,
                workload: Workload::borrowed(b""),
            };
            hub.apply(now, id, &[Ok(Request::Submit(job))]);
        };
        for number in 0..20_000 {
            submit(b"f", format!("u{number}").as_bytes(), None);
        }
        submit(b"g", b"u7", Some(4_000_000_000));
        submit(b"g", b"", None);
        let views = Views::new(Arc::clone(&hub), "");
        let find = |unique: Option<&[u8]>, function: Option<&[u8]>, state: Option<&str>| {
            let filter = JobFilter {
                unique: unique.map(<[u8]>::to_vec),
                function: function.map(<[u8]>::to_vec),
                state: state.map(str::to_owned),
                limit: 10,
                ..JobFilter::default()
            };
            let page = views.jobs(now, &filter);
            assert_eq!(page.next, None, "{filter:?}");
            (page.items.len(), page.looked_at)
        };
        assert_eq!(find(Some(b"u7"), None, None), (2, 2));
        assert_eq!(find(Some(b"u7"), Some(b"f"), None), (1, 1));
        assert_eq!(find(Some(b"u7"), None, Some("scheduled")), (1, 2));
        assert_eq!(find(Some(b"none"), None, None), (0, 0));
        assert_eq!(find(None, Some(b"g"), None), (2, 2));
        assert_eq!(find(None, Some(b"g"), Some("scheduled")), (1, 1));
        assert_eq!(find(None, Some(b"f"), Some("running")), (0, 0));
    }

    #[test]
    fn a_preview_is_text_where_the_workload_is() {
        let show = |workload: &[u8], most| {
            let PreviewView { content, encoding, truncated } = preview_view(workload, workload.len() as u64, most);
            (content, encoding, truncated)
        };
        assert_eq!(show("grün".as_bytes(), 100), ("grün".to_owned(), "text", false));
        assert_eq!(show("grün".as_bytes(), 3), ("gr".to_owned(), "text", true));
        assert_eq!(show(b"\xff\x00", 100), ("/wA=".to_owned(), "base64", false));
        assert_eq!(show(b"gr\xc3", 100), ("Z3LD".to_owned(), "base64", false));
        assert_eq!(show(b"a\0b", 100), ("YQBi".to_owned(), "base64", false));
        assert_eq!(show(b"", 100), (String::new(), "text", false));
    }
}
