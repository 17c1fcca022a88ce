//! Which part of `src/` may use which: imports point down.

use proc_macro2::{Delimiter, TokenTree};

use super::source::{Source, Token};

/// The rooms of the crate, layer by layer from the bottom, and in each in the order in which one may use
/// those before it.
const LAYERS: &[&[&str]] = &[
    // What is common to all: meaning of bytes, settings, published numbers.
    &["log_level", "protocol", "stats", "config"],
    // The pure state machine, and the pure decision of the fleet's monitor.
    &["job_server", "fleet"],
    // The one lock around it, the output that it fills, the stores, the text commands.
    &["outbox", "store", "hub", "admin"],
    // The outside world.
    &["process", "net", "http", "client", "store_tools"],
    // Assembly.
    &["daemon"],
];

/// What the layers alone would allow: who, what, why not.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("job_server", &["protocol::packet"], "it knows meaning, not framing"),
    ("job_server", &["config", "log_level"], "its rules come as a Policy, and it logs nothing"),
    ("fleet", &["job_server", "config", "stats", "protocol", "log_level"], "it knows what is said of workers, not how"),
    ("outbox", &["job_server"], "it holds bytes, whoever speaks"),
    ("process", &["config", "protocol", "stats", "job_server", "hub", "admin"], "it takes plain parameters"),
    (
        "client",
        &["job_server", "hub", "outbox", "admin", "net", "process", "stats"],
        "it is the other side of the wire",
    ),
    (
        "store_tools",
        &["hub", "outbox", "admin", "net", "stats", "job_server::JobServer"],
        "it looks at stores, not at a server",
    ),
    ("net", &["config"], "it takes plain parameters"),
    ("http", &["config"], "it takes plain parameters"),
    (
        "http",
        &["hub", "outbox", "store", "job_server::JobServer"],
        "whoever looks does not take the lock; who acts does it through the admin room or a connection",
    ),
    ("daemon", &["client"], "a server needs no client"),
];

/// Macros that a room exports stand in the root of the crate; they belong to the room.
const EXPORTED_MACROS: &[(&str, &str)] = &[("audit", "log_level"), ("fatal", "log_level"), ("notice", "log_level")];

/// Files below the runtime's layers that may name a part of it: which, what, and why.
const RUNTIME_BELOW: &[(&str, &str, &str)] = &[
    ("src/protocol/packet.rs", "tokio_util", "Decoder and Encoder are traits without a runtime"),
    ("src/store/driver.rs", "tokio", "a store's own thread runs the futures of a database's driver to their end"),
];

pub(crate) fn rooms() -> impl Iterator<Item = &'static str> {
    LAYERS.iter().copied().flatten().copied()
}

/// The room that a file belongs to: `net` for `src/net.rs`, `src/net/mod.rs` and `src/net/timer.rs`.
pub(crate) fn room_of(source: &Source) -> String {
    let path = source.path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').next().unwrap_or(path).to_owned()
}

/// The layer of a room and its place there.
fn rank(room: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(layer, rooms)| Some((layer, rooms.iter().position(|known| *known == room)?)))
}

/// The imports that do not point down.
pub(crate) fn violations(program: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let mut excepted = vec![false; RUNTIME_BELOW.len()];
    for source in program {
        let room = room_of(source);
        let Some(own) = rank(&room) else { continue };
        for (line, path) in paths_from_root(source) {
            let first = path.split("::").next().unwrap_or_default();
            let used = EXPORTED_MACROS.iter().find(|(name, _)| *name == first).map_or(first, |(_, room)| room);
            let points_down = rank(used).is_some_and(|of_used| of_used <= own);
            if !points_down {
                found.push(format!("{}:{line}: {room} uses {path}", source.path));
            }
            for (_, forbidden, reason) in FORBIDDEN.iter().filter(|(who, ..)| *who == room) {
                if forbidden.iter().any(|what| path == *what || path.starts_with(&format!("{what}::"))) {
                    found.push(format!("{}:{line}: {room} uses {path}: {reason}", source.path));
                }
            }
        }
        for (line, runtime) in mentions_of_runtime(source).filter(|_| own.0 < 3) {
            match RUNTIME_BELOW.iter().position(|(file, what, _)| source.path == *file && runtime == *what) {
                Some(index) => excepted[index] = true,
                None => found.push(format!("{}:{line}: {room} knows the runtime ({runtime})", source.path)),
            }
        }
    }
    let unused = RUNTIME_BELOW.iter().zip(excepted).filter(|(_, excepted)| !excepted);
    found.extend(unused.map(|((file, _, why), _)| format!("the exception for {file} is no longer needed ({why})")));
    found
}

fn mentions_of_runtime(source: &Source) -> impl Iterator<Item = (usize, String)> {
    source.tokens().iter().filter(|token| !token.in_test).filter_map(|token| match &token.tree {
        TokenTree::Ident(word) if word == "tokio" || word == "tokio_util" => Some((token.line(), word.to_string())),
        _ => None,
    })
}

