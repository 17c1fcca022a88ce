use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::app::{AdminAction, App, Command, Event, Prompt};
use super::data::{Snapshot, add_queued};
use super::fetch::{Detail, Query};
use super::render::render;
use super::table::Theme;
use super::views::View;
use crate::client::table::{Facts, Table};

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines()
        .map(|line| {
            line.trim_start().replace(' ', "\t").replacen("#\t", "# ", 1).replace("# next\t", "# next ").into_bytes()
        })
        .collect()
}

#[allow(clippy::unnecessary_wraps, reason = "it stands where there may be none")]
fn table(text: &str) -> Option<Table> {
    Some(Table::parse(&lines(text)).unwrap())
}

/// A server with two functions, three workers and two jobs. Spaces represent the tabs of the protocol.
fn snapshot() -> Snapshot {
    let mut functions = table(
        "# name high normal low scheduled running workers paused max_running oldest_s submitted done failed exceptions \
            cancelled in_per_s out_per_s failed_per_s wait_p99_s run_p50_s run_p99_s\n\
         rev 0 12 3 0 2 3 0 0 75.2 120 100 1 0 0 2.5 2.4 0.1 4.0 0.012 1.5\n\
         mail 0 0 0 7 0 1 1 4 - 40 40 0 0 0 0 0 0 - - -",
    );
    functions.iter_mut().for_each(add_queued);
    let mut workers = table(
        "# id address client_id state functions running job since_unix_ms done failed exceptions requeued run_p50_s\n\
         4-1 10.0.0.1 web working rev,mail 1 H:h:7 990000 50 0 0 0 0.1\n\
         5-2 10.0.0.1 - asleep rev 0 - - 9 1 4 0 0.2\n\
         6-3 ::1 - draining rev 1 H:h:8 940000 3 0 0 2 -",
    );
    if let Some(workers) = &mut workers {
        workers.add_failures("failures");
    }
    Snapshot {
        at: 10.0,
        now_unix_ms: 1_000_000,
        server: Facts::parse(&lines(
            "version 1.0\nuptime_s 3725\nmemory_bytes 35651584\nstore_state ok\njobs_queued 15\njobs_running 2\n\
             jobs_scheduled 0\nworkers_working 2\nworkers_waiting 0",
        )),
        functions,
        workers,
        jobs: table(
            "# handle unique function priority state age_s attempts holder progress clients bytes\n\
             H:h:7 u rev normal running 12 0 4-1 1/2 1 2048\n\
             H:h:9 - rev low queued 75.2 1 - - 0 11\n\
             # next 9",
        ),
        ..Snapshot::default()
    }
}

fn app() -> App {
    let mut app = App::new(130, 12);
    app.handle(Event::Connected("10.0.0.9:4730".to_owned()));
    app.handle(Event::Data(Box::new(snapshot())));
    app
}

