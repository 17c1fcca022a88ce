//! Connection task: queries the server periodically, sends commands, and reconnects.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::app::{AdminAction, Event};
use super::fetch::{Fetcher, Query};
use crate::client::address::ServerAddress;
use crate::client::admin_text::{TextAnswer, TextConnection};
use crate::client::backoff::Backoff;
use crate::client::connection;
use crate::client::listing::printable;
use crate::client::table::lossy;

/// Longest pause between two attempts to connect, short because the display is interactive.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The connection, and the channels to and from the display.
pub(super) struct ConnectionTask {
    pub(super) servers: Vec<ServerAddress>,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) interval: Duration,
    /// What to query.
    pub(super) query: watch::Receiver<Query>,
    /// Actions to send.
    pub(super) actions: mpsc::Receiver<AdminAction>,
    pub(super) events: mpsc::Sender<Event>,
}

/// The display has ended.
struct Closed;

/// Whether a command also applies to jobs or workers that arrive later.
fn is_kept_for_later(line: &[u8]) -> bool {
    [&b"pause "[..], b"limit ", b"disable ", b"drain "].iter().any(|verb| line.starts_with(verb))
}

impl ConnectionTask {
    /// Runs until the display ends.
    pub(super) async fn run(mut self) {
        let begin = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let why = match connection::open_first(&self.servers, self.connect_timeout).await {
                Ok((address, stream)) => {
                    let address = address.to_string();
                    let mut fetcher = Fetcher::new(TextConnection::new(stream), self.timeout, begin);
                    if self.say(Event::Connected(address.clone())).await.is_err() {
                        return;
                    }
                    match self.serve(&mut fetcher, &mut backoff).await {
                        Ok(why) => format!("{address}: {why}"),
                        Err(Closed) => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            let again_in = backoff.pause().min(LONGEST_PAUSE);
            if self.say(Event::Lost { why, again_in }).await.is_err() || self.wait(again_in).await.is_err() {
                return;
            }
        }
    }

    async fn say(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Waits, and rejects actions meanwhile.
    async fn wait(&mut self, pause: Duration) -> Result<(), Closed> {
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                action = self.actions.recv() => {
                    let said = action.ok_or(Closed)?.said;
                    self.say(Event::Answer { said, result: Err("no connection".to_owned()) }).await?;
                }
            }
        }
    }

    /// Serves the display over one connection. Returns why that is no longer usable.
    async fn serve(&mut self, fetcher: &mut Fetcher, backoff: &mut Backoff) -> Result<String, Closed> {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = self.query.changed() => changed.map_err(|_| Closed)?,
                action = self.actions.recv() => {
                    let action = action.ok_or(Closed)?;
                    let answer = fetcher.ask(&action.line).await;
                    let result = match &answer {
                        Ok(TextAnswer::Err(why)) => Err(printable(&lossy(why)).replace('+', " ")),
                        Ok(_) => Ok(()),
                        Err(why) => Err(format!("may not be done: {why}")),
                    };
                    let said = match &answer {
                        Ok(TextAnswer::Ok(count)) if count == b"0" && is_kept_for_later(&action.line) => {
                            format!("{} (warning: no match yet; the setting is kept)", action.said)
                        }
                        Ok(TextAnswer::Ok(count)) if !count.is_empty() => {
                            format!("{} ({} changed)", action.said, printable(&lossy(count)))
                        }
                        _ => action.said,
                    };
                    self.say(Event::Answer { said, result }).await?;
                    if let Err(why) = answer {
                        return Ok(why);
                    }
                }
            }
            let query = self.query.borrow_and_update().clone();
            match fetcher.fetch(&query).await {
                Ok(snapshot) => {
                    backoff.reset();
                    self.say(Event::Data(Box::new(snapshot))).await?;
                }
                Err(why) => return Ok(why),
            }
        }
    }
}
