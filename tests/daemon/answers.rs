//! What the program says: logs, complaints, its manual.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::site::{GEARMAND, Site, assert_fails, text};

pub(crate) fn logs_for_people_and_for_machines() {
    let site = Site::new();
    let mut server = site.start(&["--verbose", "DEBUG"]);
    server.connect().expect_nothing();
    server.terminate();
    let log = site.read("log");
    let listening = log.lines().find(|line| line.contains("listening on")).expect("a line of the start");
    assert!(listening.starts_with(" NOTICE 20"), "{listening}");
    assert!(listening.contains(&format!("[  main ] gearmand {}", env!("CARGO_PKG_VERSION"))), "{listening}");
    assert!(log.contains("  DEBUG "), "{log}");

    let site = Site::new();
    let mut server = site.start(&["--log-format", "json"]);
    server.terminate();
    let log = site.read("log");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    assert!(lines.iter().all(|line| line["level"] == "NOTICE" && line["time"].is_string()), "{log}");
    let messages: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(messages.last(), Some(&"stopped"));
    assert!(messages.iter().any(|message| message.contains("listening on 127.0.0.1:")), "{log}");
}

pub(crate) fn check_names_what_is_wrong() {
    let site = Site::new();
    let good = site.run(&["--check", "-p", "4731", "--max-jobs", "7"]);
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert!(text(&good.stdout).contains("port = 4731 # "), "{}", text(&good.stdout));
    // Each fails both as a check and as a start, before anything is bound.
    let toml = site.write("bad.toml", "# a comment\nport = 4730\nprot = 4\n");
    let options = site.write("bad.conf", "--port=4730\n\n--threads=many\n");
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--config-file", &toml], &["bad.toml:3", "prot", "port"]),
        (&["--config-file", &options], &["bad.conf:3", "threads", "many"]),
        (&["--config-file", "/nonexistent/gearmand.toml"], &["/nonexistent/gearmand.toml"]),
        (&["--no-such-option"], &["--no-such-option"]),
        (&["--port", "99999"], &["99999", "--port"]),
    ];
    for (arguments, said) in cases {
        for check in [&["--check"][..], &[]] {
            let output = site.run(&[arguments, check].concat());
            assert_fails(&output, said);
            assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
        }
    }
}

pub(crate) fn the_sample_configuration_is_right() {
    let site = Site::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/gearmand.toml.example");
    let output = site.run(&["--config-file", sample, "--check"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    // What a check prints is a configuration file itself, which says the same.
    let printed = site.write("printed.toml", &text(&output.stdout));
    let again = site.run(&["--config-file", &printed, "--check"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
}

pub(crate) fn the_environment_of_kubernetes_is_tolerated() {
    let site = Site::new();
    let mut command = site.gearmand(&["-L", "127.0.0.1", "-p", "0", "-l", &site.name("log")]);
    command
        .env("GEARMAND_PORT", "tcp://10.0.0.1:4730")
        .env("GEARMAND_SERVICE_HOST", "10.0.0.1")
        .env("GEARMAND_SERVICE_PORT", "4730")
        .env("GEARMAND_PORT_4730_TCP_ADDR", "10.0.0.1")
        .env("GEARMAND_VERBOSE", "WARNING")
        .stderr(Stdio::piped());
    let mut server = site.start_command(&mut command);
    assert_eq!(server.connect().text("verbose"), "OK WARNING\n", "a setting of the environment");
    server.terminate();
    assert!(site.read("log").contains("GEARMAND_PORT"), "it is not mentioned: {}", site.read("log"));
    let mut command = site.gearmand(&["--check"]);
    let wrong = command.env("GEARMAND_MAX_JOBS", "many").output().unwrap();
    assert_fails(&wrong, &["GEARMAND_MAX_JOBS", "many"]);
}

pub(crate) fn manual_and_completions() {
    let site = Site::new();
    let manual = site.run(&["man"]);
    assert!(manual.status.success());
    let page = text(&manual.stdout);
    assert!(page.contains(".TH gearmand 8"), "{page}");
    for option in ["\\-\\-max\\-jobs", "\\-\\-drain\\-timeout", "\\-\\-listen"] {
        assert!(page.contains(option), "{option} is missing");
    }
    // What does nothing is of no use to a reader.
    for option in ["libdrizzle", "hashtable", "round\\-robin", "ssl\\-key"] {
        assert!(!page.contains(option), "{option} is a retired option");
    }
    let directory = site.path("share/man");
    assert!(site.run(&["man", "--directory", directory.to_str().unwrap()]).status.success());
    for (words, says) in [
        (&["work"][..], "\\-\\-max\\-workers"),
        (&["admin"], "list\\-jobs"),
        (&["admin", "list-jobs"], "\\-\\-older"),
        (&["fleet", "roll"], "\\-\\-on"),
        (&["queue"], "verify"),
    ] {
        let name = ["gearmand", &words.join("-")].join("-");
        let page = fs::read_to_string(directory.join(format!("{name}.8"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 8")) && page.contains(says), "{name}: {page}");
        assert_eq!(text(&site.run(&[&["man"], words].concat()).stdout), page, "{name}");
    }
    assert_fails(&site.run(&["man", "dance"]), &["gearmand-dance", "--directory"]);
    // Only a system with manuals can say what it thinks of this one.
    if Command::new("man").arg("--version").output().is_ok() {
        let file = site.write("gearmand.8", &page);
        let shown = Command::new("man").args(["--warnings", "-l", &file]).env("MANWIDTH", "80").output().unwrap();
        assert!(shown.status.success(), "{}", text(&shown.stderr));
        assert_eq!(text(&shown.stderr), "", "warnings");
        assert!(text(&shown.stdout).contains("--drain-timeout"), "{}", text(&shown.stdout));
    }
    for (shell, begins) in [("bash", "_gearmand() {"), ("zsh", "#compdef gearmand"), ("fish", "# Print an optspec")] {
        let completions = site.run(&["completions", shell]);
        assert!(completions.status.success(), "{shell}");
        let script = text(&completions.stdout);
        assert!(script.starts_with(begins), "{shell}: {}", script.lines().next().unwrap_or_default());
        assert!(script.contains("drain-timeout") && !script.contains("libdrizzle"), "{shell}");
        // Options have their values.
        for value in ["WARNING", "libsqlite3", "human", "interval", "top:"] {
            assert!(script.contains(value), "{shell}: {value}");
        }
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let script = Command::new(GEARMAND).args(["completions", "bash"]).output().unwrap().stdout;
    bash.stdin.take().unwrap().write_all(&script).unwrap();
    let verdict = bash.wait_with_output().unwrap();
    assert!(verdict.status.success() && verdict.stderr.is_empty(), "{}", text(&verdict.stderr));
}
