//! Compresses a streaming body.

use std::io::Write as _;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT_ENCODING;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Compressed bytes are sent when there are this many.
const PIECE: usize = 16 * 1024;
/// Maximum number of chunks compressed without yielding to other requests.
const AT_ONCE: usize = 4;

/// A gzip stream. It uses some hundred KiB, regardless of the input size.
pub(super) struct Gzip(Option<GzEncoder<Vec<u8>>>);

impl Gzip {
    pub(super) fn new() -> Self {
        // The text is so repetitive that a higher level gains little and takes several times as long.
        Self(Some(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    /// The next compressed chunk of the output of `make`; `None` after the end. A chunk that is not the last
    /// may be empty.
    pub(super) fn compress(&mut self, mut make: impl FnMut() -> Option<Bytes>) -> Option<Bytes> {
        let encoder = self.0.as_mut()?;
        for _ in 0..AT_ONCE {
            match make() {
                // Writing to memory cannot fail, here and below.
                Some(piece) => drop(encoder.write_all(&piece)),
                None => return self.0.take()?.finish().ok().map(Bytes::from),
            }
            if encoder.get_ref().len() >= PIECE {
                break;
            }
        }
        Some(std::mem::take(encoder.get_mut()).into())
    }
}

/// Whether the client accepts gzip.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|codings| codings.split(',')).any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = parameters.split_once('=').map(|(_, quality)| quality.trim().parse::<f32>());
        name.trim().eq_ignore_ascii_case("gzip") && quality.is_none_or(|quality| quality.is_ok_and(|q| q > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use axum::http::HeaderValue;
    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn whoever_takes_gzip_says_so() {
        for (value, accepted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5 , br", true),
            ("gzip;q=1", true),
            ("gzip; q=0", false),
            ("gzip;q=0.0", false),
            ("gzip;q=", false),
            ("identity", false),
            ("gzipped", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(is_accepted(&headers), accepted, "{value}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }

    #[test]
    fn a_stream_is_compressed_in_small_pieces() {
        for pieces in [0, 1, 7, 400] {
            let mut seed = 1_u32;
            let mut random = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()
            };
            let made: Vec<Bytes> =
                (0..pieces).map(|_| std::iter::repeat_with(&mut random).take(2048).flatten().collect()).collect();
            let (mut left, mut gzip, mut compressed) = (made.iter().cloned(), Gzip::new(), Vec::new());
            while let Some(piece) = gzip.compress(|| left.next()) {
                assert!(piece.len() <= PIECE + 128 * 1024, "{}", piece.len());
                compressed.extend_from_slice(&piece);
            }
            assert!(gzip.compress(|| unreachable!("it has ended")).is_none());
            let mut read = Vec::new();
            GzDecoder::new(&*compressed).read_to_end(&mut read).unwrap();
            assert!(read == made.concat(), "{pieces} pieces are read as they were");
        }
    }
}
