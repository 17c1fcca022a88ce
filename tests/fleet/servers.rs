//! A fleet that works for several servers.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Implementation, Program, Server, Wire, packet};
use crate::world::{PATIENCE, doing, workers};

/// Has a job done through this server alone.
#[track_caller]
fn reversed(server: &Server, text: &str) -> String {
    let mut client = Wire::connect(server.addr());
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(packet::SUBMIT_JOB, &packet::body(&[b"reverse", b"", text.as_bytes()]));
    let handle = client.expect_type(packet::JOB_CREATED);
    let result = client.expect_type(packet::WORK_COMPLETE);
    String::from_utf8(result[handle.len() + 1..].to_vec()).unwrap().trim_end().to_owned()
}

pub(crate) fn a_fleet_of_two_servers_outlives_one(implementation: Implementation) {
    let mut first = match implementation {
        Implementation::Ours => Server::ours(&[]),
        Implementation::Debian => Server::debian(&[]),
    };
    let second = Server::ours(&[]);
    let servers = format!("{},{}", first.addr(), second.addr());
    let tool = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
        command.args(arguments).env("GEARMAN_SERVERS", &servers).env("FLEET_NAME", "two");
        command
    };
    let keepers = ["web1", "web2"].map(|host| {
        let work = ["work", "--managed", "--workers", "2", "--host-name", host, "-f", "reverse=rev", "-f", "other=cat"];
        Program::start(&mut tool(&work))
    });
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fleet.toml");
    let wanted = "fleet = \"two\"\ninterval = \"300ms\"\n[functions.reverse]\nmin = 2\n[functions.other]\nmin = 1\n";
    std::fs::write(&path, wanted).unwrap();
    let _monitor = Program::start(&mut tool(&["fleet", "run", path.to_str().unwrap()]));
    let settled = |what: &str| -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = tool(&["fleet", "--json", "status"]).output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let is_so = doing(&status, "reverse") == 2 && doing(&status, "other") == 1;
            if status["settled"] == true && is_so && workers(&status).len() == 4 {
                return status;
            }
            assert!(Instant::now() < end, "not so within {PATIENCE:?}: {what}\n{status}");
        }
    };
    let ids = |status: &Value| -> BTreeSet<String> {
        workers(status).iter().map(|worker| worker["id"].to_string()).collect()
    };
    let before = settled("both have what is wanted");
    for server in [&first, &second] {
        assert_eq!(reversed(server, "abc"), "cba");
    }
    first.kill();
    assert_eq!(ids(&settled("the other one is enough")), ids(&before));
    assert_eq!(reversed(&second, "def"), "fed");
    first.restart();
    assert_eq!(reversed(&first, "ghi"), "ihg");
    assert_eq!(ids(&settled("nobody was started or ended for it")), ids(&before));
    drop(keepers);
}
