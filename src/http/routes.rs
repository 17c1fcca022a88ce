//! The route table and the router made from it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Interface;
use super::answer::ApiError;
use super::guard::Actor;
use super::query::{Query, segment};
use super::server::Abort;
use super::{actions, api, assets, events, fleet, metrics, submit};

/// The handler of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Page,
    Asset,
    Healthy,
    Ready,
    Metrics,
    Description,
    Server,
    Functions,
    Function,
    History,
    FunctionHistory,
    Workers,
    Worker,
    Jobs,
    Job,
    Rules,
    Events,
    Fleet,
    CommandWorker,
    CommandMonitor,
    Pause,
    Resume,
    CancelJobs,
    MoveJobs,
    Limits,
    CreateFunction,
    DropFunction,
    CancelJob,
    RunJob,
    MoveJob,
    SetPriority,
    Disable,
    Drain,
    Enable,
    Kick,
    Submit,
}

/// Method, path and handler. `{name}` matches a segment.
const ROUTES: &[(MethodFilter, &str, Route)] = &[
    (MethodFilter::GET, "/", Route::Page),
    (MethodFilter::GET, "/assets/{name}", Route::Asset),
    (MethodFilter::GET, "/healthz", Route::Healthy),
    (MethodFilter::GET, "/readyz", Route::Ready),
    (MethodFilter::GET, "/metrics", Route::Metrics),
    (MethodFilter::GET, "/api/v1/openapi.json", Route::Description),
    (MethodFilter::GET, "/api/v1/server", Route::Server),
    (MethodFilter::GET, "/api/v1/functions", Route::Functions),
    (MethodFilter::GET, "/api/v1/functions/{id}", Route::Function),
    (MethodFilter::POST, "/api/v1/functions/{id}", Route::CreateFunction),
    (MethodFilter::DELETE, "/api/v1/functions/{id}", Route::DropFunction),
    (MethodFilter::GET, "/api/v1/functions/{id}/history", Route::FunctionHistory),
    (MethodFilter::POST, "/api/v1/functions/{id}/pause", Route::Pause),
    (MethodFilter::POST, "/api/v1/functions/{id}/resume", Route::Resume),
    (MethodFilter::POST, "/api/v1/functions/{id}/cancel-jobs", Route::CancelJobs),
    (MethodFilter::POST, "/api/v1/functions/{id}/move-jobs", Route::MoveJobs),
    (MethodFilter::POST, "/api/v1/functions/{id}/limits", Route::Limits),
    (MethodFilter::GET, "/api/v1/history", Route::History),
    (MethodFilter::GET, "/api/v1/workers", Route::Workers),
    (MethodFilter::POST, "/api/v1/workers/disable", Route::Disable),
    (MethodFilter::POST, "/api/v1/workers/drain", Route::Drain),
    (MethodFilter::POST, "/api/v1/workers/enable", Route::Enable),
    (MethodFilter::POST, "/api/v1/workers/kick", Route::Kick),
    (MethodFilter::GET, "/api/v1/workers/{id}", Route::Worker),
    (MethodFilter::GET, "/api/v1/jobs", Route::Jobs),
    (MethodFilter::POST, "/api/v1/jobs", Route::Submit),
    (MethodFilter::GET, "/api/v1/jobs/{handle}", Route::Job),
    (MethodFilter::POST, "/api/v1/jobs/{handle}/cancel", Route::CancelJob),
    (MethodFilter::POST, "/api/v1/jobs/{handle}/run", Route::RunJob),
    (MethodFilter::POST, "/api/v1/jobs/{handle}/move", Route::MoveJob),
    (MethodFilter::POST, "/api/v1/jobs/{handle}/priority", Route::SetPriority),
    (MethodFilter::GET, "/api/v1/rules", Route::Rules),
    (MethodFilter::GET, "/api/v1/events", Route::Events),
    (MethodFilter::GET, "/api/v1/fleet", Route::Fleet),
    (MethodFilter::POST, "/api/v1/fleet/workers/{id}", Route::CommandWorker),
    (MethodFilter::POST, "/api/v1/fleet/monitors/{fleet}", Route::CommandMonitor),
];

/// Timeouts for reading a scrape and a list.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(30);
const LIST_TIMEOUT: Duration = Duration::from_mins(2);

/// A permit for a streaming response. It is held while the body is read, up to a timeout.
pub(super) struct StreamPermit {
    _permit: OwnedSemaphorePermit,
    _end: DropGuard,
}

impl StreamPermit {
    /// Takes a permit. The connection is aborted if the body is not read within `time`.
    ///
    /// # Errors
    /// The limit of concurrent readers is reached.
    fn new(kind: &Arc<Semaphore>, time: Duration, abort: &CancellationToken) -> Result<Self, ApiError> {
        let permit = Arc::clone(kind).try_acquire_owned().map_err(|_| {
            ApiError::busy("too_many_readers", "too many concurrent readers of large responses; try again")
        })?;
        let (end, abort) = (CancellationToken::new(), abort.clone());
        let is_read = end.clone();
        tokio::spawn(async move {
            if timeout(time, is_read.cancelled()).await.is_err() {
                abort.cancel();
            }
        });
        Ok(Self { _permit: permit, _end: end.drop_guard() })
    }
}

