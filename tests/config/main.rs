//! The configuration as a caller sees it: sources, their precedence, errors, `--check` and reload.

// Helpers of the tests fail as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod example;
mod files;
mod queue;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use gearmand::config::{
    self, Config, ConfigErrors, Level, ListenAddress, LogTarget, Origin, RELOADABLE, Resolved, Sources,
};
use tempfile::TempDir;

/// The sources of one server: options, variables, and files in a directory of its own.
struct World {
    directory: TempDir,
    options: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    default_files: Vec<PathBuf>,
}

impl World {
    fn new(options: &[&str]) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            options: options.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            default_files: Vec::new(),
        }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Writes a file and names it on the command line.
    fn file(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        self.options.extend(["--config-file".to_owned(), path.to_str().unwrap().to_owned()]);
        self
    }

    /// Adds a file that is found without being named; without a text it does not exist.
    fn default_file(mut self, name: &str, text: Option<&str>) -> Self {
        let path = self.path(name);
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        self.default_files.push(path);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn resolve(&self) -> Result<Resolved, ConfigErrors> {
        let program = std::iter::once("gearmand".to_owned());
        let matches = config::command().try_get_matches_from(program.chain(self.options.iter().cloned())).unwrap();
        let (environment, default_files) = (self.environment.clone(), self.default_files.clone());
        config::resolve(&Sources { matches, environment, default_files })
    }

    fn resolved(&self) -> Resolved {
        self.resolve().unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn config(&self) -> Config {
        self.resolved().config
    }

    fn errors(&self) -> Vec<String> {
        let errors = self.resolve().expect_err("the configuration should be refused");
        errors.0.iter().map(ToString::to_string).collect()
    }

    /// The only error, with the directory of the files left out.
    fn error(&self) -> String {
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn warnings(&self) -> Vec<String> {
        self.resolved().warnings
    }
}

#[track_caller]
fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let world = World::new(&[]);
    let config = world.config();
    assert_eq!(config.listen, [ListenAddress::All { port: 4730 }]);
    assert_eq!(config.jobs.job_retries, None);
    assert_eq!(config.jobs.worker_wakeup, Some(1));
    assert_eq!(config.process.threads, 1);
    assert_eq!(config.log.log_file, LogTarget::File("/var/log/gearmand.log".into()));
    assert_eq!(config.log.verbose, Level::Error);
    assert_eq!(config.limits.max_packet_size, 64 << 20);
    assert_eq!(config.limits.max_output_buffer, 1 << 30);
    assert_eq!(config.limits.max_connections, 65_536);
    assert_eq!(config.limits.max_jobs, 0);
    assert_eq!(config.limits.max_memory, None);
    assert_eq!(config.timeouts.handshake_timeout, None);
    assert_eq!(config.timeouts.write_timeout, Some(Duration::from_mins(10)));
    assert_eq!(config.timeouts.wakeup_timeout, Duration::from_millis(100));
    assert!(config.job_handle_prefix.starts_with("H:"));
    assert!(world.warnings().is_empty());
}

#[test]
fn a_dead_host_is_noticed_within_a_minute() {
    let network = World::new(&[]).config().network;
    let (idle, interval) = (network.keepalive_idle.unwrap(), network.keepalive_interval.unwrap());
    let user_timeout = network.tcp_user_timeout.unwrap();
    let probes = idle + interval * network.keepalive_count.unwrap();
    // With fewer probes lost than `--keepalive-count` a living peer is not closed.
    assert!(user_timeout >= probes, "{user_timeout:?} is less than {probes:?}");
    let silent = probes.max(user_timeout);
    // The worst moment to write to a dead peer is just before its silence would have been noticed.
    assert!(silent + user_timeout <= Duration::from_mins(1), "{silent:?} + {user_timeout:?}");
    assert!(probes < Duration::from_mins(1));
}

#[test]
fn every_option_of_gearmand_is_understood() {
    let options = "-b 64 -d --exceptions -f 4096 -j 3 --job-handle-prefix P --hashtable-buckets 1000003 --keepalive \
        --keepalive-idle -1 --keepalive-interval=7 --keepalive-count 2 -l /tmp/log -L localhost -P /tmp/pid -R -q BuiltIn \
        --syslog --coredump -t 4 -u nobody --verbose INFO -w 0 -p 4731 --http-port 8080 --ssl-ca-file a \
        --ssl-certificate b --ssl-key c --libsqlite3-db d --libsqlite3-table e --store-queue-on-shutdown --libpq-conninfo f \
        --libpq-table g --mysql-host h --mysql-port 1 --mysql-user i --mysql-password j --mysql-db k --mysql-table l \
        --redis-server m --redis-port 2 --redis-password n --redis-prefix o --libmemcached-servers p \
        --libmemcached-prefix q --libtokyocabinet-file r --libtokyocabinet-optimize true";
    let world = World::new(&options.split_whitespace().collect::<Vec<_>>());
    let config = world.config();
    assert_eq!(config.listen, [ListenAddress::Host { name: "localhost".to_owned(), port: 4731 }]);
    assert_eq!((config.network.backlog, config.process.file_descriptors), (64, Some(4096)));
    assert_eq!((config.jobs.job_retries, config.jobs.worker_wakeup), (Some(3), None));
    assert_eq!(config.job_handle_prefix, "P");
    assert_eq!((config.network.keepalive_idle, config.network.keepalive_count), (None, Some(2)));
    assert_eq!(config.network.keepalive_interval, Some(Duration::from_secs(7)));
    assert_eq!(config.log.log_file, LogTarget::File("/tmp/log".into()));
    assert_eq!(config.process.pid_file, Some("/tmp/pid".into()));
    assert_eq!((config.process.user.as_deref(), config.process.threads), (Some("nobody"), 4));
    assert_eq!(config.log.verbose, Level::Info);
    assert!(config.process.daemon && config.jobs.exceptions && config.log.syslog);
    let warnings = world.warnings();
    assert_eq!(warnings.len(), 27, "one for each option without effect: {warnings:#?}");
    for option in ["--round-robin", "--hashtable-buckets", "--keepalive", "--coredump", "--libmemcached-servers"] {
        let warning = warnings.iter().find(|warning| warning.contains(&format!("{option} has no effect any more")));
        let warning = warning.unwrap_or_else(|| panic!("no warning of {option}"));
        assert_parts(warning, &["command line", "remove the option"]);
    }
    let sqlite = warnings.iter().find(|warning| warning.contains("--libsqlite3-db")).unwrap();
    assert_parts(sqlite, &["has no effect without --queue-type libsqlite3", "remove the option"]);
}

#[test]
fn letters_have_the_long_names_of_gearmand() {
    let options = "--backlog=64 --daemon --file-descriptors=4096 --job-retries=-1 --listen=::1 --log-file=none \
        --pid-file=/tmp/pid --port=0 --round-robin --queue-type=builtin --threads=0 --user=nobody --worker-wakeup=255";
    let long = World::new(&options.split_whitespace().collect::<Vec<_>>()).config();
    let letters = "-b64 -d -f4096 -j-1 -L::1 -lnone -P/tmp/pid -p0 -R -qbuiltin -t0 -unobody -w255";
    assert_eq!(long, World::new(&letters.split_whitespace().collect::<Vec<_>>()).config());
    assert_eq!(long.listen, [ListenAddress::Ip("[::1]:0".parse().unwrap())]);
    assert_eq!(long.log.log_file, LogTarget::Nowhere);
    assert_eq!((long.jobs.worker_wakeup, long.jobs.job_retries), (Some(255), None));
    assert!(long.process.threads >= 1, "0 threads are one a CPU");
}

#[test]
fn absent_parts_are_refused_not_replaced() {
    for (options, parts) in [
        (["--ssl", "-R"], vec!["--ssl", "does not support TLS"]),
        (["-u", "no-such-user-here"], vec!["no-such-user-here", "no such user"]),
    ] {
        assert_parts(&World::new(&options).error(), &parts);
    }
    assert_parts(&World::new(&[]).variable("GEARMAND_SSL", "yes").error(), &["environment GEARMAND_SSL", "TLS"]);
    assert_parts(&World::new(&[]).file("c.toml", "\nprotocol = 'ftp'").error(), &["c.toml:2", "no such protocol"]);
}

#[test]
fn too_few_files_and_too_short_a_user_timeout_are_taken_with_a_warning() {
    let world = World::new(&["-f", "16", "--tcp-user-timeout", "3s"]);
    assert_eq!(world.config().process.open_files(), Some(32));
    let warnings = world.warnings();
    assert!(warnings.iter().any(|text| text.contains("--file-descriptors 16")), "{warnings:?}");
    assert!(warnings.iter().any(|text| text.contains("--tcp-user-timeout 3s")), "{warnings:?}");
    // As with C++ gearmand, 0 is what the system allows.
    let world = World::new(&["-f", "0"]);
    assert_eq!((world.config().process.open_files(), world.warnings().len()), (None, 0));
}

#[test]
fn values_out_of_range_are_refused_on_the_command_line() {
    for option in [
        "--port=70000",
        "--port=-1",
        "--port=no-such-service-here",
        "--job-retries=256",
        "--job-retries=-2",
        "--worker-wakeup=256",
        "--threads=99999",
        "--verbose=LOUD",
        "--keepalive-idle=0",
        "--max-packet-size=5GiB",
        "--max-connections=0",
        "--wakeup-timeout=0",
        "--socket-mode=888",
        "--job-handle-prefix=a b",
        "--http-metrics-functions=some",
        "--http-metrics-functions=top:0",
        "--http-metrics-functions=top:-1",
        "--listen=http://localhost",
        "--listen=1:2:3",
        "--user=",
        "--protocol=gopher",
        "--http-port=65536",
    ] {
        let error = config::command().try_get_matches_from(["gearmand", option]).expect_err(option).to_string();
        let (name, value) = option.split_once('=').unwrap();
        assert_parts(&error, &["error:", name, value]);
    }
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file_beats_the_default() {
    let world = World::new(&["--port=1"])
        .variable("GEARMAND_PORT", "2")
        .variable("GEARMAND_THREADS", "2")
        .variable("GEARMAND_DAEMON", "off")
        .file("gearmand.conf", "--port=3 --threads=3\n\n--backlog=3 -d");
    let resolved = world.resolved();
    let config = &resolved.config;
    assert_eq!(config.listen, [ListenAddress::All { port: 1 }]);
    assert_eq!((config.process.threads, config.network.backlog), (2, 3));
    assert!(!config.process.daemon, "the environment turns the switch of the file off again");
    let origin = |name: &str| resolved.settings().into_iter().find(|setting| setting.name == name).unwrap().origin;
    assert_eq!(origin("port"), Origin::CommandLine);
    assert_eq!(origin("threads").to_string(), "environment GEARMAND_THREADS");
    assert!(origin("backlog").to_string().ends_with("gearmand.conf:3"));
    assert_eq!(origin("verbose"), Origin::Default);
}

#[test]
fn a_list_replaces_the_list_of_a_lesser_source() {
    let listen = "127.0.0.1, [::1]:5000 unix:/tmp/s";
    let world = World::new(&[]).variable("GEARMAND_LISTEN", listen).file("a.toml", "listen = 'h'");
    let expected = [
        ListenAddress::Ip("127.0.0.1:4730".parse().unwrap()),
        ListenAddress::Ip("[::1]:5000".parse().unwrap()),
        ListenAddress::Unix("/tmp/s".into()),
    ];
    assert_eq!(world.config().listen, expected);
    let world = World::new(&["-L", "*:1", "-L", "fe80::1%eth0", "-L", "[fe80::1%eth0]:2", "-L", "10.1.2.3:0"]);
    let texts: Vec<_> = world.config().listen.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["*:1", "[fe80::1%eth0]:4730", "[fe80::1%eth0]:2", "10.1.2.3:0"]);
    let error = World::new(&["-L", "127.0.0.1", "-L", "127.0.0.1:4730"]).error();
    assert_parts(&error, &["command line", "127.0.0.1:4730 twice"]);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let world =
        World::new(&["-q", "libdrizzle"]).variable("GEARMAND_THREADS", "many").file("c", "--prot=1\n--backlog=x");
    assert_eq!(world.errors().len(), 4, "{:#?}", world.errors());
}

#[test]
fn what_kubernetes_injects_is_ignored_with_a_notice() {
    let world = World::new(&[])
        .variable("GEARMAND_PORT", "tcp://10.0.0.1:4730")
        .variable("GEARMAND_PORT_4730_TCP", "tcp://10.0.0.1:4730")
        .variable("GEARMAND_PORT_4730_TCP_PROTO", "tcp")
        .variable("GEARMAND_PORT_4730_TCP_PORT", "4730")
        .variable("GEARMAND_PORT_4730_TCP_ADDR", "10.0.0.1")
        .variable("GEARMAND_SERVICE_HOST", "10.0.0.1")
        .variable("GEARMAND_SERVICE_PORT", "4730")
        .variable("GEARMAND_SERVICE_PORT_GEAR", "4730")
        .variable("GEARMAND_HTTP_PORT", "tcp://10.0.0.1:8080")
        .variable("GEARMAND_VERBOSE", "notice");
    assert_eq!(world.config().listen, [ListenAddress::All { port: 4730 }]);
    assert_eq!(world.config().log.verbose, Level::Notice);
    let warnings = world.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_parts(&warnings[0], &["Kubernetes", "GEARMAND_PORT,", "GEARMAND_SERVICE_PORT_GEAR", "GEARMAND_HTTP_PORT"]);
}

#[test]
fn variables_are_checked_and_misspelt_ones_mentioned() {
    let error = World::new(&[]).variable("GEARMAND_PORT", "70000").error();
    assert_parts(&error, &["environment GEARMAND_PORT", "`70000`", "from 0 to 65535"]);
    let empty_or_foreign = World::new(&[]).variable("GEARMAND_USER", "").variable("GEARMAN_PORT", "x");
    assert_eq!(empty_or_foreign.config(), World::new(&[]).config());
    assert!(empty_or_foreign.warnings().is_empty());
    let misspelt = World::new(&[]).variable("GEARMAND_PROT", "1").warnings();
    assert_parts(&misspelt[0], &["GEARMAND_PROT", "nearest name is `GEARMAND_PORT`"]);
    assert_parts(&World::new(&[]).variable("GEARMAND_CHECK", "1").warnings()[0], &["GEARMAND_CHECK", "ignored"]);
    let tls = World::new(&[]).variable("GEARMAND_SERVER_PEM", "/tmp/pem").warnings();
    assert_parts(&tls[0], &["GEARMAND_SERVER_PEM", "--ssl-certificate", "no effect"]);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let error = World::new(&["--max-packet-size", "2g"]).error();
    assert_parts(
        &error,
        &["command line", "max-output-buffer (1 GiB)", "max-packet-size (2 GiB)", "raise max-output-buffer"],
    );
    World::new(&["--max-packet-size", "2g", "--max-output-buffer=2GiB"]).config();
    let warnings = World::new(&["-d", "-l", "stderr"]).warnings();
    assert_parts(&warnings[0], &["--daemon", "--log-file stderr"]);
    assert_parts(&World::new(&["-j0"]).warnings()[0], &["--job-retries 0", "means no limit", "write 1"]);
}

#[test]
fn the_http_plugin_listens_on_the_tcp_addresses_with_a_port_of_its_own() {
    let options = ["-r", "http", "-L", "127.0.0.1", "-L", "127.0.0.1:4731", "-L", "unix:/tmp/s", "-L", "*"];
    let addresses = |options: &[&str]| World::new(options).config().http_plugin_addresses();
    let ip = ListenAddress::Ip("127.0.0.1:8080".parse().unwrap());
    assert_eq!(addresses(&options), [ip, ListenAddress::All { port: 8080 }]);
    assert_eq!(addresses(&["-r", "http", "--http-port", "81"]), [ListenAddress::All { port: 81 }]);
    assert_eq!(addresses(&[]), []);
    assert_parts(&World::new(&["--http-port=81"]).warnings()[0], &["--http-port", "without --protocol http"]);
    let error = World::new(&["-r", "http", "--http-port=4730"]).error();
    assert_parts(&error, &["command line", "*:4730", "another --http-port"]);
    assert_parts(&World::new(&["-r", "http", "-L", "unix:/tmp/s"]).error(), &["only UNIX sockets", "add an address"]);
    assert!(World::new(&["-r", "http", "--port=0", "--http-port=0"]).warnings().is_empty());
}

#[test]
fn a_service_name_is_a_port() {
    let services = fs::read_to_string("/etc/services").unwrap();
    let known = services.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        (!name.starts_with('#')).then(|| (name.to_owned(), port.parse::<u16>().unwrap()))
    });
    let (name, port) = known.expect("/etc/services names a TCP service");
    assert_eq!(World::new(&["-p", &name]).config().listen, [ListenAddress::All { port }]);
}

