//! Mutations of byte streams, and where in its frames a stream ends.

use memchr::memmem;

use crate::common::packet;

/// A seeded generator of random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("64 bits").max(1);
        usize::try_from(self.next() % bound).expect("64 bits")
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Lengths that parsers get wrong.
const LENGTHS: [u32; 14] =
    [0, 1, 2, 63, 64, 65, 511, 4096, 32_756, 65_536, 1 << 20, (64 << 20) + 1, i32::MAX as u32, u32::MAX];
/// No longer stream is sent, in bytes.
const LONGEST: usize = 200_000;

/// Changes a stream in one to four ways. `other` is what is spliced into it.
pub(crate) fn mutate(random: &mut Random, stream: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(stream.len());
        let until = at + random.below((stream.len() - at).min(64) + 1);
        match random.below(11) {
            0 => flip(random, stream),
            1 => stream.truncate(at),
            2 => drop(stream.drain(at..until)),
            3 => {
                let inserted: Vec<u8> = (0..=random.below(20)).map(|_| random.byte()).collect();
                drop(stream.splice(at..at, inserted));
            }
            4 => {
                let repeated = stream[at..until].repeat(1 + random.below(30));
                drop(stream.splice(at..at, repeated));
            }
            5 => drop(stream.splice(at.., other[random.below(other.len())..].iter().copied())),
            6 => set_field(random, stream, 8, |random| *random.pick(&LENGTHS)),
            7 => set_field(random, stream, 8, |random| u32::try_from(random.below(80)).expect("small")),
            8 => set_field(random, stream, 4, |random| u32::try_from(random.below(45)).expect("small")),
            9 => set_field(random, stream, 0, |_| u32::from_be_bytes(*b"\0RES")),
            _ => {
                let separators = *random.pick(b"\0\n\r 9-");
                stream.iter_mut().skip(at).take(1 + until - at).for_each(|byte| *byte = separators);
            }
        }
        stream.truncate(LONGEST);
    }
}

fn flip(random: &mut Random, stream: &mut [u8]) {
    let at = random.below(stream.len());
    if let Some(byte) = stream.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

/// Sets a field of the header of one of the packets in the stream.
fn set_field(random: &mut Random, stream: &mut [u8], offset: usize, value: impl Fn(&mut Random) -> u32) {
    let headers: Vec<usize> = memmem::find_iter(stream, b"\0REQ").collect();
    if headers.is_empty() {
        return;
    }
    let at = *random.pick(&headers) + offset;
    if let Some(field) = stream.get_mut(at..at + 4) {
        field.copy_from_slice(&value(random).to_be_bytes());
    }
}

/// The longest line that the server takes by default, its newline included.
const LONGEST_LINE: usize = 8192;

/// Where a stream ends, by the rules of framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Between two packets or lines: the next packet will be understood.
    Between,
    /// Within a packet or a line.
    Within,
    /// Behind something that is neither; the server closes the connection.
    Broken,
}

/// Cuts a stream into packets and lines as a server must.
pub(crate) fn end_of(mut stream: &[u8]) -> End {
    while let Some(first) = stream.first() {
        let size = if *first == 0 {
            let magic = &stream[..stream.len().min(4)];
            if !b"\0REQ".starts_with(magic) && !b"\0RES".starts_with(magic) {
                return End::Broken;
            }
            let Some(length) = stream.get(8..12) else {
                return End::Within;
            };
            packet::HEADER_SIZE + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize
        } else {
            match memchr::memchr(b'\n', stream).map(|end| end + 1) {
                Some(size) if size <= LONGEST_LINE => size,
                None if stream.len() < LONGEST_LINE => return End::Within,
                _ => return End::Broken,
            }
        };
        match stream.get(size..) {
            Some(rest) => stream = rest,
            None => return End::Within,
        }
    }
    End::Between
}
