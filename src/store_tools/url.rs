//! Names of queues on the command line of the tools.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};

use crate::store::location::{Location, defaults};

/// The accepted forms, for messages and help.
pub(super) const FORMS: &str = "a path, sqlite:PATH[?table=T], postgres://USER:PASSWORD@HOST:PORT/DB?table=T, \
    'postgres:host=... dbname=... [table=T]', mysql://USER:PASSWORD@HOST:PORT/DB?table=T or redis://:PASSWORD@HOST:PORT?prefix=P";

/// Queues of C++ gearmand that this program does not support.
const GONE: [&str; 6] = ["memcached", "libmemcached", "tokyocabinet", "libtokyocabinet", "drizzle", "libdrizzle"];

const POSTGRES_PORT: u16 = 5432;
const MYSQL_PORT: u16 = 3306;
const REDIS_PORT: u16 = 6379;

/// A queue named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueUrl(pub(super) Location);

impl FromStr for QueueUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = scheme(text) else {
            if text.is_empty() {
                return Err(format!("it is empty; write {FORMS}"));
            }
            return Ok(Self(sqlite(PathBuf::from(text), None)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "sqlite" | "sqlite3" | "libsqlite3" | "file" => sqlite_url(rest),
            "postgres" | "postgresql" | "pg" => postgres_url(rest),
            "mysql" | "mariadb" => mysql_url(rest),
            "redis" => redis_url(rest),
            gone if GONE.contains(&gone) => Err(
                "jobs cannot be read from this queue: let the old server finish them (send it USR1 once clients use \
                 the new one, and leave it its workers until it ends)"
                    .to_owned(),
            ),
            _ => Err(format!("unknown kind of queue {scheme}; write {FORMS} (./FILE for a file with a colon)")),
        }
        .map(Self)
    }
}

/// Parses a queue on the command line. Its error message contains no password.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueUrlParser;

impl TypedValueParser for QueueUrlParser {
    type Value = QueueUrl;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<QueueUrl, clap::Error> {
        let text = value.to_string_lossy();
        // A path need not be UTF-8.
        let read = match value.to_str() {
            Some(text) => text.parse(),
            None => Ok(QueueUrl(sqlite(PathBuf::from(value), None))),
        };
        read.map_err(|reason| {
            let name = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value '{}' for '{name}': {reason}", without_secret(&text));
            command.clone().error(ErrorKind::ValueValidation, message)
        })
    }
}

/// The part of an invalid queue name that may be printed.
fn without_secret(text: &str) -> String {
    match scheme(text) {
        Some((scheme, rest)) if rest.contains('@') || rest.contains("pass") => format!("{scheme}:***"),
        _ => text.to_owned(),
    }
}

/// Splits `SCHEME:REST`; a path has no scheme.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "+-".contains(letter);
    (!scheme.is_empty() && scheme.chars().all(letters)).then_some((scheme, rest))
}

fn sqlite(path: PathBuf, table: Option<String>) -> Location {
    let table = table.unwrap_or_else(|| defaults::SQLITE_TABLE.to_owned());
    Location::Sqlite { path, table, keep_primary_key: false }
}

fn sqlite_url(rest: &str) -> Result<Location, String> {
    let (path, query) = cut_query(rest, &["table"])?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = decoded_bytes(path)?;
    if path.is_empty() {
        return Err("the path is missing; write sqlite:PATH".to_owned());
    }
    Ok(sqlite(OsStr::from_bytes(&path).into(), query.own.into_iter().next()))
}

fn postgres_url(rest: &str) -> Result<Location, String> {
    let default = || defaults::POSTGRES_TABLE.to_owned();
    if !rest.starts_with("//") {
        // libpq's own form, extended by `table`.
        let (tables, words): (Vec<&str>, Vec<&str>) = rest.split(' ').partition(|word| word.starts_with("table="));
        if !rest.contains('=') {
            return Err(
                "write postgres://USER:PASSWORD@HOST:PORT/DB?table=T, or 'postgres:host=... dbname=...'".to_owned()
            );
        }
        let table = tables.first().map_or_else(default, |table| table["table=".len()..].to_owned());
        return Ok(Location::Postgres { conninfo: words.join(" ").trim().to_owned(), table });
    }
    let (address, query) = cut_query(rest, &["table"])?;
    // All other parts of the URL are passed to the driver; here they are only validated.
    Authority::of(address, POSTGRES_PORT)?;
    let others = if query.others.is_empty() { String::new() } else { format!("?{}", query.others.join("&")) };
    let table = query.own.into_iter().next().unwrap_or_else(default);
    Ok(Location::Postgres { conninfo: format!("postgresql:{address}{others}"), table })
}

