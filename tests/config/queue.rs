//! The options of queues: which queue they name, what is said where one has no effect, and that passwords
//! stay hidden.

use std::time::Duration;

use gearmand::config::{DurabilityLevel, QueueChoice};

use crate::{World, assert_parts};

#[test]
fn without_an_option_the_queue_is_the_default_one() {
    let config = World::new(&[]).config();
    assert_eq!(config.queue, QueueChoice::Default);
    assert_eq!(
        (config.durability.level, config.durability.interval),
        (DurabilityLevel::Always, Duration::from_millis(50))
    );
    assert!(config.function_durability.is_empty());
    assert_eq!(config.limits.max_workload_memory, None);
}

#[test]
fn queues_are_named_as_gearmand_names_them() {
    let queue = |options: &str| World::new(&options.split_whitespace().collect::<Vec<_>>()).config().queue;
    for name in ["builtin", "Builtin", "BUILTIN"] {
        assert_eq!(World::new(&["-q", name]).config().queue, QueueChoice::Builtin);
    }
    let table = "gearman_queue".to_owned();
    assert_eq!(
        queue("--queue-type=LIBSQLITE3"),
        QueueChoice::Sqlite { path: None, table: table.clone(), keep_primary_key: false }
    );
    assert_eq!(
        queue("-q libsqlite3 --libsqlite3-db /tmp/q --libsqlite3-table t --sqlite-keep-primary-key"),
        QueueChoice::Sqlite { path: Some("/tmp/q".into()), table: "t".to_owned(), keep_primary_key: true }
    );
    assert_eq!(
        queue("-q postgres --libpq-conninfo host=h"),
        QueueChoice::Postgres { conninfo: "host=h".to_owned().into(), table: "queue".to_owned() }
    );
    assert_eq!(
        queue("-q mysql --mysql-db d"),
        QueueChoice::Mysql {
            host: "localhost".to_owned(),
            port: 3306,
            user: None,
            password: String::new().into(),
            database: "d".to_owned(),
            table
        }
    );
    assert_eq!(
        queue("-q Redis --redis-port 1 --redis-password p"),
        QueueChoice::Redis {
            host: "127.0.0.1".to_owned(),
            port: 1,
            password: "p".to_owned().into(),
            prefix: "_gear_".to_owned()
        }
    );
}

#[test]
fn queues_that_cannot_be_had_name_the_way_out() {
    for (options, parts) in [
        (
            ["-q", "libmemcached"],
            vec!["command line", "libmemcached", "this queue type was removed", "USR1", "libsqlite3, Postgres"],
        ),
        (["-q", "LibTokyoCabinet"], vec!["LibTokyoCabinet", "this queue type was removed", "leave the option out"]),
        (["-q", "libdrizzle"], vec!["this queue type was removed"]),
        (["-q", "mariadb"], vec!["no such queue", "write MySQL, or"]),
        (
            ["-q", "sqlite"],
            vec!["no such queue", "write libsqlite3, or", "builtin, libsqlite3, Postgres, MySQL, redis"],
        ),
        (["-q", "Postgres"], vec!["command line", "--libpq-conninfo"]),
        (["-q", "MySQL"], vec!["command line", "--mysql-db"]),
    ] {
        assert_parts(&World::new(&options).error(), &parts);
    }
    let error = World::new(&[]).file("c.toml", "\nqueue-type = 'libdrizzle'").error();
    assert_parts(&error, &["c.toml:2", "this queue type was removed"]);
}

#[test]
fn options_of_another_queue_are_mentioned() {
    let warnings = World::new(&["--libpq-conninfo", "host=h"]).warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_parts(&warnings[0], &["command line", "--libpq-conninfo has no effect without --queue-type Postgres"]);
    let world = World::new(&["-q", "REDIS", "--redis-prefix=x"]).variable("GEARMAND_MYSQL_DB", "d");
    assert_eq!(world.warnings().len(), 1, "{:?}", world.warnings());
    assert_parts(&world.warnings()[0], &["GEARMAND_MYSQL_DB", "--mysql-db", "--queue-type MySQL"]);
    let warnings = World::new(&["-q", "libsqlite3", "--store-queue-on-shutdown"]).warnings();
    assert_parts(&warnings[0], &["--store-queue-on-shutdown has no effect any more", "stored as they come"]);
    let warnings = World::new(&["-q", "builtin", "--durability=off"]).warnings();
    assert_parts(&warnings[0], &["--durability has no effect", "builtin"]);
}

