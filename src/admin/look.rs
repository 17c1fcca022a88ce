//! Makes what is shown out of what the server publishes. Only jobs are asked of the hub, a bounded number at a time.

use std::sync::Arc;

use super::view::{FunctionView, HistoryView, JobView, RuleView, ServerView, WorkerView};
use crate::hub::Hub;
use crate::job_server::{ConnectionId, Now};
use crate::protocol::Priority;

/// What the server shows.
pub struct Look {
    hub: Arc<Hub>,
}

/// Which workers are shown.
#[derive(Clone, Debug, Default)]
pub struct WorkerFilter {
    /// Only those that can do this function.
    pub function: Option<Vec<u8>>,
    /// Only those from this address.
    pub host: Option<String>,
    /// Only those with this client id.
    pub client: Option<Vec<u8>>,
    /// Only those in this state.
    pub state: Option<String>,
    /// How many at most.
    pub limit: usize,
    /// Those after this one, which may have gone.
    pub after: Option<ConnectionId>,
}

/// Which jobs are shown.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only those of this function.
    pub function: Option<Vec<u8>>,
    /// Only those in this state: `scheduled`, `queued` or `running`.
    pub state: Option<String>,
    /// Only those with this unique id.
    pub unique: Option<Vec<u8>>,
    /// Only those of this priority.
    pub priority: Option<Priority>,
    /// Only those that a worker with this client id holds.
    pub client: Option<Vec<u8>>,
    /// Only those that were submitted so long ago, in seconds.
    pub older_than_s: Option<f64>,
    /// How many at most.
    pub limit: usize,
    /// Where to go on, as [`Page::next`] says.
    pub after: Option<u64>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T, C> {
    /// The part.
    pub items: Vec<T>,
    /// Where to go on; `None` after the last. There may be more though a page is empty: looking takes pauses.
    pub next: Option<C>,
}

impl Look {
    /// What `hub` shows.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// The server as a whole.
    pub fn server(&self, now: Now) -> ServerView {
        let _ = (now, &self.hub);
        unimplemented!("the server")
    }

    /// All functions, by name.
    pub fn functions(&self, _now: Now) -> Vec<FunctionView> {
        Vec::new()
    }

    /// One function.
    pub fn function(&self, _now: Now, _name: &[u8]) -> Option<FunctionView> {
        None
    }

    /// The last hour, of one function or of all together.
    pub fn history(&self, _function: Option<&[u8]>) -> Option<HistoryView> {
        None
    }

    /// Workers, by age of their connection.
    pub fn workers(&self, _now: Now, _filter: &WorkerFilter) -> Page<WorkerView, ConnectionId> {
        Page { items: Vec::new(), next: None }
    }

    /// One worker, with its jobs.
    pub fn worker(&self, _now: Now, _id: ConnectionId) -> Option<WorkerView> {
        None
    }

    /// Jobs, in no order that means anything; those of a single function that are queued come as they will be handed out.
    pub fn jobs(&self, _now: Now, _filter: &JobFilter) -> Page<JobView, u64> {
        Page { items: Vec::new(), next: None }
    }

    /// One job, with so many bytes of its workload.
    pub fn job(&self, _now: Now, _handle: &[u8], _preview: usize) -> Option<JobView> {
        None
    }

    /// The rules by which workers get no jobs.
    pub fn rules(&self) -> Vec<RuleView> {
        Vec::new()
    }

    /// To be called in regular intervals: takes down the numbers for [`history`](Self::history) and the rates.
    pub fn sample(&self, _now: Now) {}
}
