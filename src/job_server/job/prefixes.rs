//! Handle prefixes: the part before the colon and the number. Most servers only ever have one.

use std::sync::Arc;

use crate::protocol::JobHandle;

/// The handle prefixes: that of new jobs first, then those of stored jobs from when it was another.
#[derive(Debug)]
pub(in crate::job_server) struct Prefixes(Vec<Arc<str>>);

impl Prefixes {
    pub(in crate::job_server) fn new(current: &str) -> Self {
        Self(vec![Arc::from(current)])
    }

    pub(in crate::job_server) fn get(&self, index: u8) -> &str {
        &self.0[usize::from(index)]
    }

    pub(in crate::job_server) fn share(&self, index: u8) -> Arc<str> {
        Arc::clone(&self.0[usize::from(index)])
    }

    /// The index of a prefix, which is added if it is new. There is room for 256: jobs with more get new
    /// handles.
    pub(in crate::job_server) fn index(&mut self, prefix: &Arc<str>) -> u8 {
        let known = self.0.iter().position(|known| known == prefix);
        let index = known.unwrap_or(self.0.len());
        let Ok(fitting) = u8::try_from(index) else { return 0 };
        if known.is_none() {
            self.0.push(Arc::clone(prefix));
        }
        fitting
    }

    /// Parses a handle that this server gave out, now or earlier: the index of its prefix, and its number.
    pub(in crate::job_server) fn parse(&self, handle: &[u8]) -> Option<(u8, u64)> {
        (0_u8..).zip(&self.0).find_map(|(index, prefix)| Some((index, JobHandle::parse_number(prefix, handle)?)))
    }
}
