//! Tests of submitted jobs, with responses in every order.

use super::*;
use crate::client::output::Style;

const PLAIN: Style = Style { json: false, newline: true, handles: false, verbose: false };

struct Scene {
    pipeline: Pipeline,
    connection: Connection,
    output: Output,
}

fn settings() -> Settings {
    Settings {
        packet_type: PacketType::SubmitJob,
        unique: Vec::new(),
        epoch: None,
        background: false,
        ordered: true,
        resubmit: false,
        window: 3,
    }
}

impl Scene {
    /// Submits these workloads; the option and all submissions are answered, with handles `1`, `2`, ...
    fn new(settings: Settings, style: Style, workloads: &[&'static str]) -> Self {
        let mut scene = Self {
            pipeline: Pipeline::new(settings),
            connection: Connection::new((Box::new(tokio::io::empty()), Box::new(tokio::io::sink()))),
            output: Output::new(style, Vec::new(), false, true),
        };
        scene.pipeline.connected(&mut scene.connection).unwrap();
        if !scene.pipeline.settings.background {
            scene.answer(Answer::OptionRes);
        }
        for workload in workloads {
            let job = NewJob { function: FunctionName::new(b"f"), workload: Bytes::from_static(workload.as_bytes()) };
            scene.pipeline.submit(job, Instant::now(), &mut scene.connection, &mut scene.output);
        }
        for number in 1..=workloads.len() {
            scene.answer(Answer::JobCreated(Bytes::from(number.to_string())));
        }
        scene
    }

    fn answer(&mut self, answer: Answer) {
        self.pipeline.answer(answer, &mut self.output);
    }

    fn work(&mut self, handle: &'static str, event: WorkEvent) {
        self.answer(Answer::Work { handle: Bytes::from_static(handle.as_bytes()), event });
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn results_without_an_end_end_their_job() {
    let json = Style { json: true, ..PLAIN };
    let mut scene = Scene::new(settings(), json, &["a", "b"]);
    scene.pipeline.most_held = 10_000;
    for _ in 0..1000 {
        scene.work("2", WorkEvent::Data(Bytes::from_static(b"x")));
    }
    assert!(scene.pipeline.held <= 10_000, "{}", scene.pipeline.held);
    scene.work("1", WorkEvent::Complete(Bytes::from_static(b"fine")));
    let printed = scene.output.pending();
    assert!(printed.contains("fine") && printed.contains("--unordered"), "{printed}");
    assert_eq!((scene.pipeline.held, scene.pipeline.is_empty(), scene.pipeline.counts().failed), (0, true, 1));
}

#[test]
fn what_waits_in_order_is_counted_until_it_is_printed() {
    let mut scene = Scene::new(settings(), PLAIN, &["a", "b", "c"]);
    scene.pipeline.most_held = 10_000;
    scene.work("3", WorkEvent::Complete(Bytes::from(vec![b'x'; 6_000])));
    scene.work("2", WorkEvent::Complete(Bytes::from(vec![b'y'; 6_000])));
    assert_eq!(scene.pipeline.held, 6_000);
    // The first one is printed immediately, however large it is.
    scene.work("1", WorkEvent::Complete(Bytes::from(vec![b'z'; 60_000])));
    assert_eq!((scene.pipeline.held, scene.pipeline.is_empty(), scene.pipeline.counts().failed), (0, true, 1));
}

#[test]
fn results_are_printed_in_the_order_of_submission_and_parts_as_soon_as_may_be() {
    let mut scene = Scene::new(settings(), PLAIN, &["a", "b", "c"]);
    assert_eq!(scene.pipeline.room(), 0);
    scene.work("3", WorkEvent::Complete(bytes("C")));
    scene.work("2", WorkEvent::Data(bytes("B1")));
    assert_eq!((scene.output.pending(), scene.pipeline.room()), (String::new(), 1));
    scene.work("1", WorkEvent::Data(bytes("A1")));
    assert_eq!(scene.output.pending(), "A1");
    scene.work("1", WorkEvent::Complete(bytes("A2\n")));
    assert_eq!(scene.output.pending(), "A1A2\nB1");
    scene.work("2", WorkEvent::Complete(Bytes::new()));
    assert_eq!(scene.output.pending(), "A1A2\nB1\nC\n");
    assert!(scene.pipeline.is_empty());
    assert_eq!(scene.pipeline.counts(), Counts::default());
}

#[test]
fn unordered_results_are_printed_whole_when_they_come() {
    let mut scene = Scene::new(Settings { ordered: false, ..settings() }, PLAIN, &["a", "b"]);
    scene.work("1", WorkEvent::Data(bytes("A1")));
    scene.work("2", WorkEvent::Complete(bytes("B")));
    assert_eq!(scene.output.pending(), "B\n");
    scene.work("1", WorkEvent::Complete(bytes("A2")));
    assert_eq!(scene.output.pending(), "B\nA1A2\n");
    assert!(scene.pipeline.is_empty());
}

#[test]
fn jobs_that_share_a_handle_all_get_its_result() {
    let mut scene = Scene::new(settings(), PLAIN, &["a", "b"]);
    for workload in ["a", "a"] {
        let job = NewJob { function: FunctionName::new(b"f"), workload: bytes(workload) };
        scene.pipeline.submit(job, Instant::now(), &mut scene.connection, &mut scene.output);
        scene.answer(Answer::JobCreated(bytes("1")));
    }
    for _ in 0..3 {
        scene.work("1", WorkEvent::Data(bytes("x")));
    }
    for _ in 0..3 {
        scene.work("1", WorkEvent::Complete(bytes("y")));
    }
    scene.work("2", WorkEvent::Complete(bytes("z")));
    assert_eq!(scene.output.pending(), "xy\nz\nxy\nxy\n");
    assert!(scene.pipeline.is_empty());
}

#[test]
fn failures_and_rejections_are_counted() {
    let mut scene = Scene::new(settings(), PLAIN, &["a"]);
    let job = NewJob { function: FunctionName::new(b"f"), workload: bytes("b") };
    scene.pipeline.submit(job, Instant::now(), &mut scene.connection, &mut scene.output);
    scene.answer(Answer::Error { code: "QUEUE_ERROR".to_owned(), text: "Job queue is full".to_owned() });
    scene.work("1", WorkEvent::Fail);
    assert!(scene.pipeline.is_empty());
    assert_eq!(scene.pipeline.counts(), Counts { failed: 2, lost: 0 });
    assert_eq!(scene.output.pending(), "");
}

#[test]
fn a_lost_connection_ends_jobs_that_may_have_run() {
    let mut scene = Scene::new(settings(), PLAIN, &["a", "b"]);
    scene.work("2", WorkEvent::Complete(bytes("B")));
    scene.pipeline.disconnected(&mut scene.output);
    assert!(scene.pipeline.is_empty());
    assert_eq!(scene.pipeline.counts(), Counts { failed: 0, lost: 1 });
    assert_eq!(scene.output.pending(), "B\n");
}

#[test]
fn a_unique_id_lets_unfinished_jobs_be_submitted_again_unless_they_were_printed() {
    let unique = Settings { unique: b"u".to_vec(), ..settings() };
    let mut scene = Scene::new(unique, PLAIN, &["a", "b", "c"]);
    scene.work("1", WorkEvent::Data(bytes("half")));
    scene.work("2", WorkEvent::Data(bytes("taken back")));
    scene.pipeline.disconnected(&mut scene.output);
    assert_eq!(scene.pipeline.counts(), Counts { failed: 0, lost: 1 });
    let unsent = scene.connection.unsent();
    scene.pipeline.connected(&mut scene.connection).unwrap();
    assert!(scene.connection.unsent() > unsent);
    scene.answer(Answer::Error { code: "UNKNOWN_OPTION".to_owned(), text: String::new() });
    scene.answer(Answer::JobCreated(bytes("8")));
    scene.answer(Answer::JobCreated(bytes("9")));
    scene.work("9", WorkEvent::Complete(bytes("C")));
    scene.work("8", WorkEvent::Complete(bytes("B")));
    assert_eq!(scene.output.pending(), "half\nB\nC\n");
    assert!(scene.pipeline.is_empty());
}

#[test]
fn background_jobs_end_with_their_handle() {
    let background = Settings { background: true, ..settings() };
    let scene = Scene::new(background, Style { handles: true, ..PLAIN }, &["a", "b"]);
    assert_eq!(scene.output.pending(), "1\n2\n");
    assert!(scene.pipeline.is_empty());
}

#[test]
fn json_says_all_that_is_known_of_a_job() {
    let mut scene = Scene::new(settings(), Style { json: true, ..PLAIN }, &["a", "b"]);
    scene.work("1", WorkEvent::Data(bytes("x")));
    scene.work("1", WorkEvent::Warning(bytes("w")));
    scene.work("1", WorkEvent::Exception(bytes("e")));
    scene.pipeline.give_up(&Ending::TimedOut, &mut scene.output);
    let lines: Vec<serde_json::Value> =
        scene.output.pending().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        serde_json::json!({"job": 1, "function": "f", "handle": "1", "outcome": "exception", "data": "x",
            "warnings": "w", "exception": "e"}),
        serde_json::json!({"job": 2, "function": "f", "handle": "2", "outcome": "timeout"}),
    ];
    assert_eq!(lines, expected);
}
