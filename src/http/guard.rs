//! Access control: allowed host names, cross-site requests and tokens. Also sets the security headers of
//! responses.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::body::Body;
use axum::http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use axum::response::Response;

use super::Settings;
use super::answer::ApiError;
use super::server::Peer;

/// Content security policy of the dashboard: it may load only resources of this server.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Set by browsers only: the relation of the requesting page's site to this server.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Can be set by scripts, but not by HTML forms.
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");
/// Set by proxies: the client is not the peer of the connection.
const PROXIED: [HeaderName; 3] =
    [HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("forwarded"), HeaderName::from_static("via")];

/// The client, for the log.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    /// The address, with additional information.
    pub(super) text: String,
    /// Only the address.
    pub(super) address: String,
}

/// Decides whether to serve a request.
///
/// # Errors
/// The reason for the rejection.
pub(super) fn admit(settings: &Settings, peer: Peer, request: &Request<Body>) -> Result<Actor, ApiError> {
    let host = host(request)?;
    if let Some(host) = &host {
        check_host(settings, peer, host)?;
    }
    let mut text = format!("{} over HTTP", peer.address);
    if request.method() != Method::GET && request.method() != Method::HEAD {
        check_site(settings, host.as_deref(), request.headers())?;
        check_form(request.headers())?;
        if settings.read_only {
            let message = "this server is read-only (http-read-only)";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "read_only", message));
        }
        if check_token(settings, peer, request.headers())? {
            text.push_str(" with a token");
        }
    }
    Ok(Actor { text, address: peer.address.to_string() })
}

/// The requested host, with its port. Only clients older than HTTP/1.1 omit it.
fn host(request: &Request<Body>) -> Result<Option<String>, ApiError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(ApiError::bad("bad_host", "multiple Host headers"));
    }
    let header = match header.map(HeaderValue::to_str).transpose() {
        Ok(header) => header.map(str::to_ascii_lowercase),
        Err(_) => return Err(ApiError::bad("bad_host", "the Host header is not a valid name")),
    };
    if header.is_none() && request.version() > Version::HTTP_10 {
        return Err(ApiError::bad("bad_host", "the Host header is missing"));
    }
    let in_address = request.uri().authority().map(|authority| authority.as_str().to_ascii_lowercase());
    Ok(in_address.or(header))
}

/// Rejects unknown host names: an attacker may point one at this server's address to reach it from a page
/// (DNS rebinding).
fn check_host(settings: &Settings, peer: Peer, host: &str) -> Result<(), ApiError> {
    let name = without_port(host);
    let address = address_of(name);
    let is_known = settings.hosts.iter().any(|known| known == name);
    let is_fine = match address {
        _ if is_known => true,
        Some(address) => !peer.is_local || address.is_loopback(),
        None => name == "localhost" || (!peer.is_local && settings.own_name.as_deref() == Some(name)),
    };
    if is_fine {
        return Ok(());
    }
    let message = format!("host name {name:?} is not allowed; add it with --http-allowed-host");
    Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", message))
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        // A colon inside brackets is part of an IPv6 address.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

fn address_of(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical()),
        None => name.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Rejects cross-site requests of browsers.
fn check_site(settings: &Settings, host: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
    let refusal = || ApiError::new(StatusCode::FORBIDDEN, "cross_site", "cross-site requests may not change anything");
    if let Some(site) = headers.get(FETCH_SITE)
        && site != "same-origin"
        && site != "none"
    {
        return Err(refusal());
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().map_err(|_| refusal())?.to_ascii_lowercase();
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).ok_or_else(refusal)?;
        let is_known = settings.hosts.iter().any(|known| known == without_port(own));
        if host != Some(own) && !is_known {
            return Err(refusal());
        }
    }
    Ok(())
}

/// Rejects requests that a form on another site could send: a form cannot set headers or send JSON. For a
/// request without a body, headers set by the browser suffice.
fn check_form(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_vouched_for = [REQUESTED_WITH, ORIGIN, FETCH_SITE].into_iter().any(|header| headers.contains_key(header));
    if is_json(headers) || (is_vouched_for && !headers.contains_key(CONTENT_TYPE)) {
        return Ok(());
    }
    let message = "send `Content-Type: application/json`, or without a body `X-Requested-With:` with any value";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message))
}

