//! Responses of the server, and their wire format.

use super::error::PeerError;
use super::names::{JobHandle, Workload, decimal_len, write_decimal};
use super::packet::{HEADER_SIZE, Header, Magic, PacketType};

/// A packet from the server. It borrows its fields; the sender copies or shares them.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The fields are the arguments that the protocol gives to each packet.
pub enum Response<'a> {
    Noop,
    JobCreated {
        handle: JobHandle<'a>,
    },
    NoJob,
    JobAssign {
        handle: JobHandle<'a>,
        function: &'a [u8],
        workload: Workload<'a>,
    },
    JobAssignUniq {
        handle: JobHandle<'a>,
        function: &'a [u8],
        unique: &'a [u8],
        workload: Workload<'a>,
    },
    JobAssignAll {
        handle: JobHandle<'a>,
        function: &'a [u8],
        unique: &'a [u8],
        reducer: &'a [u8],
        workload: Workload<'a>,
    },
    WorkStatus {
        handle: JobHandle<'a>,
        numerator: &'a [u8],
        denominator: &'a [u8],
    },
    WorkData {
        handle: JobHandle<'a>,
        workload: Workload<'a>,
    },
    WorkWarning {
        handle: JobHandle<'a>,
        workload: Workload<'a>,
    },
    WorkComplete {
        handle: JobHandle<'a>,
        workload: Workload<'a>,
    },
    WorkException {
        handle: JobHandle<'a>,
        workload: Workload<'a>,
    },
    WorkFail {
        handle: JobHandle<'a>,
    },
    /// The response to GET_STATUS, with the handle as it was requested.
    StatusRes {
        handle: &'a [u8],
        status: Status,
    },
    /// The response to GET_STATUS_UNIQUE, with the unique id as it was requested.
    StatusResUnique {
        unique: &'a [u8],
        status: Status,
        clients: u64,
    },
    EchoRes {
        workload: Workload<'a>,
    },
    OptionRes {
        written: &'a [u8],
    },
    Error(PeerError),
}

/// The status of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the server has the job.
    pub known: bool,
    /// Whether a worker runs it.
    pub running: bool,
    /// Parts done.
    pub numerator: u64,
    /// Parts in total.
    pub denominator: u64,
}

/// An argument of a packet, so that length and bytes are derived from one description.
enum Argument<'a> {
    Bytes(&'a [u8]),
    Handle(JobHandle<'a>),
    Number(u64),
}

impl Argument<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Handle(handle) => handle.len(),
            Self::Number(number) => decimal_len(*number),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Handle(handle) => handle.write(out),
            Self::Number(number) => write_decimal(*number, out),
        }
    }
}

