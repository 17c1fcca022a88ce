//! Framing: splits a stream of bytes into binary packets and lines of text, without parsing them.
//!
//! A packet is a header of 12 bytes (four of magic, then type and length as big-endian 32-bit numbers) and a
//! body of that length. The first byte after each packet determines what comes next: a NUL starts a packet,
//! anything else a line.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The size of a packet's header, in bytes.
pub const HEADER_SIZE: usize = 12;
/// The magic of a packet that is sent to the server.
pub const REQUEST_MAGIC: [u8; 4] = *b"\0REQ";
/// The magic of a packet that the server sends.
pub const RESPONSE_MAGIC: [u8; 4] = *b"\0RES";

macro_rules! packet_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// The packet types of the protocol, with their numbers on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[allow(missing_docs)]
        pub enum PacketType { $($(#[$doc])* $name = $number),* }

        impl PacketType {
            /// Every packet type.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The type with this number, if there is one.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

packet_types! {
    CanDo = 1,
    CantDo = 2,
    ResetAbilities = 3,
    PreSleep = 4,
    Noop = 6,
    SubmitJob = 7,
    JobCreated = 8,
    GrabJob = 9,
    NoJob = 10,
    JobAssign = 11,
    WorkStatus = 12,
    WorkComplete = 13,
    WorkFail = 14,
    GetStatus = 15,
    EchoReq = 16,
    EchoRes = 17,
    SubmitJobBg = 18,
    Error = 19,
    StatusRes = 20,
    SubmitJobHigh = 21,
    SetClientId = 22,
    CanDoTimeout = 23,
    /// A reserved number; no server gives it a meaning.
    AllYours = 24,
    WorkException = 25,
    OptionReq = 26,
    OptionRes = 27,
    WorkData = 28,
    WorkWarning = 29,
    GrabJobUniq = 30,
    JobAssignUniq = 31,
    SubmitJobHighBg = 32,
    SubmitJobLow = 33,
    SubmitJobLowBg = 34,
    /// A reserved number; no server gives it a meaning.
    SubmitJobSched = 35,
    SubmitJobEpoch = 36,
    SubmitReduceJob = 37,
    SubmitReduceJobBackground = 38,
    GrabJobAll = 39,
    JobAssignAll = 40,
    GetStatusUnique = 41,
    StatusResUnique = 42,
}

impl PacketType {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// Whether the magic of a packet marks it as sent to the server or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic {
    /// `\0REQ`
    Request,
    /// `\0RES`
    Response,
}

/// The header of a packet. The type is a number here, because framing does not know the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sent to the server or from it.
    pub magic: Magic,
    /// The number of the packet type, known or not.
    pub number: u32,
    /// The length of the body, in bytes.
    pub length: u32,
}

impl Header {
    /// Parses a header.
    ///
    /// # Errors
    /// [`FramingError::BadMagic`]: the rest of the stream cannot be interpreted.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, FramingError> {
        let [m0, m1, m2, m3, t0, t1, t2, t3, l0, l1, l2, l3] = *bytes;
        let magic = match [m0, m1, m2, m3] {
            REQUEST_MAGIC => Magic::Request,
            RESPONSE_MAGIC => Magic::Response,
            _ => return Err(FramingError::BadMagic),
        };
        Ok(Self { magic, number: u32::from_be_bytes([t0, t1, t2, t3]), length: u32::from_be_bytes([l0, l1, l2, l3]) })
    }

    /// The header in wire format.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..4].copy_from_slice(match self.magic {
            Magic::Request => &REQUEST_MAGIC,
            Magic::Response => &RESPONSE_MAGIC,
        });
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// The size of the whole packet, in bytes.
    pub const fn packet_size(self) -> usize {
        HEADER_SIZE + self.length as usize
    }
}

/// The stream cannot be split any further: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A packet that begins with a NUL but not with `\0REQ` or `\0RES`.
    #[error("bytes that are neither a Gearman packet nor a line of text")]
    BadMagic,
    /// A line longer than the limit, whether its end has arrived or not.
    #[error("a line of text longer than the limit (max-admin-line)")]
    LineTooLong,
}

/// The limits of the stream.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// The largest packet, header included, in bytes.
    pub packet: usize,
    /// The longest line of text, its newline included, in bytes.
    pub line: usize,
}

