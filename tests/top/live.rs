//! `gearmand top` in a terminal.

use nix::sys::signal::Signal;

use crate::common::Server;
use crate::screen::{BEFORE, Screen};
use crate::{grab, submit, worker};

#[test]
fn our_server_is_shown_and_steered() {
    let server = Server::ours(&["--job-handle-prefix", "H:t"]);
    submit(&server, "rev", 3);
    let mut busy = worker(&server, "me", &["rev"]);
    let handle = grab(&mut busy);
    let screen = Screen::start(&server, 150, 30, &[]);
    screen.shows("jobs: 2 queued, 1 running");
    // A terminal may be looked at while it is being written to.
    screen.waits_for("the heading", |text| text.contains("FUNCTION  QUEUEDv"));
    let paused = |flag: &str| {
        screen
            .waits_for("the function", |text| text.lines().any(|line| line.starts_with("rev ") && line.ends_with(flag)))
    };
    paused("no");
    screen.press(&["p"]);
    screen.shows("pause function rev? y: yes; any other key: no");
    screen.press(&["y"]);
    screen.shows("done: pause rev");
    paused("yes");
    screen.press(&["l"]);
    screen.shows("maximum running jobs of rev, 0 for no limit: _ (Enter: confirm, Esc: cancel)");
    screen.press(&["-l", "7"]);
    screen.press(&["Enter"]);
    screen.shows("done: limit running rev 7");
    // The worker, all about it, and its end.
    screen.press(&["2"]);
    screen.shows("me 127.0.0.1 working");
    screen.press(&["Enter"]);
    screen.shows("client id me");
    // The jobs that it holds come last.
    screen.press(&["End"]);
    screen.shows(&format!("{handle} rev"));
    screen.press(&["Escape"]);
    // Escape and a letter that are read together are one key.
    screen.shows("me 127.0.0.1 working");
    screen.press(&["k"]);
    screen.shows("y: yes, this one, c: all of client me, h: all of host 127.0.0.1; any other key: no");
    screen.press(&["c"]);
    screen.shows("done: kick client:me");
    assert_eq!(busy.recv_or_end(), None, "the worker's connection is closed");
    // Its job is queued again. One of them is cancelled.
    screen.shows("jobs: 3 queued, 0 running");
    screen.press(&["3"]);
    screen.shows("3 shown");
    screen.press(&["/"]);
    screen.press(&["-l", "T:2"]);
    screen.press(&["Enter"]);
    screen.shows("1 of 3 shown");
    screen.press(&["c"]);
    screen.shows("cancel job H:t:2? y: yes; any other key: no");
    screen.press(&["y"]);
    screen.shows("done: cancel job H:t:2");
    screen.shows("jobs: 2 queued, 0 running");
    screen.press(&["Escape"]);
    screen.waits_for("all jobs again", |text| !text.contains("filter: T:2"));
    screen.press(&["P"]);
    screen.shows("h: high, n: normal, l: low; any other key: no");
    screen.press(&["h"]);
    screen.shows("done: priority job H:t:1 high");
    screen.press(&["1"]);
    screen.press(&["m"]);
    screen.press(&["-l", "other"]);
    screen.shows("move jobs of rev to function: other_");
    screen.press(&["Enter"]);
    screen.shows("done: move jobs rev other (2 changed)");
    screen.press(&["4"]);
    screen.shows("functions refused 0");
    screen.press(&["NPage"]);
    screen.shows("jobs queued 2");
    screen.press(&["q"]);
    screen.ended(0);
}

#[test]
fn a_cpp_server_is_shown_and_a_job_cancelled() {
    let server = Server::debian(&[]);
    let handles = submit(&server, "rev", 2);
    let mut worker = worker(&server, "me", &["rev"]);
    let screen = Screen::start(&server, 100, 20, &[]);
    screen.shows("limited data");
    screen.shows("rev 2 0 2 0 0 1");
    screen.press(&["p"]);
    screen.shows("a C++ gearmand can only cancel jobs");
    screen.press(&["2"]);
    screen.shows("me 127.0.0.1 rev");
    screen.press(&["3"]);
    screen.press(&["/"]);
    screen.press(&["-l", &handles[0]]);
    screen.press(&["Enter"]);
    screen.shows("1 of 2 shown");
    screen.press(&["c"]);
    screen.shows(&format!("cancel job {}? y: yes; any other key: no", handles[0]));
    screen.press(&["y"]);
    screen.shows("done: cancel job");
    // It lists the job until a worker comes by, and does not hand it out.
    assert_eq!(grab(&mut worker), handles[1]);
    screen.press(&["q"]);
    screen.ended(0);
}

#[test]
fn it_waits_for_a_server_that_has_gone() {
    let mut server = Server::ours(&[]);
    submit(&server, "rev", 1);
    let screen = Screen::start(&server, 100, 20, &[]);
    screen.shows("jobs: 1 queued,");
    server.kill();
    let lost = screen.shows("NO CONNECTION,");
    assert!(lost.contains("jobs: 1 queued,"), "the last numbers stay:\n{lost}");
    screen.press(&["p"]);
    screen.press(&["y"]);
    screen.shows("pause rev: no connection");
    server.restart();
    screen.waits_for("the server again", |text| !text.contains("NO CONNECTION") && text.contains("jobs: 1 queued"));
    screen.press(&["C-c"]);
    screen.ended(0);
}

#[test]
fn it_fits_any_size_and_gives_the_terminal_back_on_a_signal() {
    let server = Server::ours(&[]);
    submit(&server, "rev", 1);
    let screen = Screen::start(&server, 120, 20, &["NO_COLOR=1"]);
    screen.shows("jobs: 1 queued,");
    screen.waits_for("a wide table", |text| text.contains("WORKERS") && text.contains("OLDEST"));
    // Bold, reversed and underlined, but no colour.
    let coloured = screen.coloured();
    let codes =
        coloured.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m')).flat_map(|(codes, _)| codes.split(';'));
    let colour = codes
        .filter_map(|code| code.parse::<u32>().ok())
        .find(|code| (30..50).contains(code) && *code != 39 && *code != 49);
    assert_eq!(colour, None, "{coloured:?}");
    screen.resize(30, 8);
    let narrow = screen.waits_for("a narrow table", |text| text.contains("QUEUEDv") && !text.contains("OLDEST"));
    assert!(narrow.lines().all(|line| line.chars().count() <= 30), "{narrow}");
    for (width, height) in [(2, 2), (300, 60), (120, 20)] {
        screen.resize(width, height);
    }
    screen.shows("FUNCTION QUEUEDv");
    screen.signal(Signal::SIGTERM);
    screen.ended(0);
}

#[test]
fn it_can_be_stopped_and_go_on() {
    let server = Server::ours(&[]);
    submit(&server, "rev", 1);
    let screen = Screen::start(&server, 100, 20, &[]);
    screen.shows("jobs: 1 queued,");
    screen.press(&["C-z"]);
    // 128 and the number of SIGTSTP.
    let stopped = screen.shows("first status 148");
    assert!(stopped.contains(BEFORE) && !stopped.contains("QUEUED"), "{stopped}");
    // One of them joins the job that is there.
    submit(&server, "rev", 2);
    screen.press(&["Enter"]);
    screen.shows("jobs: 2 queued,");
    screen.press(&["q"]);
    screen.shows("last status 0");
}
