//! The embedded files of the dashboard and the OpenAPI description.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::answer::ApiError;
use super::routes::RequestContext;

/// The OpenAPI description.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// The page at `/`.
const PAGE: Asset = Asset::new("index.html", "text/html; charset=utf-8", include_bytes!("assets/index.html"));

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// The files under `/assets/`.
const ASSETS: &[Asset] = &[
    Asset::new("actions.js", SCRIPT, include_bytes!("assets/actions.js")),
    Asset::new("address.js", SCRIPT, include_bytes!("assets/address.js")),
    Asset::new("api.js", SCRIPT, include_bytes!("assets/api.js")),
    Asset::new("app.js", SCRIPT, include_bytes!("assets/app.js")),
    Asset::new("chart.js", SCRIPT, include_bytes!("assets/chart.js")),
    Asset::new("commands.js", SCRIPT, include_bytes!("assets/commands.js")),
    Asset::new("dom.js", SCRIPT, include_bytes!("assets/dom.js")),
    Asset::new("fleet.js", SCRIPT, include_bytes!("assets/fleet.js")),
    Asset::new("format.js", SCRIPT, include_bytes!("assets/format.js")),
    Asset::new("functions.js", SCRIPT, include_bytes!("assets/functions.js")),
    Asset::new("jobs.js", SCRIPT, include_bytes!("assets/jobs.js")),
    Asset::new("logo.svg", IMAGE, include_bytes!("assets/logo.svg")),
    Asset::new("overview.js", SCRIPT, include_bytes!("assets/overview.js")),
    Asset::new("preview.js", SCRIPT, include_bytes!("assets/preview.js")),
    Asset::new("server.js", SCRIPT, include_bytes!("assets/server.js")),
    Asset::new("style.css", STYLE, include_bytes!("assets/style.css")),
    Asset::new("submit.js", SCRIPT, include_bytes!("assets/submit.js")),
    Asset::new("theme.js", SCRIPT, include_bytes!("assets/theme.js")),
    Asset::new("ui.js", SCRIPT, include_bytes!("assets/ui.js")),
    Asset::new("workers.js", SCRIPT, include_bytes!("assets/workers.js")),
];

/// An embedded file.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

impl Asset {
    const fn new(name: &'static str, content_type: &'static str, content: &'static [u8]) -> Self {
        Self { name, content_type, content }
    }

    /// Serves the file with an ETag, so that browsers cache it and revalidate it on each use.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let known = headers.get(IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
        let is_known = known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag);
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Body::from(self.content).into_response();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            response
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }
}

/// The dashboard.
pub(super) fn page(context: &RequestContext) -> Response {
    PAGE.answer(&context.headers)
}

/// A file of the dashboard.
pub(super) fn asset(context: &RequestContext) -> Result<Response, ApiError> {
    match ASSETS.iter().find(|asset| asset.name.as_bytes() == context.name) {
        Some(asset) => Ok(asset.answer(&context.headers)),
        None => Err(ApiError::missing("no_such_asset", "the dashboard has no such file")),
    }
}

/// The OpenAPI description.
pub(super) fn description(context: &RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let asset = Asset { name: "openapi.json", content_type: "application/json", content: OPENAPI.as_bytes() };
    Ok(asset.answer(&context.headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_dashboard_is_served() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/assets");
        let files =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|name| name != PAGE.name).collect();
        files.sort();
        let served: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        assert_eq!(served, files);
    }
}
