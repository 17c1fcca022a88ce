//! Reads request bodies.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::answer::ApiError;
use super::budget::{SMALL, Share, append};

/// Timeout for a small body as a whole, and for each part of that size of a large one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a small body of at most `most` bytes.
pub(super) async fn read_body(body: Body, most: usize) -> Result<Vec<u8>, ApiError> {
    read(body, most, None, PATIENCE).await
}

/// Reads a body of at most `most` bytes, and charges them to `share` as they arrive.
pub(super) async fn read_large_body(body: Body, most: usize, share: &mut Share) -> Result<Vec<u8>, ApiError> {
    read(body, most, Some(share), PATIENCE).await
}

async fn read(
    mut body: Body,
    most: usize,
    mut share: Option<&mut Share>,
    patience: Duration,
) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let (mut end, mut wanted) = (Instant::now() + patience, SMALL);
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = timeout_at(end, frame).await.map_err(|_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "timeout while reading the body")
        })?;
        let frame = match frame {
            None => return Ok(bytes),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(ApiError::bad("bad_body", format!("the body cannot be read: {error}"))),
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_large());
        }
        append(&mut bytes, &data, most);
        if let Some(share) = &mut share {
            share.hold(bytes.capacity())?;
        }
        if bytes.len() >= wanted {
            (end, wanted) = (Instant::now() + patience, bytes.len() + SMALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Poll;

    use axum::body::{Bytes, HttpBody};
    use hyper::body::Frame;
    use tokio::time::{Interval, interval};

    use super::*;

    /// An endless body that yields a fixed number of bytes every few milliseconds.
    struct Trickle(Interval, usize);

    impl HttpBody for Trickle {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let size = self.1;
            self.0.poll_tick(context).map(|_| Some(Ok(Frame::data(vec![b' '; size].into()))))
        }
    }

    #[tokio::test]
    async fn a_body_must_come() {
        let trickle = |size| Body::new(Trickle(interval(Duration::from_millis(7)), size));
        let slow = read(trickle(1), SMALL, None, Duration::from_millis(70)).await.unwrap_err();
        assert!(format!("{slow:?}").contains("body_too_slow"), "{slow:?}");
        // Large bodies may take longer, as long as they make progress.
        let large = read_body(trickle(SMALL / 2), SMALL * 10).await.unwrap_err();
        assert!(format!("{large:?}").contains("body_too_large"), "{large:?}");
    }
}