fn press(app: &mut App, code: KeyCode) -> Option<Command> {
    app.handle(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

/// Presses letters, and returns the request of the last one.
fn letters(app: &mut App, text: &str) -> Option<Command> {
    text.chars().map(|letter| press(app, KeyCode::Char(letter))).last().flatten()
}

fn drawn(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(app, Theme { color: true }, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

#[track_caller]
fn assert_drawn(app: &App, width: u16, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(|line| line.trim_start_matches('|')).collect();
    let height = u16::try_from(expected.len()).unwrap();
    let drawn = drawn(app, width, height);
    assert_eq!(drawn, expected, "\n{}", drawn.join("\n"));
}

#[allow(clippy::unnecessary_wraps, reason = "it is compared with what may be none")]
fn action(line: &str) -> Option<Command> {
    Some(Command::Do(AdminAction { line: line.as_bytes().to_vec(), said: String::new() }))
}

/// Removes the description for people.
fn bare(command: Option<Command>) -> Option<Command> {
    match command {
        Some(Command::Do(AdminAction { line, .. })) => Some(Command::Do(AdminAction { line, said: String::new() })),
        other => other,
    }
}

#[test]
fn functions_workers_and_jobs_are_drawn() {
    let mut app = app();
    assert_drawn(
        &app,
        130,
        "\
|gearmand top  10.0.0.9:4730  version 1.0  up 1h02m  memory 34 MiB  store ok
|jobs: 15 queued, 2 running  workers: 2 working
| 1 functions  2 workers  3 jobs  4 server   2 shown
|FUNCTION  QUEUEDv  HIGH  NORMAL  LOW  SCHED  RUN  MAX  WORKERS  IN/S  OUT/S  FAIL/S  OLDEST  WAIT99  RUN50  RUN99  PAUSED
|rev            15     0      12    3      0    2    0        3   2.5    2.4     0.1   1m15s    4.0s   12ms   1.5s  no
|mail            0     0       0    0      7    0    4        1   0.0    0.0     0.0       -       -      -      -  yes
|
|q quit  ? help  Tab view  Enter all  / filter  s sort  r reverse  p pause  c cancel jobs  j jobs  l limit  m move jobs",
    );
    letters(&mut app, "2");
    assert_drawn(
        &app,
        112,
        "\
|gearmand top  10.0.0.9:4730  version 1.0  up 1h02m  memory 34 MiB  store ok
|jobs: 15 queued, 2 running  workers: 2 working
| 1 functions  2 workers  3 jobs  4 server   3 shown
|ID   CLIENT  ADDRESS   STATE      FOR^  JOB    RUN  DONE  FAIL  BACK  RUN50  FUNCTIONS
|6-3  -       ::1       draining  1m00s  H:h:8    1     3     0     2      -  rev
|4-1  web     10.0.0.1  working     10s  H:h:7    1    50     0     0  100ms  rev,mail
|5-2  -       10.0.0.1  asleep        -  -        0     9     5     0  200ms  rev
|
|q quit  ? help  Tab view  Enter all  / filter  s sort  r reverse  d disable  D drain  e enable  k kick",
    );
    press(&mut app, KeyCode::Tab);
    let jobs = drawn(&app, 112, 9);
    assert_eq!(jobs[2], " 1 functions  2 workers  3 jobs  4 server   2+ shown");
    assert_eq!(
        jobs[3..6],
        [
            "HANDLE  FUNCTION  STATE    PRIO     AGEv  WORKER  DONE  TRIES  CLIENTS    BYTES  UNIQUE",
            "H:h:9   rev       queued   low     1m15s  -       -         1        0     11 B  -",
            "H:h:7   rev       running  normal    12s  4-1     1/2       0        1  2.0 KiB  u",
        ]
    );
}

#[test]
fn what_does_not_fit_on_80_columns_takes_another_line() {
    let mut app = app();
    app.handle(Event::Size(80, 24));
    let mut data = snapshot();
    data.server = Facts::parse(&lines(
        "version 1.0\nuptime_s 3725\nmemory_bytes 35651584\nstore_state ok\njobs_queued 15\njobs_running 2\n\
         jobs_scheduled 7\nin_per_s 2.5\nout_per_s 2.4\nfailed_per_s 0.1\nworkers_working 2\nworkers_asleep 1\n\
         workers_draining 1\nworkers_drained 0",
    ));
    app.handle(Event::Data(Box::new(data)));
    assert_drawn(
        &app,
        80,
        "\
|gearmand top  10.0.0.9:4730  version 1.0  up 1h02m  memory 34 MiB  store ok
|jobs: 15 queued, 2 running, 7 scheduled  in/out/failed: 2.5 2.4 0.1/s
|workers: 2 working, 1 asleep, 1 draining
| 1 functions  2 workers  3 jobs  4 server   2 shown
|FUNCTION  QUEUEDv  RUN  WORKERS  IN/S  OUT/S  FAIL/S  OLDEST  RUN50  PAUSED
|rev            15    2        3   2.5    2.4     0.1   1m15s   12ms  no
|mail            0    0        1   0.0    0.0     0.0       -      -  yes
|
|q quit  ? help  Tab view  Enter all  / filter  s sort  r reverse  p pause  c can",
    );
    assert_eq!(app.list_height(), 24 - 6);
    letters(&mut app, "2");
    press(&mut app, KeyCode::Down);
    letters(&mut app, "k");
    assert_eq!(
        drawn(&app, 80, 10)[8..],
        ["kick worker 4-1? y: yes, this one, c: all of client web,", "h: all of host 10.0.0.1; any other key: no"]
    );
}

#[test]
fn a_narrow_terminal_has_the_columns_that_matter() {
    let app = app();
    let is_heading = |line: &String| line.starts_with("FUNCTION");
    let heading = |width| drawn(&app, width, 9).into_iter().find(is_heading).unwrap();
    assert_eq!(heading(60), "FUNCTION  QUEUEDv  RUN  WORKERS  IN/S  OUT/S  FAIL/S  OLDEST");
    assert_eq!(heading(40), "FUNCTION  QUEUEDv  RUN  WORKERS  IN/S");
    assert_eq!(heading(20), "FUNCTION  QUEUEDv");
    // None of these sizes is usable, but none must cause a panic.
    for width in 0..30 {
        for height in 0..8 {
            drawn(&app, width, height);
        }
    }
}

#[test]
fn a_long_name_gives_way_and_wide_letters_are_counted() {
    let mut app = app();
    let mut data = snapshot();
    data.functions = table(&format!("# name queued running workers\n{} 1 2 3\n\u{6f22}\u{5b57} 4 5 6", "x".repeat(60)));
    app.handle(Event::Data(Box::new(data)));
    let shown = drawn(&app, 60, 9);
    assert_eq!(shown[3], format!("{:39}QUEUEDv  RUN  WORKERS", "FUNCTION"));
    assert_eq!(shown[5], format!("{}~        1    2        3", "x".repeat(36)));
    // The second cell of a wide character is empty.
    assert!(shown[4].starts_with("\u{6f22} \u{5b57} ") && shown[4].ends_with("  4    5        6"), "{}", shown[4]);
}

#[test]
fn colours_are_for_those_who_want_them() {
    let app = app();
    for (color, of_paused) in [(true, Color::Yellow), (false, Color::Reset)] {
        let mut terminal = Terminal::new(TestBackend::new(100, 9)).unwrap();
        terminal.draw(|frame| render(&app, Theme { color }, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        assert_eq!(buffer[(0, 5)].fg, of_paused);
        assert!(buffer[(0, 4)].modifier.contains(Modifier::REVERSED), "the selection is seen without colours too");
        let coloured = buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured, color);
    }
}

#[test]
fn no_name_commands_the_terminal() {
    let mut app = app();
    let evil = "a\u{1b}[2J\u{9b}m\u{202e}\u{7}";
    let bytes = |text: &str| text.as_bytes().to_vec();
    let mut data = snapshot();
    data.server.pairs.push((evil.to_owned(), bytes(evil)));
    for table in [&mut data.functions, &mut data.workers, &mut data.jobs] {
        let table = table.as_mut().unwrap();
        for row in &mut table.rows {
            row.fill(bytes(evil));
        }
    }
    data.rules = data.functions.clone();
    data.details = Some((bytes(evil), Err(evil.to_owned())));
    app.handle(Event::Data(Box::new(data)));
    app.handle(Event::Answer { said: evil.to_owned(), result: Err(evil.to_owned()) });
    app.jobs_of = Some(bytes(evil));
    let mut seen = 0;
    for keys in ["1", "\r", "2", "\r", "k", "n", "3", "\r", "c", "n", "4", "1/a", "\u{1b}", "p"] {
        for letter in keys.chars() {
            let code = match letter {
                '\r' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            };
            press(&mut app, code);
        }
        for line in drawn(&app, 300, 60) {
            assert!(!line.contains(|letter: char| letter.is_control() || letter == '\u{202e}'), "{line:?}");
            seen += usize::from(line.contains("\\x1b[2J"));
        }
    }
    app.handle(Event::Lost { why: evil.to_owned(), again_in: Duration::from_secs(1) });
    let first = &drawn(&app, 300, 9)[0];
    assert!(first.contains("\\x1b[2J") && !first.contains('\u{1b}'), "{first:?}");
    assert!(seen > 20, "the name was hardly drawn");
    // Actions encode its name as the listings do.
    press(&mut app, KeyCode::Char('n'));
    assert_eq!(bare(letters(&mut app, "py")), action("pause a\\x1b[2J\u{9b}m\u{202e}\\x07"));
}

#[test]
fn what_is_done_is_confirmed_and_is_a_text_command() {
    let mut app = app();
    for (keys, command) in [
        ("1py", "pause rev"),
        ("1cy", "cancel jobs rev"),
        ("2dy", "disable connection:6-3"),
        ("2Dh", "drain host:::1"),
        ("2ey", "enable connection:6-3"),
        ("2ky", "kick connection:6-3"),
        ("3cy", "cancel job H:h:9"),
        ("3ny", "run job H:h:9"),
    ] {
        assert_eq!(bare(letters(&mut app, keys)), action(command), "{keys}");
        // Any other key means no.
        for no in ['n', 'q', 'x', '\r'] {
            let asked = &keys[..keys.len() - 1];
            assert_eq!(letters(&mut app, asked), None);
            assert!(matches!(app.prompt, Prompt::Confirm(_)), "{keys}");
            assert_eq!(letters(&mut app, &no.to_string()), None);
            assert_eq!(app.prompt, Prompt::None);
        }
    }
    // A paused function is resumed. A worker without a client id has no choice for its client.
    letters(&mut app, "1");
    press(&mut app, KeyCode::Down);
    assert_eq!(bare(letters(&mut app, "py")), action("resume mail"));
    assert_eq!(letters(&mut app, "2kc"), None);
    press(&mut app, KeyCode::Down);
    assert_eq!(bare(letters(&mut app, "kc")), action("kick client:web"));
    letters(&mut app, "k");
    let last = drawn(&app, 120, 9)[8].clone();
    assert_eq!(
        last,
        "kick worker 4-1? y: yes, this one, c: all of client web, h: all of host 10.0.0.1; any other key: no"
    );
    letters(&mut app, "n");
    letters(&mut app, "p");
    assert_eq!(drawn(&app, 120, 9)[8], "p is for functions (key 1)");
}

#[test]
fn a_value_is_typed_at_the_bottom() {
    let mut app = app();
    for (keys, shown, command) in [
        ("1l12", "maximum running jobs of rev, 0 for no limit: 12_", "limit running rev 12"),
        ("1lx-0", "maximum running jobs of rev, 0 for no limit: 0_", "limit running rev 0"),
        ("1ma q", "move jobs of rev to function: a q_", "move jobs rev a\\x20q"),
        ("3ma", "move job H:h:9 to function: a_", "move job H:h:9 a"),
    ] {
        // Typed characters go to the value, and have no effect before it is confirmed.
        assert_eq!(letters(&mut app, keys), None, "{keys}");
        assert_eq!(drawn(&app, 120, 9)[8], format!("{shown} (Enter: confirm, Esc: cancel)"));
        assert_eq!(bare(press(&mut app, KeyCode::Enter)), action(command), "{keys}");
        assert_eq!(app.prompt, Prompt::None);
        letters(&mut app, keys);
        assert_eq!(press(&mut app, KeyCode::Esc), None);
        assert_eq!((&app.prompt, &*drawn(&app, 80, 9)[8]), (&Prompt::None, "nothing done"));
    }
    for (key, name) in [('h', "high"), ('n', "normal"), ('l', "low")] {
        assert_eq!(letters(&mut app, "3P"), None);
        assert!(drawn(&app, 80, 9)[8].starts_with("priority of job H:h:9? h: high, n: normal, l: low; any other"));
        let expected = format!("priority job H:h:9 {name}");
        assert_eq!(bare(letters(&mut app, &key.to_string())), action(&expected));
        assert_eq!(letters(&mut app, "3Py"), None);
        assert_eq!(app.prompt, Prompt::None);
    }
    letters(&mut app, "1l42949672965");
    press(&mut app, KeyCode::Backspace);
    assert_eq!(press(&mut app, KeyCode::Enter), None);
    assert_eq!(drawn(&app, 80, 9)[8], "4294967296 exceeds the largest limit; 0 means no limit");
    letters(&mut app, "m");
    assert_eq!(press(&mut app, KeyCode::Enter), None);
    assert_eq!(drawn(&app, 80, 9)[8], "empty input, nothing done");
    // On a screen that is too narrow the prompt takes another line.
    letters(&mut app, "l5");
    let narrow = drawn(&app, 60, 9);
    assert_eq!(narrow[7], "maximum running jobs of rev, 0 for no limit: 5_");
    assert_eq!(narrow[8], "(Enter: confirm, Esc: cancel)");
}

#[test]
fn what_became_of_it_is_said_for_a_while() {
    let mut app = app();
    let last = |app: &App| drawn(app, 100, 9)[8].clone();
    app.handle(Event::Answer { said: "kick connection:4-1".to_owned(), result: Ok(()) });
    assert_eq!(last(&app), "done: kick connection:4-1");
    app.handle(Event::Answer { said: "pause rev".to_owned(), result: Err("READ_ONLY".to_owned()) });
    assert_eq!(last(&app), "pause rev: READ_ONLY");
    for _ in 0..9 {
        app.handle(Event::Data(Box::new(snapshot())));
    }
    assert!(last(&app).starts_with("q quit"), "{}", last(&app));
}

#[test]
fn nothing_is_done_to_another_than_the_one_that_is_shown() {
    let mut app = app();
    letters(&mut app, "2");
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.query().details, Some((Detail::Worker, b"6-3".to_vec())));
    let mut data = snapshot();
    data.workers.as_mut().unwrap().rows.remove(2);
    data.details = Some((b"6-3".to_vec(), Err("NO_SUCH_WORKER".to_owned())));
    app.handle(Event::Data(Box::new(data)));
    assert_eq!(drawn(&app, 80, 12)[3..6], ["worker 6-3", "", "no longer there: NO_SUCH_WORKER"]);
    assert_eq!(letters(&mut app, "ky"), None);
    assert_eq!(drawn(&app, 80, 12)[11], "worker no longer exists");
    press(&mut app, KeyCode::Esc);
    assert_eq!(bare(letters(&mut app, "ky")), action("kick connection:4-1"));
}

#[test]
fn all_about_a_worker_is_shown_and_scrolled() {
    let mut app = app();
    letters(&mut app, "2");
    press(&mut app, KeyCode::Enter);
    // Until the response arrives, the details come from the list.
    assert!(drawn(&app, 80, 20).contains(&"client id    -".to_owned()), "{:#?}", drawn(&app, 80, 20));
    let mut data = snapshot();
    let facts = Facts::parse(&lines(
        "id 6-3\nconnected_unix_ms 400000\nrun_mean_s 0.25\nfunction rev 1 draining 5 0 0 0 0 0.5 0.4 1.5\n\
         job H:h:8 rev 940000 1 2 1060000",
    ));
    data.details = Some((b"6-3".to_vec(), Ok(facts)));
    app.handle(Event::Data(Box::new(data)));
    let expected = [
        "worker 6-3",
        "",
        "id               6-3",
        "connected (ago)  10m00s",
        "run mean         250ms",
        "",
        "functions",
        "NAME  IN_USE  MODE      DONE  FAILED  EXCEPTIONS  TIMED_OUT  REQUEUED   MEAN    P50   P99",
        "rev   yes     draining     5       0           0          0         0  500ms  400ms  1.5s",
    ];
    assert_eq!(drawn(&app, 100, 20)[3..12], expected);
    for _ in 0..50 {
        press(&mut app, KeyCode::Down);
    }
    let scrolled = drawn(&app, 100, 8);
    assert!(scrolled[5].contains("HANDLE") && scrolled[6].contains("H:h:8"), "{scrolled:#?}");
    assert_eq!(letters(&mut app, "q"), None, "q goes back before it ends");
    assert_eq!(app.details, None);
    assert_eq!(letters(&mut app, "q"), Some(Command::Quit));
}

#[test]
fn jobs_of_a_function_are_asked_for_and_no_others_are_taken_for_them() {
    let mut app = app();
    assert_eq!(app.query(), Query::of(View::Functions));
    letters(&mut app, "j");
    assert_eq!(app.query(), Query { jobs_of: Some(b"rev".to_vec()), ..Query::of(View::Jobs) });
    // The response to the previous query.
    app.handle(Event::Data(Box::new(snapshot())));
    assert_eq!(app.table(View::Jobs), None);
    app.handle(Event::Data(Box::new(Snapshot { jobs_of: Some(b"rev".to_vec()), ..snapshot() })));
    assert_eq!(app.table(View::Jobs).unwrap().rows.len(), 2);
    assert!(drawn(&app, 80, 9)[2].ends_with("of function rev"), "{:?}", drawn(&app, 80, 9)[2]);
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.query().jobs_of, None);
    assert_eq!(app.table(View::Jobs), None);
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let mut app = app();
    letters(&mut app, "/mq");
    assert_eq!(drawn(&app, 80, 9)[8], "filter: mq_  (Enter: keep, Esc: none)");
    assert_eq!(drawn(&app, 80, 9)[4], "(none match the filter)");
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Enter);
    let shown = drawn(&app, 80, 9);
    assert!(shown[2].ends_with("1 of 2 shown  filter: m") && shown[4].starts_with("mail"), "{shown:#?}");
    // The selection is the item on the screen.
    assert_eq!(bare(letters(&mut app, "py")), action("resume mail"));
    press(&mut app, KeyCode::Esc);
    assert!(drawn(&app, 80, 9)[2].ends_with("2 shown"));
}

#[test]
fn a_plain_server_is_shown_as_far_as_it_goes() {
    let mut app = app();
    let plain = Snapshot {
        at: 11.0,
        is_cpp: true,
        server: Facts::parse(&lines("version 1.1.20\nfunctions 1\njobs_queued 2\njobs_running 1")),
        functions: table("# name total running workers\nrev 3 1 2"),
        jobs: table("# handle attempts is_abandoned background\nH:h:1 0 0 1"),
        ..Snapshot::default()
    };
    app.handle(Event::Data(Box::new(plain)));
    let shown = drawn(&app, 100, 9);
    assert_eq!(shown[0], "gearmand top  10.0.0.9:4730  C++ gearmand 1.1.20: limited data");
    assert_eq!(shown[1], "jobs: 2 queued, 1 running");
    assert_eq!(app.table(View::Workers), None, "nothing is left of another server");
    assert_eq!(letters(&mut app, "py"), None);
    assert_eq!(drawn(&app, 100, 9)[8], "a C++ gearmand can only cancel jobs");
    letters(&mut app, "j");
    assert_eq!(app.view, View::Functions);
    for keys in ["1l", "1m", "3m", "3P"] {
        assert_eq!(letters(&mut app, keys), None);
        assert_eq!((&app.prompt, &*drawn(&app, 100, 9)[8]), (&Prompt::None, "a C++ gearmand can only cancel jobs"));
    }
    assert_eq!(bare(letters(&mut app, "3cy")), action("cancel job H:h:1"));
}

#[test]
fn a_lost_connection_is_seen_and_the_last_numbers_stay() {
    let mut app = app();
    app.handle(Event::Lost { why: "10.0.0.9:4730: refused".to_owned(), again_in: Duration::from_millis(150) });
    let shown = drawn(&app, 100, 9);
    assert_eq!(shown[0], "gearmand top  NO CONNECTION, next try in 150ms: 10.0.0.9:4730: refused");
    assert!(shown[4].starts_with("rev"), "{shown:#?}");
    assert_eq!(letters(&mut app, "q"), Some(Command::Quit));
}

#[test]
fn keys_that_end_or_stop_work_everywhere() {
    let mut app = app();
    for keys in ["", "?", "/", "p", "2"] {
        letters(&mut app, keys);
        for (letter, command) in [('c', Command::Quit), ('z', Command::Suspend)] {
            let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
            assert_eq!(app.handle(Event::Key(key)), Some(command), "{keys}");
        }
        press(&mut app, KeyCode::Esc);
    }
    assert_eq!(app.handle(Event::InputEnded), Some(Command::Quit));
}

#[test]
fn the_help_has_every_key_and_fits_a_small_terminal() {
    let mut app = app();
    letters(&mut app, "?");
    let shown = drawn(&app, 80, 24);
    assert!(shown[22].contains("tells less"), "{shown:#?}");
    assert!(super::panels::HELP.lines().all(|line| line.chars().count() <= 80), "it is cut at 80 columns");
    letters(&mut app, "q");
    assert_eq!(app.prompt, Prompt::None);
}

/// Keys and data in any order neither crash the display nor trigger an action without confirmation.
#[test]
fn any_keys_in_any_order() {
    let codes = [
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Backspace,
    ];
    let letters = "1234srpclmPdDeknj/?qyhx ";
    let codes: Vec<KeyCode> = codes.into_iter().chain(letters.chars().map(KeyCode::Char)).collect();
    for seed in 1..=20_u64 {
        let mut random = seed;
        let mut app = App::new(80, 10);
        for _ in 0..2_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let chance = usize::try_from(random % 1_000_003).unwrap();
            let asked = matches!(app.prompt, Prompt::Confirm(_) | Prompt::Value(_));
            let event = match chance % 10 {
                0 => Event::Data(Box::new(snapshot())),
                1 => Event::Data(Box::new(Snapshot { is_cpp: chance % 3 == 0, ..Snapshot::default() })),
                2 => Event::Size(u16::try_from(chance % 90).unwrap(), u16::try_from(chance % 40).unwrap()),
                _ => Event::Key(KeyEvent::new(codes[chance % codes.len()], KeyModifiers::NONE)),
            };
            let shown = format!("seed {seed}: {event:?}");
            let command = app.handle(event);
            assert!(asked || !matches!(command, Some(Command::Do(_))), "{shown}: {command:?}");
            if let Some(list) = app.list() {
                assert!(list.order.is_empty() || list.row < list.order.len(), "{shown}");
            }
        }
        drawn(&app, 80, 24);
    }
}