/// All paths in a file that go through the root of the crate, `crate::a::b` and `super::super::a` alike, as
/// `a::b`.
fn paths_from_root(source: &Source) -> Vec<(usize, String)> {
    let tokens = source.tokens();
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let TokenTree::Ident(word) = &token.tree else { continue };
        let starts_path = index == 0 || !is_sign(&tokens[index - 1], ':');
        if !starts_path {
            continue;
        }
        let rest = if word == "crate" {
            after_colons(&tokens[index + 1..])
        } else if word == "super" {
            above(source, token, &tokens[index + 1..])
        } else {
            None
        };
        if let Some(rest) = rest {
            found.extend(branches(rest).into_iter().map(|path| (token.line(), path)));
        }
    }
    found
}

fn is_sign(token: &Token, sign: char) -> bool {
    matches!(&token.tree, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// What follows `::`.
fn after_colons(tokens: &[Token]) -> Option<&[Token]> {
    match tokens {
        [first, second, rest @ ..] if is_sign(first, ':') && is_sign(second, ':') => Some(rest),
        _ => None,
    }
}

/// What follows the `super::super::` that begins with this token, if it leads to the root.
fn above<'tokens>(source: &Source, first: &Token, mut rest: &'tokens [Token]) -> Option<&'tokens [Token]> {
    let path = source.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let mut depth = (path.split('/').count() + first.inner_modules).checked_sub(1)?;
    rest = after_colons(rest)?;
    while let [Token { tree: TokenTree::Ident(word), .. }, more @ ..] = rest
        && word == "super"
    {
        depth = depth.checked_sub(1)?;
        rest = after_colons(more)?;
    }
    (depth == 0).then_some(rest)
}

/// The paths that begin here: one, or one for each branch of a group.
fn branches(tokens: &[Token]) -> Vec<String> {
    match tokens {
        [Token { tree: TokenTree::Ident(word), .. }, rest @ ..] => match after_colons(rest) {
            Some(rest) => branches(rest).into_iter().map(|path| format!("{word}::{path}")).collect(),
            None => vec![word.to_string()],
        },
        [Token { tree: TokenTree::Group(group), .. }, rest @ ..] if group.delimiter() == Delimiter::Brace => {
            // The tokens of the group follow it; a branch begins at its start and after each comma that is
            // its own.
            let depth = rest.first().map_or(0, |first| first.depth);
            let inside = rest.iter().take_while(|token| token.depth >= depth).count();
            let starts = (0..inside).filter(|&index| {
                index == 0
                    || rest[index].depth == depth && rest[index - 1].depth == depth && is_sign(&rest[index - 1], ',')
            });
            starts.flat_map(|index| branches(&rest[index..])).collect()
        }
        _ => vec!["*".to_owned()],
    }
}

#[test]
fn paths_are_seen_however_they_are_written() {
    let text = "
        use crate::{hub::{Hub, BATCH}, stats::Stats as Numbers, protocol::packet::*};
        use super::clock; use super::super::admin;
        fn f() -> crate::outbox::Outbox { let x = \"crate::daemon\"; crate::log_level::notice!(x) }
        mod tests { use super::super::super::config::Config; use super::super::timer; }
    ";
    let source = Source::new("src/net/connection.rs".to_owned(), text.to_owned());
    let paths: Vec<String> = paths_from_root(&source).into_iter().map(|(_, path)| path).collect();
    let expected = [
        "hub::Hub",
        "hub::BATCH",
        "stats::Stats",
        "protocol::packet::*",
        "admin",
        "outbox::Outbox",
        "log_level::notice",
        "config::Config",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn an_import_that_points_up_is_found() {
    let break_rule = |path: &str, text: &str| violations(&[Source::new(path.to_owned(), text.to_owned())]).len();
    // Each of these also misses the exceptions for the runtime.
    let break_rule = |path: &str, text: &str| break_rule(path, text) + 1 - RUNTIME_BELOW.len();
    assert_eq!(break_rule("src/job_server/job.rs", "use crate::protocol::Workload;"), 1);
    assert_eq!(break_rule("src/job_server/job.rs", "use crate::protocol::packet::Packet;"), 2);
    assert_eq!(break_rule("src/job_server/job.rs", "use super::super::hub::Hub;"), 2);
    assert_eq!(break_rule("src/hub.rs", "use tokio::sync::Mutex;"), 2);
    assert_eq!(break_rule("src/hub.rs", "use crate::unheard_of::Mutex;"), 2);
    assert_eq!(break_rule("src/net/timer.rs", "use tokio::sync::Mutex; use crate::hub::Hub;"), 1);
    assert_eq!(break_rule("src/outbox.rs", "use super::{hub::Hub, protocol::Response};"), 2);
}