/// The context of an admitted request.
pub(super) struct RequestContext {
    pub(super) interface: Arc<Interface>,
    pub(super) actor: Actor,
    /// The decoded name in the path; empty if there is none.
    pub(super) name: Vec<u8>,
    query: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Aborts the connection.
    abort: CancellationToken,
}

impl RequestContext {
    fn new(interface: Arc<Interface>, pattern: &str, request: Request) -> Result<Self, ApiError> {
        let (Parts { uri, headers, mut extensions, .. }, body) = request.into_parts();
        let (Some(actor), Some(Abort(abort))) = (extensions.remove::<Actor>(), extensions.remove()) else {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "not_admitted", "request was not authorized"));
        };
        // Paths are decoded here, since a name may not be UTF-8.
        let name = pattern.split('/').zip(uri.path().split('/')).find(|(part, _)| part.starts_with('{'));
        let name = name.map(|(_, part)| segment(part)).unwrap_or_default();
        Ok(Self { interface, actor, name, query: uri.query().map(str::to_owned), headers, body, abort })
    }

    /// Takes the permit for a scrape.
    pub(super) fn scrape(&self) -> Result<StreamPermit, ApiError> {
        StreamPermit::new(&self.interface.scrapes, SCRAPE_TIMEOUT, &self.abort)
    }

    /// Takes the permit for a list.
    pub(super) fn long_list(&self) -> Result<StreamPermit, ApiError> {
        StreamPermit::new(&self.interface.lists, LIST_TIMEOUT, &self.abort)
    }

    /// The query parameters. Only `known` ones are accepted.
    pub(super) fn query(&self, known: &[&str]) -> Result<Query, ApiError> {
        Query::parse(self.query.as_deref(), known)
    }
}

/// The router for admitted requests.
pub(super) fn router(interface: &Arc<Interface>) -> Router {
    let mut router = Router::new();
    for (method, path, route) in ROUTES.iter().copied() {
        let interface = Arc::clone(interface);
        let handler = move |request: Request| {
            let interface = Arc::clone(&interface);
            async move {
                match RequestContext::new(interface, path, request) {
                    Ok(context) => answer(route, context).await.unwrap_or_else(ApiError::into_response),
                    Err(error) => error.into_response(),
                }
            }
        };
        router = router.route(path, on(method, handler));
    }
    let missing = || async { ApiError::missing("no_such_route", "there is nothing at this address").into_response() };
    let wrong_method = || async {
        let message = "method not allowed: see the header Allow";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message).into_response()
    };
    router.fallback(missing).method_not_allowed_fallback(wrong_method)
}

async fn answer(route: Route, context: RequestContext) -> Result<Response, ApiError> {
    match route {
        Route::Page => Ok(assets::page(&context)),
        Route::Asset => assets::asset(&context),
        Route::Description => assets::description(&context),
        Route::Healthy => api::healthy(context).await,
        Route::Ready => api::ready(context).await,
        Route::Metrics => metrics::metrics(context).await,
        Route::Server => api::server(&context),
        Route::Functions => api::functions(context).await,
        Route::Function => api::function(&context),
        Route::History => api::history(&context, None),
        Route::FunctionHistory => api::history(&context, Some(&context.name)),
        Route::Workers => api::workers(&context),
        Route::Worker => api::worker(&context),
        Route::Jobs => api::jobs(&context),
        Route::Job => api::job(context).await,
        Route::Rules => api::rules(&context),
        Route::Events => events::events(&context),
        Route::Submit => submit::submit(context).await,
        Route::Fleet => fleet::fleet(context).await,
        Route::CommandWorker | Route::CommandMonitor => fleet::command(route, context).await,
        action => actions::act(action, context).await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::assets::OPENAPI;

    #[tokio::test]
    async fn a_long_answer_is_read_in_time() {
        let kind = Arc::new(Semaphore::new(1));
        let [read, unread] = [CancellationToken::new(), CancellationToken::new()];
        let permit = StreamPermit::new(&kind, Duration::from_millis(20), &read).unwrap();
        assert!(StreamPermit::new(&kind, LIST_TIMEOUT, &unread).is_err());
        drop(permit);
        let permit = StreamPermit::new(&kind, Duration::from_millis(60), &unread).unwrap();
        unread.cancelled().await;
        assert!(!read.is_cancelled());
        drop(permit);
        assert_eq!(kind.available_permits(), 1);
    }

    /// The OpenAPI description and the routes must agree. Pages are not described.
    #[test]
    fn the_description_has_every_route() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let methods = |operations: &Value| -> Vec<String> {
            let methods = operations.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.cloned().collect()
        };
        let described: BTreeSet<(String, String)> = description["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, operations)| methods(operations).into_iter().map(|method| (path.clone(), method)))
            .collect();
        let method = |filter: MethodFilter| match filter {
            MethodFilter::GET => "get",
            MethodFilter::POST => "post",
            _ => "delete",
        };
        let routes: BTreeSet<(String, String)> = ROUTES
            .iter()
            .filter(|(_, _, route)| !matches!(route, Route::Page | Route::Asset))
            .map(|(filter, path, _)| ((*path).to_owned(), method(*filter).to_owned()))
            .collect();
        assert_eq!(described, routes);
    }
}
