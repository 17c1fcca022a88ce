//! `/metrics`: the published metrics in the Prometheus text format 0.0.4.
//!
//! First come the six metrics of existing gearmand exporters, with the same names and labels, so that
//! dashboards and alerts keep working. The server's own metrics follow. [`families`] describes each of them.

mod families;
mod gzip;
mod lines;
mod process;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_ENCODING, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use tokio::task::yield_now;

use self::families::{FAMILIES, Source, has_had_jobs};
use self::gzip::Gzip;
use self::lines::Lines;
use self::process::Process;
use super::Interface;
use super::answer::{ApiError, ChunkedBody, PIECE, with_type};
use super::routes::RequestContext;
use crate::admin::view::{FunctionView, ServerView};
use crate::stats::FunctionGauges;

/// Content type with the format version.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A function and its label.
struct Function {
    name: Vec<u8>,
    label: String,
    view: FunctionView,
    /// `None` if the function was dropped meanwhile.
    gauges: Option<Arc<FunctionGauges>>,
}

/// The state of a scrape.
struct Scrape {
    interface: Arc<Interface>,
    server: ServerView,
    process: Process,
    functions: Vec<Function>,
    /// Number of functions that are left out.
    left_out: usize,
    /// The current family, and the next function.
    family: usize,
    function: usize,
}

/// Handles a scrape: a streaming body, compressed if the client accepts it.
pub(super) async fn metrics(context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let interface = Arc::clone(&context.interface);
    let permit = context.scrape()?;
    let mut gzip = gzip::is_accepted(&context.headers).then(Gzip::new);
    let is_compressed = gzip.is_some();
    let mut scrape = Scrape::new(interface).await;
    let pieces = move || {
        // Holds the permit until the body is dropped.
        let _permit = &permit;
        match &mut gzip {
            Some(gzip) => gzip.compress(|| scrape.piece()),
            None => scrape.piece(),
        }
    };
    let mut response = with_type(StatusCode::OK, CONTENT_TYPE, Body::new(ChunkedBody::new(pieces)));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    if is_compressed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

impl Scrape {
    /// Views the requested functions in batches. It yields between batches, so that other connections run.
    async fn new(interface: Arc<Interface>) -> Self {
        let views = &interface.parts.admin.views;
        let function = |view: FunctionView| {
            let name: Vec<u8> = percent_decode_str(&view.id).collect();
            let gauges = interface.parts.stats.functions.get(name.as_slice());
            Function { label: label(&name, &view.id), name, view, gauges }
        };
        let mut functions = Vec::new();
        let mut pieces = match interface.settings.metrics_functions {
            None => views.functions_in_pieces(),
            Some(most) => views.most_used_in_pieces(most),
        };
        while let Some(piece) = pieces.next_piece(views, interface.now()) {
            functions.extend(piece.into_iter().map(function));
            yield_now().await;
        }
        let process = Process::read(&interface).await;
        let server = views.server(interface.now());
        let left_out = usize::try_from(server.functions).unwrap_or(usize::MAX).saturating_sub(functions.len());
        Self { functions, server, process, interface, left_out, family: 0, function: 0 }
    }

    /// The next chunk; `None` after the last.
    fn piece(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.len() < PIECE {
            let Some(family) = FAMILIES.get(self.family) else { break };
            if self.function == 0 {
                lines::write_head(family.name, family.kind, family.help, &mut out);
            }
            let is_complete = match family.source {
                Source::Server(write) => {
                    write(&self.server, &mut Lines::new(family.name, None, &mut out));
                    true
                }
                Source::Http(write) => {
                    write(&self.interface.counts, &mut Lines::new(family.name, None, &mut out));
                    true
                }
                Source::Process(write) => {
                    write(&self.process, &mut Lines::new(family.name, None, &mut out));
                    true
                }
                Source::LeftOut => {
                    Lines::new(family.name, None, &mut out).value(self.left_out);
                    true
                }
                Source::Function(_) | Source::Used(_) | Source::Times(_) | Source::Run => {
                    match self.functions.get(self.function) {
                        None => true,
                        Some(function) => {
                            let lines = &mut Lines::new(family.name, Some(&function.label), &mut out);
                            write_function(&family.source, function, &self.process, lines);
                            false
                        }
                    }
                }
            };
            if is_complete {
                self.family += 1;
                self.function = 0;
            } else {
                self.function += 1;
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

fn write_function(source: &Source, function: &Function, process: &Process, lines: &mut Lines<'_>) {
    match source {
        Source::Function(write) => write(&function.view, lines),
        Source::Used(write) => {
            if has_had_jobs(&function.view) {
                write(&function.view, lines);
            }
        }
        Source::Times(times) => {
            if let Some(gauges) = &function.gauges {
                lines.histogram(&times(gauges).read());
            }
        }
        Source::Run => {
            if let Some(ms) = process.oldest_running_ms(&function.name) {
                lines.value(families::seconds(ms));
            }
        }
        Source::Server(_) | Source::Http(_) | Source::Process(_) | Source::LeftOut => {}
    }
}

/// The label of a function: its name, or its id if the name is not UTF-8.
///
/// Labels must be unique, or Prometheus rejects the whole scrape. So a name that starts with the prefix of
/// ids is labelled with its id too.
fn label(name: &[u8], id: &str) -> String {
    const MARK: char = char::REPLACEMENT_CHARACTER;
    match std::str::from_utf8(name) {
        Ok(text) if !text.starts_with(MARK) => text.to_owned(),
        _ => format!("{MARK}{id}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_functions_have_one_label() {
        let encode =
            |name: &[u8]| percent_encoding::percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        let names: [&[u8]; 6] = [b"\xff", b"%FF", "\u{fffd}%FF".as_bytes(), "\u{fffd}".as_bytes(), b"\xef\xbf", b"a"];
        let labels: HashSet<String> = names.iter().map(|name| label(name, &encode(name))).collect();
        assert_eq!(labels.len(), names.len(), "{labels:?}");
        assert!(labels.contains("%FF") && labels.contains("a"));
    }

    #[test]
    fn no_two_families_have_one_name() {
        let names: HashSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }
}
