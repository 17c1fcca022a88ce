//! Answers: JSON, what went wrong, and long bodies that are made as they are read.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;

use super::routes::Reading;

/// About how large the pieces of a long body are, in bytes.
pub(super) const PIECE: usize = 32 * 1024;

/// How many KiB hold so many bytes.
pub(super) fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// Why a request is not done, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    status: StatusCode,
    code: String,
    message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    /// Why, for people.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The request makes no sense.
    pub(super) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// What is asked for is not there.
    pub(super) fn missing(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Something that is bounded is used up; later there may be some.
    pub(super) fn busy(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }
}

#[derive(Serialize)]
struct FailureBody<'a> {
    error: FailureText<'a>,
}

#[derive(Serialize)]
struct FailureText<'a> {
    code: &'a str,
    message: &'a str,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = FailureBody { error: FailureText { code: &self.code, message: &self.message } };
        let mut response = json_with(self.status, &body);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// An answer in JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

/// An answer in JSON with this status.
pub(super) fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, "application/json", Body::from(body)),
        Err(error) => with_type(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Body::from(error.to_string())),
    }
}

/// An answer of this type, which is not to be kept by caches.
pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A list in JSON, `{"NAME":[...]}`, of which a piece at a time is made and written. `end` is what follows the list.
pub(super) fn list<T: Serialize>(
    name: &str,
    end: &str,
    reading: Reading,
    mut next: impl FnMut() -> Option<T> + Send + Unpin + 'static,
) -> Response {
    let mut head = Some(format!("{{\"{name}\":["));
    let mut end = Some(format!("]{end}}}"));
    let mut is_first = true;
    let pieces = move || {
        // It lasts as long as this does.
        let _reading = &reading;
        end.as_ref()?;
        let mut piece = head.take().unwrap_or_default().into_bytes();
        while piece.len() < PIECE {
            let Some(item) = next() else {
                piece.extend_from_slice(end.take().unwrap_or_default().as_bytes());
                break;
            };
            if !std::mem::take(&mut is_first) {
                piece.push(b',');
            }
            // Writing to memory fails for nothing that a view can hold.
            let _ = serde_json::to_writer(&mut piece, &item);
        }
        Some(Bytes::from(piece))
    };
    with_type(StatusCode::OK, "application/json", Body::new(Pieces::new(pieces)))
}

/// What follows the list of a page: where the next one begins.
pub(super) fn next_page(next: Option<String>) -> String {
    format!(",\"next\":{}", next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\"")))
}

/// A body whose pieces are made when there is room for them. Between two of them others have their turn.
pub(super) struct Pieces<F> {
    make: F,
    is_others_turn: bool,
}

impl<F: FnMut() -> Option<Bytes>> Pieces<F> {
    pub(super) fn new(make: F) -> Self {
        Self { make, is_others_turn: false }
    }
}

impl<F: FnMut() -> Option<Bytes> + Unpin> HttpBody for Pieces<F> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if std::mem::take(&mut self.is_others_turn) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.is_others_turn = true;
        Poll::Ready((self.make)().map(|piece| Ok(Frame::data(piece))))
    }
}
