//! The residency of a job and its workload: in memory, in the store, or both.

/// How durable a job is, and where its workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::job_server) enum Residency {
    /// Only in memory.
    Memory,
    /// In memory; the store was asked to add it, and has not answered.
    Storing,
    /// In the store and in memory.
    Both,
    /// In the store; memory holds only what is needed to find it.
    Store,
}

impl Residency {
    /// Whether a restart brings the job back.
    pub(in crate::job_server) const fn is_stored(self) -> bool {
        matches!(self, Self::Both | Self::Store)
    }
}