fn mysql_url(rest: &str) -> Result<Location, String> {
    let (address, query) = cut_query(rest, &["table"])?;
    query.no_others("table")?;
    let Authority { user, password, host, port, path } = Authority::of(address, MYSQL_PORT)?;
    if path.is_empty() {
        return Err("the database is missing; write mysql://USER:PASSWORD@HOST:PORT/DB".to_owned());
    }
    let table = query.own.into_iter().next().unwrap_or_else(|| defaults::MYSQL_TABLE.to_owned());
    let user = if user.is_empty() { super::user_name() } else { user };
    Ok(Location::Mysql { host, port, user, password, database: path, table })
}

fn redis_url(rest: &str) -> Result<Location, String> {
    let (address, query) = cut_query(rest, &["prefix"])?;
    query.no_others("prefix")?;
    let Authority { user, password, host, port, path } = Authority::of(address, REDIS_PORT)?;
    if !user.is_empty() && user != "default" {
        return Err("a Redis user cannot be given; write redis://:PASSWORD@HOST:PORT".to_owned());
    }
    if !path.is_empty() && path != "0" {
        return Err("gearmand uses database 0 of Redis; write redis://:PASSWORD@HOST:PORT?prefix=P".to_owned());
    }
    let prefix = query.own.into_iter().next().unwrap_or_else(|| defaults::REDIS_PREFIX.to_owned());
    Ok(Location::Redis { host, port, password, prefix })
}

/// The query after a `?`: our own keys, and all others.
#[derive(Debug, Default)]
struct Query {
    own: Vec<String>,
    others: Vec<String>,
}

impl Query {
    fn no_others(&self, known: &str) -> Result<(), String> {
        let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
        self.others
            .first()
            .map_or(Ok(()), |pair| Err(format!("unknown parameter `{}`; only {known} can follow the ?", name(pair))))
    }
}

/// Splits off the query after a `?`. Fails for a pair without a value.
fn cut_query<'text>(text: &'text str, keys: &[&str]) -> Result<(&'text str, Query), String> {
    let Some((address, pairs)) = text.split_once('?') else {
        return Ok((text, Query::default()));
    };
    let mut query = Query::default();
    for pair in pairs.split('&') {
        match pair.split_once('=') {
            Some((key, value)) if keys.contains(&key) && !value.is_empty() => query.own.push(decoded(value)?),
            Some((key, _)) if !keys.contains(&key) => query.others.push(pair.to_owned()),
            _ => {
                let name = pair.split_once('=').map_or(pair, |(name, _)| name);
                return Err(format!(
                    "empty query parameter `{name}`; write NAME=VALUE after the ?, and %3F for a ? in a name"
                ));
            }
        }
    }
    Ok((address, query))
}

/// `//USER:PASSWORD@HOST:PORT/PATH`; everything but the host is optional.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    user: String,
    password: String,
    host: String,
    port: u16,
    path: String,
}

