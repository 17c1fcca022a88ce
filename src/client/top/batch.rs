//! Batch output without a display: tables for people, or documents for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::app::{App, Event};
use super::data::{Rates, Snapshot};
use super::fetch::{Fetcher, Query};
use super::panels;
use super::views::View;
use super::{Connector, TopArgs};
use crate::client::admin_text::TextConnection;
use crate::client::backoff::Backoff;
use crate::client::listing::{json_text, printable};
use crate::client::table::Table;
use crate::client::{ToolError, connection, tell, terminal};

/// Prints one snapshot.
pub(super) async fn run(args: &TopArgs, connector: &Connector) -> Result<u8, ToolError> {
    let (address, mut fetcher) = open(connector, Instant::now()).await?;
    let snapshot = fetcher.fetch(&Query::everything()).await;
    let snapshot = snapshot.map_err(|why| ToolError::Unreachable(format!("{address}: {why}")))?;
    if args.json {
        print(&document(&address, snapshot, &mut Rates::default()))?;
    } else {
        print(&tables(&address, snapshot))?;
    }
    Ok(0)
}

/// Prints a document per interval until interrupted.
pub(super) async fn repeat(args: &TopArgs, connector: &Connector) -> Result<u8, ToolError> {
    let begin = Instant::now();
    let mut rates = Rates::default();
    let mut backoff = Backoff::new();
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let why = match open(connector, begin).await {
            Err(error) => error.to_string(),
            Ok((address, mut fetcher)) => loop {
                ticks.tick().await;
                match fetcher.fetch(&Query::everything()).await {
                    Ok(snapshot) => print(&document(&address, snapshot, &mut rates))?,
                    Err(why) => break format!("{address}: {why}"),
                }
                backoff.reset();
            },
        };
        // The server may come back.
        tell("top", format_args!("{}", printable(&why)));
        tokio::time::sleep(backoff.pause().min(Duration::from_secs(5))).await;
    }
}

async fn open(connector: &Connector, begin: Instant) -> Result<(String, Fetcher), ToolError> {
    let (address, stream) = connection::open_first(&connector.servers, connector.connect_timeout).await?;
    Ok((address.to_string(), Fetcher::new(TextConnection::new(stream), connector.timeout, begin)))
}

/// Formats all views as text.
fn tables(address: &str, snapshot: Snapshot) -> String {
    let mut text = address.to_owned();
    if snapshot.is_cpp {
        text.push_str("  (C++ gearmand: limited data)");
    }
    let mut app = App::new(u16::MAX, u16::MAX);
    app.handle(Event::Data(Box::new(snapshot)));
    let _ = write!(text, "{}\n{}\n", panels::state(&app.data), panels::counts(&app.data, usize::MAX).join("\n"));
    for view in [View::Functions, View::Workers, View::Jobs] {
        app.show(view);
        app.arrange();
        let _ = write!(text, "\n{}", panels::list(&app, view, terminal::room()));
    }
    let _ = write!(text, "\n{}\n", panels::server(&app.data).join("\n"));
    text
}

/// Formats all views as one JSON document on a line.
fn document(address: &str, mut snapshot: Snapshot, rates: &mut Rates) -> String {
    if let Some(functions) = &mut snapshot.functions {
        rates.apply(snapshot.at, functions);
    }
    let list = |table: &Option<Table>| table.as_ref().map_or(Value::Null, Table::json);
    let all_jobs = snapshot.jobs.as_ref().map(|jobs| jobs.next.is_none());
    let document = json!({
        "address": address,
        "unix_ms": snapshot.now_unix_ms,
        "plain": snapshot.is_cpp,
        "server": snapshot.server.json(false),
        "functions": list(&snapshot.functions),
        "workers": list(&snapshot.workers),
        "jobs": list(&snapshot.jobs),
        "all_jobs": all_jobs,
        "rules": list(&snapshot.rules),
    });
    json_text(&document) + "\n"
}

fn print(text: &str) -> Result<(), ToolError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| ToolError::Io("cannot print", error))
}
