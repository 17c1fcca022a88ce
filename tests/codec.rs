//! Properties of the wire format: how a stream is cut does not matter, no bytes can do harm, and what is
//! written is read. And of whole sessions in this process, `codec/sessions.rs`.

// Helpers of a test fail as a test does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "codec/script.rs"]
mod script;
#[path = "codec/sessions.rs"]
mod sessions;
#[path = "codec/stage.rs"]
mod stage;

use bytes::{BufMut, Bytes, BytesMut};
use gearmand::protocol::packet::{
    CodecError, Frame, FrameLimits, FramingError, HEADER_SIZE, Magic, Packet, PacketCodec, PacketType, Scan, scan,
    split_arguments,
};
use gearmand::protocol::response::Status;
use gearmand::protocol::text::{escaped, read_name, write_escaped};
use gearmand::protocol::{GrabKind, JobHandle, PeerError, Priority, Request, Response, Workload};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_util::codec::{Decoder, Encoder};

const LIMITS: FrameLimits = FrameLimits { packet: 2048, line: 48 };
const PREFIX: &str = "H:some-host";

/// Something whole in a stream.
fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let packet = (any::<bool>(), 0..60_u32, vec(any::<u8>(), 0..300)).prop_map(|(is_request, number, body)| {
        let magic = if is_request { Magic::Request } else { Magic::Response };
        Frame::Packet(Packet { magic, number, body: Bytes::from(body) })
    });
    let line = "[a-z][a-z \t\r]{0,20}[a-z]|[a-z]".prop_map(|line| Frame::Line(Bytes::from(line)));
    vec(prop_oneof![3 => packet, 1 => line], 0..12)
}

fn write(frames: &[Frame], line_end: &[u8]) -> Vec<u8> {
    let mut stream = BytesMut::new();
    for frame in frames {
        match frame {
            Frame::Packet(packet) => PacketCodec { limits: LIMITS }.encode(packet.clone(), &mut stream).unwrap(),
            Frame::Line(line) => {
                stream.put_slice(line);
                stream.put_slice(line_end);
            }
        }
    }
    stream.to_vec()
}

/// Decodes a stream that arrives in these pieces, as the server does. Returns its frames, and the error that
/// ended it.
fn scan_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FramingError>) {
    let (mut frames, mut buffer) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let size = match scan(&buffer, &LIMITS) {
                Ok(Scan::Packet { header, body }) => {
                    let body = Bytes::copy_from_slice(body);
                    frames.push(Frame::Packet(Packet { magic: header.magic, number: header.number, body }));
                    header.packet_size()
                }
                Ok(Scan::Line { line, size }) => {
                    frames.push(Frame::Line(Bytes::copy_from_slice(line)));
                    size
                }
                // The simulated server gives up on both; a real one skips the body of a packet that is too
                // large.
                Ok(Scan::Oversized(_)) => return (frames, None),
                Ok(Scan::PartialPacket(size)) => {
                    assert!(size > buffer.len() && size <= LIMITS.packet, "{size} bytes are wanted");
                    break;
                }
                Ok(Scan::PartialLine) => {
                    assert!(buffer.len() < LIMITS.line, "a line may have no end");
                    break;
                }
                Err(error) => return (frames, Some(error)),
            };
            buffer.drain(..size);
        }
    }
    (frames, None)
}

/// The same with the codec, which also says where it stopped.
fn decode_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FramingError>) {
    let mut codec = PacketCodec { limits: LIMITS };
    let (mut frames, mut buffer) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(CodecError::Framing(error)) => return (frames, Some(error)),
                Err(CodecError::TooLarge(size)) => {
                    assert!(size > LIMITS.packet);
                    return (frames, None);
                }
                Err(CodecError::Io(error)) => panic!("there is no I/O here: {error}"),
            }
        }
    }
    (frames, None)
}

/// The pieces between these places.
fn cut<'a>(stream: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = places.iter().map(|place| place.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| &stream[std::mem::replace(&mut start, end)..end]).collect()
}

