//! The terminal: sets it up, restores it in all cases, and runs the main loop.

use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::app::{App, Command, Event};
use super::connection_task::ConnectionTask;
use super::render::render;
use super::table::Theme;
use super::{Connector, TopArgs};
use crate::client::ToolError;

/// Capacity of the event queue to the display.
const EVENTS: usize = 256;
/// Capacity of the action queue to the connection.
const ACTIONS: usize = 16;
/// How often the key reader checks whether the display has ended.
const PATIENCE: Duration = Duration::from_millis(200);

/// The terminal in raw mode. A panic restores it too, since ratatui sets a hook for that.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> Result<Self, ToolError> {
        ratatui::try_init().map(Self).map_err(|error| ToolError::Io("cannot use the terminal", error))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = ratatui::try_restore();
    }
}

/// Shows the server until the user quits.
pub(super) async fn run(args: &TopArgs, connector: Connector) -> Result<u8, ToolError> {
    let fault = |error| ToolError::Io("cannot wait for signals", error);
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()]
        .map(signal)
        .into_iter()
        .collect::<io::Result<Vec<Signals>>>()
        .map_err(fault)?;
    let theme = Theme { color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut screen = Screen::enter()?;
    let size = screen.0.size().map_err(|error| ToolError::Io("cannot use the terminal", error))?;
    let mut app = App::new(size.width, size.height);
    let (events, mut happened) = mpsc::channel(EVENTS);
    let (actions, to_do) = mpsc::channel(ACTIONS);
    let (query, wanted) = watch::channel(app.query());
    read_keys(events.clone());
    let task = ConnectionTask {
        servers: connector.servers,
        connect_timeout: connector.connect_timeout,
        timeout: connector.timeout,
        interval: args.interval,
        query: wanted,
        actions: to_do,
        events,
    };
    tokio::spawn(task.run());
    loop {
        let drawn = screen.0.draw(|frame| render(&app, theme, frame));
        drawn.map_err(|error| ToolError::Io("cannot draw", error))?;
        let mut next = tokio::select! {
            event = happened.recv() => event,
            () = any(&mut ends) => return Ok(0),
        };
        // Handle all queued events before drawing once.
        while let Some(event) = next {
            match app.handle(event) {
                Some(Command::Quit) => return Ok(0),
                Some(Command::Suspend) => {
                    drop(screen);
                    // The process stops here until the shell continues it.
                    raise(Signal::SIGTSTP).map_err(|error| ToolError::Io("cannot stop", error.into()))?;
                    screen = Screen::enter()?;
                    let cleared = screen.0.clear();
                    cleared.map_err(|error| ToolError::Io("cannot use the terminal", error))?;
                }
                Some(Command::Do(action)) => {
                    if let Err(refused) = actions.try_send(action) {
                        app.say(format!("{}: not sent, the server is too slow", refused.into_inner().said), true);
                    }
                }
                None => {}
            }
            next = happened.try_recv().ok();
        }
        let now = app.query();
        query.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }
}

/// Waits for any of these signals.
async fn any(signals: &mut [Signals]) {
    std::future::poll_fn(|context| {
        if signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}

/// Reads keys in a separate thread, since a read from a terminal cannot be awaited. It ends with the display
/// or with the input.
fn read_keys(events: mpsc::Sender<Event>) {
    std::thread::spawn(move || {
        while !events.is_closed() {
            let read =
                event::poll(PATIENCE).and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) });
            let event = match read {
                Ok(Some(event::Event::Key(key))) => Event::Key(key),
                Ok(Some(event::Event::Resize(width, height))) => Event::Size(width, height),
                Ok(_) => continue,
                Err(_) => Event::InputEnded,
            };
            let has_ended = matches!(event, Event::InputEnded);
            if events.blocking_send(event).is_err() || has_ended {
                return;
            }
        }
    });
}
