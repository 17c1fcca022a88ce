//! stand-in
#![allow(missing_docs, unused)]
use crate::hub::Hub;
use crate::job_server::*;
use crate::protocol::Priority;
const E: ControlError = ControlError::NoSuchFunction;
impl Hub {
    pub fn pause_function(&self, now: Now, name: &[u8], paused: bool) -> Result<(), ControlError> {
        Err(E)
    }
    pub fn limit_running(&self, now: Now, name: &[u8], most: u32) -> Result<(), ControlError> {
        Err(E)
    }
    pub fn cancel_jobs(&self, now: Now, function: &[u8], from: Place) -> Result<Piece, ControlError> {
        Err(E)
    }
    pub fn move_job(&self, now: Now, handle: &[u8], to: &[u8]) -> Result<(), ControlError> {
        Err(E)
    }
    pub fn move_jobs(&self, now: Now, from: &[u8], to: &[u8], place: Place) -> Result<Piece, ControlError> {
        Err(E)
    }
    pub fn set_priority(&self, now: Now, handle: &[u8], priority: Priority) -> Result<(), ControlError> {
        Err(E)
    }
    pub fn run_now(&self, now: Now, handle: &[u8]) -> Result<(), ControlError> {
        Err(E)
    }
    pub fn withhold(
        &self,
        now: Now,
        who: &Who,
        function: Option<&[u8]>,
        how: Withholding,
    ) -> Result<usize, ControlError> {
        Err(E)
    }
    pub fn release(&self, now: Now, who: &Who, function: Option<&[u8]>) -> usize {
        0
    }
    pub fn kick(&self, now: Now, who: &Who) -> usize {
        0
    }
}
