//! The Gearman wire protocol: parsing and encoding, with no state and no I/O.
//!
//! * [`names`]: the protocol's basic types, each with its limit: functions, uniques, handles, workloads.
//! * [`packet`]: framing. Splits a byte stream into packets and text lines, without parsing them.
//! * [`request`]: a packet that was sent to the server, every field parsed and in range.
//! * [`response`]: a packet from the server, encoded as bytes.
//! * [`text`]: the administrative text protocol spoken on the same port.
//! * [`error`]: the ERROR packets, each with its code and text.
//!
//! Source of the protocol: the PROTOCOL document of the Gearman project, and the observed behaviour of
//! gearmand 2.0.0 where the document is silent or wrong.

pub mod error;
pub mod names;
pub mod packet;
pub mod request;
pub mod response;
pub mod text;
pub mod units;

pub use error::{NotRegistered, PeerError};
pub use names::{FunctionName, JobHandle, Priority, Workload};
pub use request::{ConnectionOption, GrabKind, Request, Submission};
pub use response::Response;