/// What a piece of the stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan<'a> {
    /// A whole packet.
    Packet {
        /// Its header.
        header: Header,
        /// Its body, of the length that the header declares.
        body: &'a [u8],
    },
    /// A whole line, without its newline and a carriage return before that.
    Line {
        /// The line.
        line: &'a [u8],
        /// How many bytes of the stream it took.
        size: usize,
    },
    /// The header of a packet above the limit. Its body follows, and can be skipped.
    Oversized(Header),
    /// A partial packet. The whole has this many bytes, or at least this many while the header is incomplete.
    PartialPacket(usize),
    /// A partial line, or nothing at all.
    PartialLine,
}

/// Examines the beginning of `stream`.
///
/// # Errors
/// When the stream cannot be split any further.
pub fn scan<'a>(stream: &'a [u8], limits: &FrameLimits) -> Result<Scan<'a>, FramingError> {
    match stream.first() {
        None => Ok(Scan::PartialLine),
        Some(0) => scan_packet(stream, limits),
        Some(_) => scan_line(stream, limits),
    }
}

fn scan_packet<'a>(stream: &'a [u8], limits: &FrameLimits) -> Result<Scan<'a>, FramingError> {
    let Some((header, rest)) = stream.split_first_chunk::<HEADER_SIZE>() else {
        let seen = stream.len().min(4);
        if stream[..seen] != REQUEST_MAGIC[..seen] && stream[..seen] != RESPONSE_MAGIC[..seen] {
            return Err(FramingError::BadMagic);
        }
        return Ok(Scan::PartialPacket(HEADER_SIZE));
    };
    let header = Header::parse(header)?;
    let size = header.packet_size();
    if size > limits.packet {
        return Ok(Scan::Oversized(header));
    }
    match rest.get(..header.length as usize) {
        Some(body) => Ok(Scan::Packet { header, body }),
        None => Ok(Scan::PartialPacket(size)),
    }
}

fn scan_line<'a>(stream: &'a [u8], limits: &FrameLimits) -> Result<Scan<'a>, FramingError> {
    let window = stream.get(..limits.line).unwrap_or(stream);
    match memchr::memchr(b'\n', window) {
        Some(end) => {
            let line = &stream[..end];
            Ok(Scan::Line { line: line.strip_suffix(b"\r").unwrap_or(line), size: end + 1 })
        }
        None if stream.len() >= limits.line => Err(FramingError::LineTooLong),
        None => Ok(Scan::PartialLine),
    }
}

/// A packet that owns its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sent to the server or from it.
    pub magic: Magic,
    /// The number of the packet type, known or not.
    pub number: u32,
    /// The body.
    pub body: Bytes,
}

impl Packet {
    /// A packet to the server, its arguments separated by NULs.
    pub fn request(packet_type: PacketType, arguments: &[&[u8]]) -> Self {
        Self { magic: Magic::Request, number: packet_type.number(), body: Bytes::from(arguments.join(&0)) }
    }

    /// The packet's type, if the number is a known one.
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_number(self.number)
    }

    /// The first `COUNT` - 1 arguments, which end with a NUL, and the rest of the body as the last one;
    /// `None` if there are fewer.
    pub fn arguments<const COUNT: usize>(&self) -> Option<[&[u8]; COUNT]> {
        split_arguments(&self.body)
    }
}

/// Splits `body` into `COUNT` arguments: all but the last end with a NUL, the last is the rest. `None` if
/// there are fewer.
pub fn split_arguments<const COUNT: usize>(body: &[u8]) -> Option<[&[u8]; COUNT]> {
    let mut rest = body;
    let mut arguments = [&body[..0]; COUNT];
    let (last, terminated) = arguments.split_last_mut()?;
    for argument in terminated {
        let end = memchr::memchr(0, rest)?;
        *argument = &rest[..end];
        rest = &rest[end + 1..];
    }
    *last = rest;
    Some(arguments)
}

/// A frame that [`PacketCodec`] decodes from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A binary packet.
    Packet(Packet),
    /// A line of text without its line end.
    Line(Bytes),
}

/// Why [`PacketCodec`] failed.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The stream is invalid.
    #[error("the peer sent {0}")]
    Framing(#[from] FramingError),
    /// A packet is larger than the limit, or than the format's 32-bit length.
    #[error("a packet of {0} bytes is larger than the limit")]
    TooLarge(usize),
}

/// Packets and lines over a tokio stream, for the client side of the protocol.
///
/// The server's connections read through [`scan`] directly: they own no buffer while they are idle.
#[derive(Clone, Copy, Debug)]
pub struct PacketCodec {
    /// The limits of the stream.
    pub limits: FrameLimits,
}