impl<'a> Response<'a> {
    /// The packet's type.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Noop => PacketType::Noop,
            Self::JobCreated { .. } => PacketType::JobCreated,
            Self::NoJob => PacketType::NoJob,
            Self::JobAssign { .. } => PacketType::JobAssign,
            Self::JobAssignUniq { .. } => PacketType::JobAssignUniq,
            Self::JobAssignAll { .. } => PacketType::JobAssignAll,
            Self::WorkStatus { .. } => PacketType::WorkStatus,
            Self::WorkData { .. } => PacketType::WorkData,
            Self::WorkWarning { .. } => PacketType::WorkWarning,
            Self::WorkComplete { .. } => PacketType::WorkComplete,
            Self::WorkException { .. } => PacketType::WorkException,
            Self::WorkFail { .. } => PacketType::WorkFail,
            Self::StatusRes { .. } => PacketType::StatusRes,
            Self::StatusResUnique { .. } => PacketType::StatusResUnique,
            Self::EchoRes { .. } => PacketType::EchoRes,
            Self::OptionRes { .. } => PacketType::OptionRes,
            Self::Error(_) => PacketType::Error,
        }
    }

    /// The opaque bytes at the end of the packet, if its type has any.
    pub const fn workload(&self) -> Option<Workload<'a>> {
        match *self {
            Self::JobAssign { workload, .. }
            | Self::JobAssignUniq { workload, .. }
            | Self::JobAssignAll { workload, .. }
            | Self::WorkData { workload, .. }
            | Self::WorkWarning { workload, .. }
            | Self::WorkComplete { workload, .. }
            | Self::WorkException { workload, .. }
            | Self::EchoRes { workload } => Some(workload),
            Self::Noop
            | Self::JobCreated { .. }
            | Self::NoJob
            | Self::WorkStatus { .. }
            | Self::WorkFail { .. }
            | Self::StatusRes { .. }
            | Self::StatusResUnique { .. }
            | Self::OptionRes { .. }
            | Self::Error(_) => None,
        }
    }

    /// Appends everything but the workload: the header, whose length includes the workload, and the
    /// arguments.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        use Argument::{Bytes, Handle, Number};
        match *self {
            Self::Noop | Self::NoJob | Self::EchoRes { .. } => self.write_arguments(&[], out),
            Self::JobCreated { handle }
            | Self::WorkFail { handle }
            | Self::WorkData { handle, .. }
            | Self::WorkWarning { handle, .. }
            | Self::WorkComplete { handle, .. }
            | Self::WorkException { handle, .. } => self.write_arguments(&[Handle(handle)], out),
            Self::JobAssign { handle, function, .. } => self.write_arguments(&[Handle(handle), Bytes(function)], out),
            Self::JobAssignUniq { handle, function, unique, .. } => {
                self.write_arguments(&[Handle(handle), Bytes(function), Bytes(unique)], out);
            }
            Self::JobAssignAll { handle, function, unique, reducer, .. } => {
                self.write_arguments(&[Handle(handle), Bytes(function), Bytes(unique), Bytes(reducer)], out);
            }
            Self::WorkStatus { handle, numerator, denominator } => {
                self.write_arguments(&[Handle(handle), Bytes(numerator), Bytes(denominator)], out);
            }
            Self::StatusRes { handle, status } => {
                let [known, running, numerator, denominator] = status.arguments();
                self.write_arguments(&[Bytes(handle), known, running, numerator, denominator], out);
            }
            Self::StatusResUnique { unique, status, clients } => {
                let [known, running, numerator, denominator] = status.arguments();
                self.write_arguments(&[Bytes(unique), known, running, numerator, denominator, Number(clients)], out);
            }
            Self::OptionRes { written } => self.write_arguments(&[Bytes(written)], out),
            Self::Error(error) => {
                self.write_arguments(&[Bytes(error.code.as_bytes()), Bytes(error.text.as_bytes())], out);
            }
        }
    }

    /// Arguments are separated by NULs. If a workload follows, the last one ends with a NUL too.
    fn write_arguments(&self, arguments: &[Argument<'_>], out: &mut Vec<u8>) {
        let workload = self.workload();
        let separators = if workload.is_some() { arguments.len() } else { arguments.len().saturating_sub(1) };
        let length = arguments.iter().map(Argument::len).sum::<usize>()
            + separators
            + workload.map_or(0, |workload| workload.as_bytes().len());
        let header = Header {
            magic: Magic::Response,
            number: self.packet_type().number(),
            // A workload was received in a packet with a 32-bit length and is sent with arguments of bounded
            // size. If the sum exceeds 32 bits, no correct header exists; packet limits far below keep that
            // from happening.
            length: u32::try_from(length).unwrap_or(u32::MAX),
        };
        out.reserve(HEADER_SIZE + length.min(4096));
        out.extend_from_slice(&header.to_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            argument.write(out);
            if index < separators {
                out.push(0);
            }
        }
    }

    /// The whole packet, for callers to whom the copy does not matter.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_head(&mut bytes);
        if let Some(workload) = self.workload() {
            bytes.extend_from_slice(workload.as_bytes());
        }
        bytes
    }
}

impl Status {
    fn arguments(self) -> [Argument<'static>; 4] {
        [
            Argument::Number(u64::from(self.known)),
            Argument::Number(u64::from(self.running)),
            Argument::Number(self.numerator),
            Argument::Number(self.denominator),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: JobHandle<'_> = JobHandle { prefix: "H:t", number: 2 };

    #[test]
    fn arguments_before_a_workload_all_end_with_a_nul() {
        let packet = Response::JobAssign { handle: HANDLE, function: b"rev", workload: Workload::borrowed(b"x") };
        assert_eq!(packet.to_bytes(), b"\0RES\0\0\0\x0b\0\0\0\x0bH:t:2\0rev\0x");
    }

    #[test]
    fn without_a_workload_the_last_argument_has_no_nul() {
        let status = Status { known: true, running: true, numerator: 1, denominator: 20 };
        let packet = Response::StatusRes { handle: b"H:t:2", status };
        assert_eq!(packet.to_bytes(), b"\0RES\0\0\0\x14\0\0\0\x0eH:t:2\x001\x001\x001\x0020");
        assert_eq!(Response::WorkFail { handle: HANDLE }.to_bytes(), b"\0RES\0\0\0\x0e\0\0\0\x05H:t:2");
        assert_eq!(Response::Noop.to_bytes(), b"\0RES\0\0\0\x06\0\0\0\0");
    }
}