impl Authority {
    fn of(text: &str, default_port: u16) -> Result<Self, String> {
        let rest = text.strip_prefix("//").ok_or_else(|| format!("// is missing after the colon; write {FORMS}"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A password may contain an @, a host may not.
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            None => address.split_once(':').map_or((address, Some("")), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some("") => Some(default_port),
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => None,
        };
        let port = port.ok_or("the port must be a number from 1 to 65535; an IPv6 address stands in brackets")?;
        if host.is_empty() {
            return Err(format!("the host is missing; write {FORMS}"));
        }
        Ok(Self {
            user: decoded(user)?,
            password: decoded(password)?,
            host: decoded(host)?,
            port,
            path: decoded(path)?,
        })
    }
}

fn decoded(text: &str) -> Result<String, String> {
    String::from_utf8(decoded_bytes(text)?).map_err(|_| "a name or password in it is not UTF-8 text".to_owned())
}

/// Decodes `%HH`.
fn decoded_bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or("% must be followed by two hexadecimal digits; write %25 for a % itself")?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Location {
        text.parse::<QueueUrl>().unwrap_or_else(|error| panic!("{text}: {error}")).0
    }

    #[test]
    fn a_path_is_a_sqlite_file() {
        for (text, path, table) in [
            ("/a/b.db", "/a/b.db", "gearman_queue"),
            ("queue", "queue", "gearman_queue"),
            ("./a:b?table=t", "./a:b?table=t", "gearman_queue"),
            ("sqlite:/a/b", "/a/b", "gearman_queue"),
            ("sqlite:///a/b", "/a/b", "gearman_queue"),
            ("sqlite:a%3Fb%25?table=my%20t", "a?b%", "my t"),
        ] {
            let expected = Location::Sqlite { path: path.into(), table: table.to_owned(), keep_primary_key: false };
            assert!(location(text) == expected, "{text}: {:?}", location(text));
        }
    }

    #[test]
    fn databases_are_named_by_urls() {
        let postgres =
            |conninfo: &str, table: &str| Location::Postgres { conninfo: conninfo.to_owned(), table: table.to_owned() };
        for (text, conninfo, table) in [
            ("postgres://u:p@h:1/d?table=t", "postgresql://u:p@h:1/d", "t"),
            ("postgresql://h/d?connect_timeout=3&table=t&a=b", "postgresql://h/d?connect_timeout=3&a=b", "t"),
            ("postgres://%2Frun%2Fpg/d", "postgresql://%2Frun%2Fpg/d", "queue"),
            ("postgres:host=h dbname=d", "host=h dbname=d", "queue"),
            ("postgres:host=h table=t dbname=d", "host=h dbname=d", "t"),
        ] {
            assert!(location(text) == postgres(conninfo, table), "{text}");
        }
        let mysql = Location::Mysql {
            host: "/run/my.sock".to_owned(),
            port: 3306,
            user: "u".to_owned(),
            password: "p@:/".to_owned(),
            database: "d".to_owned(),
            table: "t".to_owned(),
        };
        assert!(location("mysql://u:p@%3A%2F@%2Frun%2Fmy.sock/d?table=t") == mysql);
        let redis = |host: &str, port, password: &str, prefix: &str| Location::Redis {
            host: host.to_owned(),
            port,
            password: password.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert!(location("redis://h") == redis("h", 6379, "", "_gear_"));
        assert!(location("redis://:pw@[::1]:7/0?prefix=x") == redis("::1", 7, "pw", "x"));
    }

    #[test]
    fn no_password_is_shown_of_what_is_no_queue() {
        for (text, shown) in [
            ("mysqll://u:swordfish@h/d", "mysqll:***"),
            ("mysql://u:swordfish@h:x/d", "mysql:***"),
            ("mysql://u:sword%zzfish@h/d", "mysql:***"),
            ("postgres:password=swordfish", "postgres:***"),
            ("redis://h/3", "redis://h/3"),
            ("sqlite:", "sqlite:"),
        ] {
            assert_eq!(without_secret(text), shown);
            let command = Command::new("queue").arg(Arg::new("from").value_parser(QueueUrlParser));
            if let Err(error) = command.try_get_matches_from(["queue", text]) {
                let error = error.to_string();
                assert!(!error.contains("swordfish") && error.contains(shown), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_queue_is_told_how_to_be_one() {
        for (text, part) in [
            ("", "sqlite:PATH"),
            ("sqlite:", "path is missing"),
            ("oracle://h", "unknown kind of queue oracle"),
            ("memcached://h", "USR1"),
            ("libdrizzle:x", "USR1"),
            ("postgres:", "dbname"),
            ("postgres://", "host is missing"),
            ("mysql://u@h", "database is missing"),
            ("mysql:h/d", "// is missing"),
            ("mysql://h:x/d", "port"),
            ("mysql://[::1]x/d", "port"),
            ("mysql://h/d?tabel=t", "unknown parameter `tabel`"),
            ("mysql://h/d?table=", "empty query parameter"),
            ("mysql://u:%zz@h/d", "%25"),
            ("redis://u:p@h", "Redis user"),
            ("redis://h/3", "database 0"),
        ] {
            let error = text.parse::<QueueUrl>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