#[test]
fn the_report_is_a_configuration_file_with_origins() {
    for option in ["--check", "--check-args"] {
        let options = [option, "-L", "localhost", "--mysql-password", "secret", "--job-handle-prefix", "a\"b"];
        let resolved = World::new(&options).variable("GEARMAND_THREADS", "2").resolved();
        assert!(resolved.config.check);
        let report = resolved.report();
        assert_parts(
            &report,
            &[
                "listen = [\"localhost\"] # command line\n",
                "port = 4730 # default\n",
                "threads = 2 # environment GEARMAND_THREADS\n",
                "max-packet-size = \"64MiB\" # default\n",
                "mysql-password = \"***\" # command line\n",
                "# user is not set\n",
            ],
        );
        assert!(!report.contains("secret"));
        let again = World::new(&[option]).file("report.toml", &report).config();
        assert_eq!(again, resolved.config);
    }
}

#[test]
fn a_reload_applies_what_it_can_and_names_the_rest() {
    let resolved = |text: &str| World::new(&["--port=1", "-j", "2"]).file("c.toml", text).resolved();
    let running = resolved("verbose = 'error'\nbacklog = 7");
    let fresh = resolved("verbose = 'debug'\nbacklog = 8\n[max]\nconnections = 9");
    let reload = running.reload_from(&fresh).unwrap();
    assert_eq!(reload.changed, ["verbose", "max-connections"]);
    assert_eq!(reload.needs_restart, ["backlog"]);
    let config = &reload.resolved.config;
    assert_eq!((config.log.verbose, config.limits.max_connections, config.network.backlog), (Level::Debug, 9, 7));
    assert_eq!(config.jobs.job_retries, Some(2));
    let again = reload.resolved.reload_from(&fresh).unwrap();
    assert!(again.changed.is_empty(), "{:?}", again.changed);
    assert_eq!(again.needs_restart, ["backlog"]);
}

#[test]
fn reloadable_settings_exist() {
    let settings = World::new(&[]).resolved().settings();
    for name in RELOADABLE {
        assert!(settings.iter().any(|setting| setting.name == *name), "{name}");
    }
}

#[test]
fn help_and_version_are_printed_without_a_server() {
    for (option, part) in [("-h", "--worker-wakeup"), ("--help", "--libmemcached-servers"), ("-V", "gearmand ")] {
        let answer = config::command().try_get_matches_from(["gearmand", option]).expect_err(option);
        assert_eq!(answer.exit_code(), 0);
        assert!(answer.to_string().contains(part), "{option}: {answer}");
    }
    assert!(config::command().try_get_matches_from(["gearmand", "word"]).is_err());
    assert!(config::command().try_get_matches_from(["gearmand", "--por=1"]).is_err());
}
