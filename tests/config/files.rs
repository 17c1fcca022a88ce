//! Configuration files: which one is read, in which format, and what is said of the mistakes in them.

use std::fs;
use std::time::Duration;

use gearmand::config::{Level, ListenAddress, LogFormat, LogTarget};

use crate::{World, assert_parts};

#[test]
fn gearmands_own_file_format_is_read() {
    let text = "# a comment --port=1\n--port=4731 -t 2\t-L127.0.0.1 --listen\n  ::1 # --backlog=7\n-dw3 --job-retries -1\r\n\
        --verbose=debug";
    let config = World::new(&[]).file("gearmand.conf", text).config();
    let addresses: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:4731", "[::1]:4731"]);
    assert_eq!((config.process.threads, config.network.backlog), (2, 1024));
    assert_eq!((config.jobs.worker_wakeup, config.jobs.job_retries), (Some(3), None));
    assert!(config.process.daemon);
    assert_eq!(config.log.verbose, Level::Debug);
}

#[test]
fn an_abbreviation_in_the_file_is_read_as_gearmand_does() {
    let world = World::new(&[]).file("gearmand.conf", "--por=4731");
    assert_eq!(world.config().listen, [ListenAddress::All { port: 4731 }]);
    assert_parts(&world.warnings()[0], &["gearmand.conf:1", "--por", "--port"]);
    let error = World::new(&[]).file("gearmand.conf", "--keepalive-i=1").error();
    assert_parts(&error, &["gearmand.conf:1", "keepalive-idle, keepalive-interval"]);
}

#[test]
fn mistakes_in_gearmands_format_name_file_line_and_remedy() {
    for (text, parts) in [
        ("\nport=4731", &["c:2", "`port=4731`", "--port=4731"][..]),
        ("--threads=2\nport = 4731", &["c:2", "--port=4731"]),
        ("--threads=2 some words", &["c:1", "`some`"]),
        ("--threads=2\n\n--prto=1", &["c:3", "`prto`", "`port`"]),
        ("--port=70000", &["c:1", "port", "`70000`", "from 0 to 65535"]),
        ("--port=1\n-p2", &["c:2", "port", "second time", "line 1"]),
        ("--threads=1 --port", &["c:1", "port needs a value"]),
        ("--threads=1\n--check-args", &["c:2", "check", "command line"]),
        ("--config-file=x", &["c:1", "config-file"]),
        ("-Z", &["c:1", "`-Z`"]),
        ("-", &["c:1", "single dash"]),
        ("--", &["c:1", "no setting ``"]),
        ("--daemon=perhaps", &["c:1", "daemon", "`perhaps`", "true or false"]),
    ] {
        assert_parts(&World::new(&[]).file("c", text).error(), parts);
    }
}

#[test]
fn toml_is_read_by_extension_or_by_look() {
    let text = "# comment\n[keepalive]\nidle = 33\n[log]\nfile = 'stderr'\nformat = \"json\"\n[max]\npacket_size = '1k'\n\
        text-line = 1_024\n";
    for name in ["gearmand.toml", "gearmand.conf"] {
        let config = World::new(&[]).file(name, text).config();
        assert_eq!(config.network.keepalive_idle, Some(Duration::from_secs(33)));
        assert_eq!((config.log.log_file, config.log.log_format), (LogTarget::StandardError, LogFormat::Json));
        assert_eq!((config.limits.max_packet_size, config.limits.max_text_line), (1024, 1024));
    }
    let text =
        "port = 4731\nlisten = ['127.0.0.1', 'localhost:1']\nsocket-mode = 0o600\ndaemon = true\njob_retries = -1";
    let config = World::new(&[]).file("gearmand.conf", text).config();
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.network.socket_mode, 0o600);
    assert!(config.process.daemon);
    let config = World::new(&[]).file("gearmand.toml", "port=4731").config();
    assert_eq!(config.listen, [ListenAddress::All { port: 4731 }]);
}

#[test]
fn mistakes_in_toml_name_file_line_and_remedy() {
    for (text, parts) in [
        ("port = 1\nprot = 2", &["c.toml:2", "`prot`", "`port`"][..]),
        ("[keepalive]\n\nidel = 2", &["c.toml:3", "`keepalive-idel`", "`keepalive-idle`"]),
        ("port = 70000", &["c.toml:1", "port", "`70000`"]),
        ("port = 1.5", &["c.toml:1", "float"]),
        ("port = [1]", &["c.toml:1", "array"]),
        ("log-file = 'none'\n[log]\nfile = 'none'", &["c.toml:3", "log-file", "line 1"]),
        ("port = 1\nport = 2", &["c.toml:2", "not TOML", "duplicate"]),
        ("\nport 4731", &["c.toml:2", "not TOML"]),
        ("listen = ['localhost', 'a b']", &["c.toml:1", "`a b`"]),
        ("daemon = 7", &["c.toml:1", "true or false"]),
        ("check = true", &["c.toml:1", "command line"]),
        ("threads = 0x10", &["c.toml:1", "`0x", "whole number"]),
    ] {
        assert_parts(&World::new(&[]).file("c.toml", text).error(), parts);
    }
}

#[test]
fn files_that_cannot_be_read_are_errors_only_when_named() {
    let named = World::new(&["--config-file", "/nonexistent/gearmand.conf"]);
    assert_parts(&named.error(), &["/nonexistent/gearmand.conf", "No such file"]);
    let missing = World::new(&[]).default_file("missing.toml", None).default_file("missing.conf", None);
    assert_eq!(missing.config(), World::new(&[]).config());
    assert_parts(&World::new(&[]).file("latin1", b"--port=1\n--user=J\xf6rg\n").error(), &["latin1:2", "UTF-8"]);
}

#[test]
fn the_first_default_file_counts_and_a_second_one_is_mentioned() {
    let both =
        World::new(&[]).default_file("gearmand.toml", Some("port = 1")).default_file("gearmand.conf", Some("--port=2"));
    assert_eq!(both.config().listen, [ListenAddress::All { port: 1 }]);
    assert_parts(&both.warnings()[0], &["gearmand.conf is not read", "gearmand.toml"]);
    let second = World::new(&[]).default_file("a.toml", None).default_file("b.conf", Some("--port=2"));
    assert_eq!(second.config().listen, [ListenAddress::All { port: 2 }]);
    let named = World::new(&[]).default_file("b.conf", Some("--port=2")).file("named", "--port=3");
    assert_eq!(named.config().listen, [ListenAddress::All { port: 3 }]);
}

#[test]
fn the_environment_can_name_the_file() {
    let world = World::new(&[]).default_file("a.toml", Some("port = 1"));
    fs::write(world.path("b.conf"), "--port=2").unwrap();
    let path = world.path("b.conf").to_str().unwrap().to_owned();
    let world = world.variable("GEARMAND_CONFIG_FILE", &path);
    assert_eq!(world.config().listen, [ListenAddress::All { port: 2 }]);
}