/// Bytes that often come close to meaning something.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let header = (any::<bool>(), 0..50_u32, 0..100_u32).prop_map(|(is_request, number, length)| {
        let magic: &[u8] = if is_request { b"\0REQ" } else { b"\0RES" };
        [magic, &number.to_be_bytes(), &length.to_be_bytes()].concat()
    });
    let huge = any::<u32>().prop_map(|length| [b"\0REQ\0\0\0\x07", &length.to_be_bytes()[..]].concat());
    let text = vec(prop::sample::select(b"a \r\n\0".to_vec()), 0..40);
    let long = (40..60_usize).prop_map(|length| vec![b'a'; length]);
    let piece = prop_oneof![4 => header, 1 => huge, 2 => text, 1 => long, 2 => vec(any::<u8>(), 0..60)];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_cut_of_packets_and_lines_reads_the_same(
        frames in frames(),
        with_carriage_return in any::<bool>(),
        places in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = write(&frames, if with_carriage_return { b"\r\n" } else { b"\n" });
        let pieces = cut(&stream, &places);
        prop_assert_eq!(scan_pieces(pieces.iter().copied()), (frames.clone(), None));
        prop_assert_eq!(decode_pieces(pieces.iter().copied()), (frames.clone(), None));
        prop_assert_eq!(scan_pieces(stream.chunks(1)), (frames.clone(), None));
        prop_assert_eq!(decode_pieces(stream.chunks(1)), (frames, None));
    }

    #[test]
    fn any_bytes_are_cut_the_same_by_all_or_refused(
        stream in any_stream(),
        places in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let whole = scan_pieces(std::iter::once(&stream[..]));
        let pieces = cut(&stream, &places);
        prop_assert_eq!(&scan_pieces(pieces.iter().copied()), &whole);
        prop_assert_eq!(&decode_pieces(pieces.iter().copied()), &whole);
        prop_assert_eq!(&scan_pieces(stream.chunks(1)), &whole);
        for frame in whole.0 {
            if let Frame::Packet(packet) = frame {
                let _ = Request::parse(packet.number, Workload::borrowed(&packet.body));
            }
        }
    }

    #[test]
    fn any_body_is_a_request_within_its_limits_or_an_error(number in 0..64_u32, body in vec(prop_oneof![
        2 => Just(0_u8), 2 => b'0'..=b'9', 3 => any::<u8>(),
    ], 0..700)) {
        let owner = Bytes::from(body);
        let borrowed = Request::parse(number, Workload::borrowed(&owner));
        let shared = Request::parse(number, Workload::shared(&owner, &owner));
        prop_assert_eq!(format!("{:?}", borrowed.as_ref().err()), format!("{:?}", shared.as_ref().err()));
        if let (Ok(Request::Submit(one)), Ok(Request::Submit(other))) = (borrowed, shared) {
            prop_assert!(one.function.len() <= 512 && one.unique.len() <= 64 && one.reducer.len() <= 64);
            prop_assert_eq!(one.workload.as_bytes(), other.workload.as_bytes());
            prop_assert!(one.workload.share().is_none());
            prop_assert_eq!(other.workload.share().unwrap(), one.workload.as_bytes());
            prop_assert!(owner.ends_with(one.workload.as_bytes()));
        }
    }

    #[test]
    fn a_submission_is_read_as_it_was_written(
        function in argument(512),
        unique in argument(64),
        workload in vec(any::<u8>(), 0..200),
        kind in 0..9_usize,
        due_s in any::<i64>(),
        reducer in argument(64),
    ) {
        let due = due_s.to_string();
        let [function, unique, reducer, workload] = [&function[..], &unique, &reducer, &workload];
        let plain = [function, unique, workload];
        let (packet_type, arguments, priority, background) = match kind {
            0 => (PacketType::SubmitJob, &plain[..], Priority::Normal, false),
            1 => (PacketType::SubmitJobBg, &plain[..], Priority::Normal, true),
            2 => (PacketType::SubmitJobHigh, &plain[..], Priority::High, false),
            3 => (PacketType::SubmitJobHighBg, &plain[..], Priority::High, true),
            4 => (PacketType::SubmitJobLow, &plain[..], Priority::Low, false),
            5 => (PacketType::SubmitJobLowBg, &plain[..], Priority::Low, true),
            6 => (PacketType::SubmitJobEpoch, &[function, unique, due.as_bytes(), workload][..], Priority::Normal, true),
            7 => (PacketType::SubmitReduceJob, &[function, unique, reducer, b"x", workload][..], Priority::Normal, false),
            _ => (PacketType::SubmitReduceJobBackground, &[function, unique, reducer, b"", workload][..], Priority::Normal, true),
        };
        let packet = Packet::request(packet_type, arguments);
        let Ok(Request::Submit(read)) = Request::parse(packet.number, Workload::borrowed(&packet.body)) else {
            panic!("{packet:?} is no submission");
        };
        prop_assert_eq!((read.function, read.unique, read.workload.as_bytes()), (function, unique, workload));
        prop_assert_eq!((read.priority, read.background), (priority, background));
        prop_assert_eq!(read.reducer, if kind >= 7 { reducer } else { b"" });
        prop_assert_eq!(read.due_s, u64::try_from(due_s).ok().filter(|due_s| kind == 6 && *due_s > 0));
    }

    #[test]
    fn a_worker_s_packet_is_read_as_it_was_written(
        function in argument(512),
        handle in argument(63),
        workload in vec(any::<u8>(), 0..200),
        number in any::<u32>(),
    ) {
        let digits = number.to_string();
        let cases: [(PacketType, Vec<&[u8]>, Request<'_>); 12] = [
            (PacketType::CanDo, vec![&function], Request::CanDo { function: &function, timeout_ms: None }),
            (PacketType::CanDoTimeout, vec![&function, digits.as_bytes()], Request::CanDo {
                function: &function,
                timeout_ms: Some(u64::from(number)).filter(|ms| *ms > 0).map(|ms| ms.max(1000)),
            }),
            (PacketType::CantDo, vec![&function], Request::CantDo { function: &function }),
            (PacketType::GrabJobAll, vec![], Request::GrabJob(GrabKind::All)),
            (PacketType::WorkStatus, vec![&handle, digits.as_bytes(), b"7"], Request::WorkStatus {
                handle: &handle, numerator: digits.as_bytes(), denominator: b"7",
            }),
            (PacketType::WorkData, vec![&handle, &workload], Request::WorkData {
                handle: &handle, workload: Workload::borrowed(&workload),
            }),
            (PacketType::WorkWarning, vec![&handle, &workload], Request::WorkWarning {
                handle: &handle, workload: Workload::borrowed(&workload),
            }),
            (PacketType::WorkComplete, vec![&handle, &workload], Request::WorkComplete {
                handle: &handle, workload: Workload::borrowed(&workload),
            }),
            (PacketType::WorkException, vec![&handle, &workload], Request::WorkException {
                handle: &handle, workload: Workload::borrowed(&workload),
            }),
            (PacketType::WorkFail, vec![&handle], Request::WorkFail { handle: &handle }),
            (PacketType::GetStatus, vec![&handle], Request::GetStatus { handle: &handle }),
            (PacketType::EchoReq, vec![&workload], Request::Echo { workload: Workload::borrowed(&workload) }),
        ];
        for (packet_type, arguments, expected) in cases {
            let packet = Packet::request(packet_type, &arguments);
            let read = Request::parse(packet.number, Workload::borrowed(&packet.body)).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{expected:?}"));
        }
    }

    #[test]
    fn a_response_is_a_packet_with_its_arguments(
        number in 1..u64::MAX,
        function in argument(512),
        unique in argument(64),
        reducer in argument(64),
        workload in vec(any::<u8>(), 0..600),
        counts in any::<[u64; 2]>(),
        flags in any::<[bool; 2]>(),
        clients in any::<u64>(),
    ) {
        let job = JobHandle { prefix: PREFIX, number };
        let handle = job.to_string();
        let handle = handle.as_bytes();
        let [numerator, denominator] = counts.map(|count| count.to_string());
        let [known, running] = flags.map(|flag| u8::from(flag).to_string());
        let count = clients.to_string();
        let (done, of, known, running) = (numerator.as_bytes(), denominator.as_bytes(), known.as_bytes(), running.as_bytes());
        let status = Status { known: flags[0], running: flags[1], numerator: counts[0], denominator: counts[1] };
        let owner = Bytes::from(workload.clone());
        let body = Workload::shared(&owner, &owner);
        let error = PeerError::ALL[usize::try_from(number % PeerError::ALL.len() as u64).unwrap()];
        let cases: [(Response<'_>, u32, Vec<&[u8]>); 17] = [
            (Response::Noop, 6, vec![]),
            (Response::JobCreated { handle: job }, 8, vec![handle]),
            (Response::NoJob, 10, vec![]),
            (Response::JobAssign { handle: job, function: &function, workload: body }, 11, vec![handle, &function, &workload]),
            (
                Response::JobAssignUniq { handle: job, function: &function, unique: &unique, workload: body },
                31,
                vec![handle, &function, &unique, &workload],
            ),
            (
                Response::JobAssignAll { handle: job, function: &function, unique: &unique, reducer: &reducer, workload: body },
                40,
                vec![handle, &function, &unique, &reducer, &workload],
            ),
            (Response::WorkStatus { handle: job, numerator: done, denominator: of }, 12, vec![handle, done, of]),
            (Response::WorkData { handle: job, workload: body }, 28, vec![handle, &workload]),
            (Response::WorkWarning { handle: job, workload: body }, 29, vec![handle, &workload]),
            (Response::WorkComplete { handle: job, workload: body }, 13, vec![handle, &workload]),
            (Response::WorkException { handle: job, workload: body }, 25, vec![handle, &workload]),
            (Response::WorkFail { handle: job }, 14, vec![handle]),
            (Response::StatusRes { handle, status }, 20, vec![handle, known, running, done, of]),
            (
                Response::StatusResUnique { unique: &unique, status, clients },
                42,
                vec![&unique, known, running, done, of, count.as_bytes()],
            ),
            (Response::EchoRes { workload: body }, 17, vec![&workload]),
            (Response::OptionRes { written: &unique }, 27, vec![&unique]),
            (Response::Error(error), 19, vec![error.code.as_bytes(), error.text.as_bytes()]),
        ];
        for (response, number, arguments) in cases {
            let expected = Packet { magic: Magic::Response, number, body: Bytes::from(arguments.join(&0)) };
            let bytes = response.to_bytes();
            let mut head = Vec::new();
            response.write_head(&mut head);
            prop_assert!(bytes.starts_with(&head));
            let rest = response.workload().map_or(0, |workload| workload.as_bytes().len());
            prop_assert_eq!(bytes.len() - head.len(), rest);
            prop_assert_eq!(decode_pieces(std::iter::once(&bytes[..])), (vec![Frame::Packet(expected)], None));
        }
    }

    #[test]
    fn arguments_are_cut_as_they_were_joined(arguments in [argument(40), argument(40), argument(40)], rest in vec(any::<u8>(), 0..40)) {
        let [a, b, c] = &arguments;
        let body = [&a[..], b, c, &rest].join(&0);
        prop_assert_eq!(split_arguments::<4>(&body), Some([&a[..], b, c, &rest]));
        let short = [&a[..], b, c].join(&0);
        prop_assert_eq!(split_arguments::<4>(&short), None);
    }

    /// A header that announces much costs nothing until the bytes are there.
    #[test]
    fn space_grows_with_what_has_arrived(length in 100_000..u32::MAX, arrived in 0..50_000_usize) {
        let limits = FrameLimits { packet: usize::MAX, line: 200 };
        let mut stream = BytesMut::from(&[b"\0REQ\0\0\0\x07", &length.to_be_bytes()[..]].concat()[..]);
        stream.extend_from_slice(&vec![0; arrived]);
        let frame = PacketCodec { limits }.decode(&mut stream).unwrap();
        prop_assert!(frame.is_none());
        prop_assert!(stream.capacity() <= 2 * (HEADER_SIZE + arrived) + 128 * 1024, "{} bytes", stream.capacity());
    }

    /// Whatever a name is, what is shown of it can be given back: as a word, as a cell of a table, and as one
    /// of a list.
    #[test]
    fn names_are_read_back_as_they_are_written(name in names()) {
        for separator in [b' ', b'\t', b','] {
            let mut word = Vec::new();
            write_escaped(&name, &mut word, separator);
            prop_assert!(name.is_empty() || !word.contains(&separator));
            prop_assert!(!word.iter().any(u8::is_ascii_control));
            let word = String::from_utf8(word).unwrap();
            if separator != b'\t' || !name.is_empty() {
                prop_assert_eq!(read_name(word.as_bytes()), name.clone(), "{}", word);
                // A cell may have spaces, which a command cannot.
                prop_assert_eq!(read_name(word.replace(' ', "\\x20").as_bytes()), name.clone(), "{}", word);
            }
        }
        prop_assert!(!escaped(&name).is_empty());
    }
}

/// Names that look like escapes as often as not.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        2 => "[\\\\xe0-9a-f]{1,5}".prop_map(String::into_bytes),
        1 => "\\\\x[0-9a-fA-F]{0,2}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..4),
        1 => "[ ,\t\r\n\u{85}\u{202e}é€]".prop_map(String::into_bytes),
    ];
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

