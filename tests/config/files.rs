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
        admin-line = 1_024\n";
    for name in ["gearmand.toml", "gearmand.conf"] {
        let config = World::new(&[]).file(name, text).config();
        assert_eq!(config.network.keepalive_idle, Some(Duration::from_secs(33)));
        assert_eq!((config.log.log_file, config.log.log_format), (LogTarget::StandardError, LogFormat::Json));
        assert_eq!((config.limits.max_packet_size, config.limits.max_admin_line), (1024, 1024));
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

/// Syntax of other formats, and quotes changed by an editor: each error names the line to write instead.
/// `swordfish` is the secret in all of them.
const MISTAKES: &[(&str, &[&str])] = &[
    ("--queue-type = MySQL", &["c:1", "--queue-type=MySQL"]),
    ("--queue-type =MySQL", &["c:1", "--queue-type=MySQL"]),
    ("--queue-type= MySQL", &["c:1", "--queue-type=MySQL"]),
    ("--mysql-password = swordfish", &["c:1", "--mysql-password=***"]),
    ("--mysql-password =swordfish", &["c:1", "--mysql-password=***"]),
    ("--mysql-password= swordfish", &["c:1", "--mysql-password=***"]),
    ("--mysql-password=a swordfish", &["c:1", "the value of mysql-password ends at the blank before `***`", "TOML"]),
    ("--mysql-password a swordfish b", &["c:1", "before `***`"]),
    ("--libpq-conninfo=host=h user=u password=swordfish", &["c:1", "libpq-conninfo ends at the blank", "'VALUE'"]),
    ("--libpq-conninfo=\"host=h password=swordfish\"", &["c:1", "this format has no quotes"]),
    ("--log-file=/var/log/gear man.log", &["c:1", "before `man.log`"]),
    ("mysql-password=swordfish", &["c:1", "`mysql-password=***`", "write --mysql-password=***"]),
    ("mysql-password: swordfish", &["c:1", "`mysql-password:`"]),
    ("-mysql-password=swordfish", &["c:1", "`-mysql-password`"]),
    ("--mysql-pasword=swordfish", &["c:1", "`mysql-pasword`", "`mysql-password`"]),
    ("--mysql-pasword swordfish", &["c:1", "`mysql-pasword`", "`mysql-password`"]),
    ("--daemon swordfish --redis-password x", &["c:1", "`***`"]),
    ("--http-token swordfish", &["c:1", "http-token cannot be `***`", "openssl rand"]),
    ("\u{2013}port=4731", &["c:1", "two hyphens", "\u{2013} (U+2013)", "--port=4731"]),
    ("\u{2014}mysql-password=swordfish", &["c:1", "U+2014", "--mysql-password=***"]),
    ("\u{2013}p 4731", &["c:1", "write -p"]),
    ("-\u{2010}port=4731", &["c:1", "U+2010", "--port=4731"]),
    ("--mysql-db=\u{201e}gearman\u{201c}", &["c:1", "mysql-db has the quote \u{201e} (U+201E)", "without quotes"]),
    ("--mysql-password=\u{2018}swordfish\u{2019}", &["c:1", "U+2018"]),
    ("--http-listen=:4780", &["c:1", "http-listen cannot be `:4780`", "127.0.0.1:4780", "*:4780"]),
    ("--http-listen=on", &["c:1", "http-listen cannot be `on`", "write off, or an address", "*:4780"]),
    ("--listen=\"127.0.0.1\"", &["c:1", "listen cannot be `\"127.0.0.1\"`", "without quotes"]),
    ("--port='4731'", &["c:1", "port cannot be `'4731'`", "without quotes"]),
    ("--http-listen=24737", &["c:1", "http-listen cannot be `24737`", "127.0.0.1:24737", "*:24737"]),
    ("--listen=10.1", &["c:1", "listen cannot be `10.1`", "four numbers"]),
    ("--mysql-port=\u{201d}3306\u{201d}", &["c:1", "U+201D"]),
];

#[test]
fn what_other_formats_and_editors_make_of_a_line_is_told_without_its_secrets() {
    for (text, parts) in MISTAKES {
        let error = World::new(&[]).file("c", text).error();
        assert_parts(&error, parts);
        assert!(!error.contains("swordfish"), "{text}: {error}");
    }
    for (text, parts) in [
        ("mysql-password = swordfish", &["c.toml:1", "not TOML"][..]),
        ("mysql-password = 'swordfish", &["c.toml:1", "not TOML"]),
        ("queue-type = \u{201c}MySQL\u{201d}", &["c.toml:1", "not TOML", "\u{201c} (U+201C)", "keyboard"]),
        ("\u{2013}\u{2013}port = 1", &["c.toml:1", "not TOML", "U+2013"]),
        ("mysql-password = ['swordfish']", &["c.toml:1", "array"]),
    ] {
        let error = World::new(&[]).file("c.toml", text).error();
        assert_parts(&error, parts);
        assert!(!error.contains("swordfish"), "{text}: {error}");
    }
    let world = World::new(&[]).variable("GEARMAND_MYSQL_PASSWORD", "\u{201c}swordfish\u{201d}");
    assert_parts(&world.error(), &["environment GEARMAND_MYSQL_PASSWORD", "U+201C"]);
    assert!(!world.error().contains("swordfish"));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_option() {
    for (name, text) in [("c", "\u{feff}--port=4731"), ("c.toml", "\u{feff}port = 4731"), ("d", "\u{feff}port = 4731")]
    {
        let config = World::new(&[]).file(name, text).config();
        assert_eq!(config.listen, [ListenAddress::All { port: 4731 }], "{name}");
    }
    let utf16: Vec<u8> = "\u{feff}--port=1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_parts(&World::new(&[]).file("c", utf16).error(), &["c:1", "UTF-16", "save the file as UTF-8"]);
}

#[test]
fn quotes_that_belong_to_a_value_are_noticed() {
    let world = World::new(&[]).file("c", "--mysql-password=\"swordfish\"\n--queue-type=builtin");
    let warnings = world.warnings().join("\n");
    assert_parts(&warnings, &["c:1", "quotes around the value of mysql-password"]);
    assert!(!warnings.contains("swordfish"), "{warnings}");
    let world = World::new(&[]).variable("GEARMAND_USER", "\"root\"");
    assert_parts(&world.errors().join("\n"), &["environment GEARMAND_USER", "\"root\""]);
    let world = World::new(&[]).variable("GEARMAND_PID_FILE", "'/run/g.pid'");
    assert_parts(
        &world.warnings().join("\n"),
        &["environment GEARMAND_PID_FILE", "quotes around the value of pid-file"],
    );
}