/// Whether the content type is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Checks the token. Returns whether the request has one; false if none is required.
fn check_token(settings: &Settings, peer: Peer, headers: &HeaderMap) -> Result<bool, ApiError> {
    if settings.tokens.is_empty() {
        if peer.is_local && !PROXIED.iter().any(|header| headers.contains_key(header)) {
            return Ok(false);
        }
        let message = "no token is configured (http-token); without one, changes are not allowed over a non-loopback \
                       address or through a proxy";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "no_token_set", message));
    }
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        let message = "send `Authorization: Bearer TOKEN` with the token of http-token";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "token_missing", message));
    };
    let given = authorization.as_bytes().split_first_chunk::<7>();
    let given =
        given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")).map(|(_, token)| token.trim_ascii());
    if given.is_some_and(|given| settings.tokens.have(|token| is_same(given, token))) {
        Ok(true)
    } else {
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "token_wrong", "wrong token (see http-token)"))
    }
}

/// Constant-time comparison.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let difference = given.iter().zip(token).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    given.len() == token.len() && difference == 0
}

/// Adds security headers, and the challenge to an unauthorized response.
pub(super) fn harden(response: &mut Response) {
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (resource_policy, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(hosts: &[&str], tokens: &[&str]) -> Settings {
        Settings {
            tokens: crate::http::Tokens::new(tokens.iter().map(ToString::to_string).collect()),
            read_only: false,
            max_connections: 1,
            metrics_functions: None,
            hosts: hosts.iter().map(ToString::to_string).collect(),
            addresses: Vec::new(),
            own_name: Some("machine".to_owned()),
            max_packet_size: 1024,
            keep_alive: crate::process::listen::KeepAlive::default(),
        }
    }

    fn peer(is_local: bool) -> Peer {
        Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), is_local }
    }

    #[test]
    fn a_local_address_goes_by_local_names() {
        let none = settings(&[], &[]);
        let fine =
            ["localhost", "localhost:4780", "127.0.0.1", "127.1.2.3:1", "[::1]:80", "[::1]", "[::ffff:127.0.0.1]"];
        let foreign = [
            "example.org",
            "localhost.example.org:80",
            "10.0.0.1",
            "[::2]:80",
            "",
            ":80",
            "127.0.0.1.nip.io",
            "::1",
            "[]",
        ];
        for host in fine {
            assert_eq!(check_host(&none, peer(true), host), Ok(()), "{host}");
        }
        for host in foreign {
            assert!(check_host(&none, peer(true), host).is_err(), "{host}");
        }
        let named = settings(&["jobs.example.org"], &[]);
        assert_eq!(check_host(&named, peer(true), "jobs.example.org:1"), Ok(()));
        assert!(check_host(&named, peer(true), "example.org").is_err());
        assert!(check_host(&none, peer(true), "machine").is_err());
    }

    #[test]
    fn an_open_address_goes_by_its_numbers_and_names_that_are_its_own() {
        let (none, named) = (settings(&[], &[]), settings(&["jobs.example.org"], &[]));
        for host in ["10.0.0.1:4780", "[2001:db8::1]", "localhost:1", "machine:4780"] {
            assert_eq!(check_host(&none, peer(false), host), Ok(()), "{host}");
            assert_eq!(check_host(&named, peer(false), host), Ok(()), "{host}");
        }
        assert_eq!(check_host(&named, peer(false), "jobs.example.org"), Ok(()));
        for host in ["jobs.example.org", "anything", "", "machine.example.org"] {
            assert!(check_host(&none, peer(false), host).is_err(), "{host}");
        }
    }

    #[test]
    fn other_origins_are_refused() {
        let settings = settings(&["jobs.example.org"], &[]);
        let check = |origin: &'static str| {
            let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            check_site(&settings, Some("localhost:4780"), &headers)
        };
        for own in
            ["http://localhost:4780", "https://localhost:4780", "HTTP://LOCALHOST:4780", "https://jobs.example.org"]
        {
            assert_eq!(check(own), Ok(()), "{own}");
        }
        for other in ["null", "http://localhost", "http://localhost:80", "http://example.org", "file://", "", "http://"]
        {
            assert!(check(other).is_err(), "{other}");
        }
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_same(b"abc", b"abc"));
        for other in ["", "ab", "abcd", "abd", "bbc"] {
            assert!(!is_same(other.as_bytes(), b"abc"), "{other}");
        }
    }

    #[test]
    fn any_of_the_tokens_is_good() {
        let settings = settings(&[], &["first-token-of-16", "second-token-of16"]);
        let check = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            check_token(&settings, peer(true), &headers)
        };
        assert_eq!(check("Bearer first-token-of-16"), Ok(true));
        assert_eq!(check("bearer second-token-of16"), Ok(true));
        for wrong in ["Bearer", "Bearer ", "Basic first-token-of-16", "first-token-of-16", "Bearer first-token-of-1"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