/// An argument of a packet: any bytes but NUL, up to `longest` of them.
fn argument(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, 0..=longest)
}

#[test]
fn a_packet_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
    for (size, is_read) in [(LIMITS.packet, true), (LIMITS.packet + 1, false)] {
        let body = Bytes::from(vec![7; size - HEADER_SIZE]);
        let packet = Packet { magic: Magic::Request, number: 16, body };
        let mut stream = BytesMut::new();
        PacketCodec { limits: LIMITS }.encode(packet.clone(), &mut stream).unwrap();
        assert_eq!(stream.len(), size);
        let read = PacketCodec { limits: LIMITS }.decode(&mut stream);
        match read {
            Ok(Some(Frame::Packet(read))) => assert!(is_read && read == packet),
            Err(CodecError::TooLarge(announced)) => assert!(!is_read && announced == size),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_line_without_an_end_is_refused_at_the_limit() {
    let line = vec![b'a'; LIMITS.line];
    assert_eq!(scan(&line[1..], &LIMITS), Ok(Scan::PartialLine));
    assert_eq!(scan(&line, &LIMITS), Err(FramingError::LineTooLong));
}

#[test]
fn a_wrong_magic_is_refused_as_soon_as_it_shows() {
    for magic in [b"\0REQ", b"\0RES"] {
        for length in 1..=4 {
            let mut stream = magic[..length].to_vec();
            assert_eq!(scan(&stream, &LIMITS), Ok(Scan::PartialPacket(HEADER_SIZE)));
            if length > 1 {
                stream[length - 1] = b'x';
                assert_eq!(scan(&stream, &LIMITS), Err(FramingError::BadMagic));
            }
        }
    }
}

#[test]
fn arguments_may_be_as_long_as_the_protocol_says_and_no_longer() {
    let refused = |packet_type: PacketType, arguments: &[&[u8]]| {
        let packet = Packet::request(packet_type, arguments);
        Request::parse(packet.number, Workload::borrowed(&packet.body)).err().map(|error| error.code)
    };
    let long = [b'n'; 513];
    for (length, expected) in [(64, None), (65, Some("ARGUMENT_TOO_LARGE"))] {
        let name = &long[..length];
        assert_eq!(refused(PacketType::SubmitJob, &[b"f", name, b""]), expected);
        assert_eq!(refused(PacketType::SubmitJobEpoch, &[b"f", name, b"0", b""]), expected);
        assert_eq!(refused(PacketType::SubmitReduceJob, &[b"f", name, b"", b"", b""]), expected);
        assert_eq!(refused(PacketType::SubmitReduceJob, &[b"f", b"", name, b"", b""]), expected);
        assert_eq!(refused(PacketType::GetStatusUnique, &[name]), expected);
        // A handle may have 63 bytes.
        assert_eq!(refused(PacketType::WorkFail, &[&name[1..]]), expected);
        assert_eq!(refused(PacketType::WorkData, &[&name[1..], b""]), expected);
        assert_eq!(refused(PacketType::WorkStatus, &[&name[1..], b"1", b"2"]), expected);
        assert_eq!(refused(PacketType::GetStatus, &[&name[1..]]), expected);
    }
    for (length, expected) in [(512, None), (513, Some("ARGUMENT_TOO_LARGE"))] {
        let name = &long[..length];
        // What is offered and not taken is not answered.
        assert_eq!(refused(PacketType::CanDo, &[name]), None);
        assert_eq!(refused(PacketType::CanDoTimeout, &[name, b"1"]), None);
        assert_eq!(refused(PacketType::CantDo, &[name]), None);
        assert_eq!(refused(PacketType::SubmitJobLowBg, &[name, b"", b""]), expected);
    }
}
