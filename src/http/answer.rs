//! Responses: JSON, errors, and streaming bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;

use super::routes::StreamPermit;

/// Approximate chunk size of a streaming body, in bytes.
pub(super) const PIECE: usize = 32 * 1024;

/// Rounds bytes up to KiB.
pub(super) fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// An error response, with a code for programs and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: String,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    /// The message.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The request is invalid.
    pub(super) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The requested object does not exist.
    pub(super) fn missing(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// A limited resource is exhausted. A retry may succeed.
    pub(super) fn busy(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }
}

#[derive(Serialize)]
struct ApiErrorBody<'a> {
    error: ApiErrorText<'a>,
}

#[derive(Serialize)]
struct ApiErrorText<'a> {
    code: &'a str,
    message: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ApiErrorBody { error: ApiErrorText { code: &self.code, message: &self.message } };
        let mut response = json_with(self.status, &body);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A JSON response.
pub(super) fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

/// A JSON response with this status.
pub(super) fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, "application/json", Body::from(body)),
        Err(error) => with_type(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Body::from(error.to_string())),
    }
}

/// A response with this content type that must not be cached.
pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A streaming JSON list, `{"NAME":[...]}`, serialized chunk by chunk. `end` follows the list.
pub(super) fn list<T: Serialize>(
    name: &str,
    end: &str,
    permit: StreamPermit,
    mut next: impl FnMut() -> Option<T> + Send + Unpin + 'static,
) -> Response {
    let mut head = Some(format!("{{\"{name}\":["));
    let mut end = Some(format!("]{end}}}"));
    let mut is_first = true;
    let pieces = move || {
        // Holds the permit until the body is dropped.
        let _permit = &permit;
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
            // Serializing a view to memory cannot fail.
            let _ = serde_json::to_writer(&mut piece, &item);
        }
        Some(Bytes::from(piece))
    };
    with_type(StatusCode::OK, "application/json", Body::new(ChunkedBody::new(pieces)))
}

/// The cursor of the next page, to follow a list.
pub(super) fn next_page(next: Option<String>) -> String {
    format!(",\"next\":{}", next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\"")))
}

/// A streaming body that makes each chunk when there is room for it. It yields between chunks, so that other
/// connections run.
pub(super) struct ChunkedBody<F> {
    make: F,
    is_others_turn: bool,
}

impl<F: FnMut() -> Option<Bytes>> ChunkedBody<F> {
    pub(super) fn new(make: F) -> Self {
        Self { make, is_others_turn: false }
    }
}

impl<F: FnMut() -> Option<Bytes> + Unpin> HttpBody for ChunkedBody<F> {
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