impl Decoder for PacketCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, stream: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match scan(stream, &self.limits)? {
            Scan::Packet { header, .. } => {
                let mut packet = stream.split_to(header.packet_size());
                packet.advance(HEADER_SIZE);
                Ok(Some(Frame::Packet(Packet { magic: header.magic, number: header.number, body: packet.freeze() })))
            }
            Scan::Line { line, size } => {
                let length = line.len();
                let mut line = stream.split_to(size);
                line.truncate(length);
                Ok(Some(Frame::Line(line.freeze())))
            }
            Scan::Oversized(header) => Err(CodecError::TooLarge(header.packet_size())),
            Scan::PartialPacket(size) => {
                // The buffer grows with the received bytes, not with the length in the header.
                stream.reserve((size - stream.len()).min(stream.len().max(64 * 1024)));
                Ok(None)
            }
            Scan::PartialLine => Ok(None),
        }
    }
}

impl Encoder<Packet> for PacketCodec {
    type Error = CodecError;

    fn encode(&mut self, packet: Packet, stream: &mut BytesMut) -> Result<(), CodecError> {
        let length = u32::try_from(packet.body.len()).map_err(|_| CodecError::TooLarge(packet.body.len()))?;
        stream.reserve(HEADER_SIZE + packet.body.len());
        let header = Header { magic: packet.magic, number: packet.number, length };
        stream.put_slice(&header.to_bytes());
        stream.put_slice(&packet.body);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits { packet: 100, line: 16 };

    #[test]
    fn numbers_and_types_agree() {
        for number in 0..60 {
            let known = (1..=42).contains(&number) && number != 5;
            assert_eq!(PacketType::from_number(number).is_some(), known, "{number}");
        }
        for packet_type in PacketType::ALL {
            assert_eq!(PacketType::from_number(packet_type.number()), Some(*packet_type));
        }
    }

    #[test]
    fn a_packet_is_bounded_by_its_declared_length() {
        let stream = b"\0REQ\0\0\0\x10\0\0\0\x03a\0bstatus\n";
        let Ok(Scan::Packet { header, body }) = scan(stream, &LIMITS) else {
            panic!("no packet");
        };
        assert_eq!((header.number, body), (16, &b"a\0b"[..]));
        assert_eq!(scan(&stream[header.packet_size()..], &LIMITS), Ok(Scan::Line { line: b"status", size: 7 }));
    }

    #[test]
    fn a_part_of_a_packet_says_how_much_is_wanted() {
        let stream = b"\0REQ\0\0\0\x10\0\0\0\x03a\0b";
        assert_eq!(scan(&stream[..1], &LIMITS), Ok(Scan::PartialPacket(12)));
        assert_eq!(scan(&stream[..11], &LIMITS), Ok(Scan::PartialPacket(12)));
        assert_eq!(scan(&stream[..12], &LIMITS), Ok(Scan::PartialPacket(15)));
        assert_eq!(scan(&stream[..14], &LIMITS), Ok(Scan::PartialPacket(15)));
        assert_eq!(scan(b"", &LIMITS), Ok(Scan::PartialLine));
    }

    #[test]
    fn a_wrong_magic_is_seen_at_its_first_wrong_byte() {
        assert_eq!(scan(b"\0R", &LIMITS), Ok(Scan::PartialPacket(12)));
        assert_eq!(scan(b"\0X", &LIMITS), Err(FramingError::BadMagic));
        assert_eq!(scan(b"\0REX", &LIMITS), Err(FramingError::BadMagic));
    }

    #[test]
    fn a_line_ends_at_its_newline_and_loses_one_carriage_return() {
        assert_eq!(scan(b"x\r\r\ny", &LIMITS), Ok(Scan::Line { line: b"x\r", size: 4 }));
        assert_eq!(scan(b"0123456789abcde\n", &LIMITS).map(|_| ()), Ok(()));
        assert_eq!(scan(b"0123456789abcdef\n", &LIMITS), Err(FramingError::LineTooLong));
        assert_eq!(scan(b"0123456789abcde", &LIMITS), Ok(Scan::PartialLine));
    }

    #[test]
    fn an_oversized_packet_is_told_by_its_header() {
        let stream = b"\0REQ\0\0\0\x10\xff\xff\xff\xff";
        assert!(matches!(scan(stream, &LIMITS), Ok(Scan::Oversized(header)) if header.length == u32::MAX));
    }

    #[test]
    fn arguments_are_cut_at_their_nuls_and_the_last_takes_the_rest() {
        assert_eq!(split_arguments::<3>(b"a\0\0x\0y"), Some([&b"a"[..], b"", b"x\0y"]));
        assert_eq!(split_arguments::<3>(b"a\0b"), None);
        assert_eq!(split_arguments::<1>(b"a\0b"), Some([&b"a\0b"[..]]));
    }
}