#[test]
fn secrets_are_neither_reported_nor_printed() {
    let options = "-q MySQL --mysql-db d --mysql-password swordfish --redis-password=swordfish \
        --libpq-conninfo=password=swordfish";
    let resolved = World::new(&options.split_whitespace().collect::<Vec<_>>()).resolved();
    let report = resolved.report();
    assert_parts(&report, &["mysql-password = \"***\"", "redis-password = \"***\"", "libpq-conninfo = \"***\""]);
    for text in [report, format!("{:?}", resolved.config), resolved.warnings.join("\n")] {
        assert!(!text.contains("swordfish"), "{text}");
    }
    let error = World::new(&[]).file("c.toml", "mysql-password = 7.5").error();
    assert!(!error.contains("7.5"), "{error}");
}

#[test]
fn durability_is_set_for_all_and_for_functions() {
    let text = "durability = 'interval:2s'\nfunction-durability = ['mail=always', 'a=b=off']\n\
        max-workload-memory = '1GiB'";
    let config = World::new(&[]).file("c.toml", text).config();
    assert_eq!(
        (config.durability.level, config.durability.interval),
        (DurabilityLevel::Interval, Duration::from_secs(2))
    );
    let levels: Vec<_> =
        config.function_durability.iter().map(|of| (of.function.as_bytes().to_vec(), of.level)).collect();
    assert_eq!(levels, [(b"mail".to_vec(), DurabilityLevel::Always), (b"a=b".to_vec(), DurabilityLevel::Off)]);
    assert_eq!(config.limits.max_workload_memory, Some(1 << 30));
    let config = World::new(&[]).variable("GEARMAND_FUNCTION_DURABILITY", "a=off, b=interval").config();
    assert_eq!(config.function_durability.len(), 2);
    let error = World::new(&["--function-durability=a=off", "--function-durability=a=always"]).error();
    assert_parts(&error, &["command line", "function-durability names a twice"]);
    for (text, parts) in [
        ("durability = 'fast'", ["c.toml:1", "`fast`", "interval:50ms"]),
        ("durability = 'always:1s'", ["c.toml:1", "only interval has a time", "write always"]),
        ("function-durability = 'mail=interval:1s'", ["c.toml:1", "`mail=interval:1s`", "--durability interval:TIME"]),
        ("max-workload-memory = '1k'", ["c.toml:1", "`1k`", "from 1 MiB"]),
        ("mysql-port = 0", ["c.toml:1", "`0`", "from 1 to 65535"]),
    ] {
        assert_parts(&World::new(&[]).file("c.toml", text).error(), &parts);
    }
}

#[test]
fn durability_and_the_memory_limit_are_reloaded_and_the_queue_is_not() {
    let resolved = |text: &str| World::new(&[]).file("c.toml", text).resolved();
    let running = resolved("queue-type = 'libsqlite3'");
    let text = "queue-type = 'builtin'\ndurability = 'off'\nfunction-durability = ['a=always']\n\
        max-workload-memory = '1m'";
    let reload = running.reload_from(&resolved(text)).unwrap();
    assert_eq!(reload.changed, ["durability", "function-durability", "max-workload-memory"]);
    assert_eq!(reload.needs_restart, ["queue-type"]);
    let config = &reload.resolved.config;
    assert!(matches!(config.queue, QueueChoice::Sqlite { .. }));
    assert_eq!((config.durability.level, config.function_durability.len()), (DurabilityLevel::Off, 1));
    // What is no longer set goes back to its default.
    let again = reload.resolved.reload_from(&running).unwrap();
    assert!(again.resolved.config.function_durability.is_empty(), "{:?}", again.resolved.config);
}
