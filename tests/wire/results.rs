//! What workers say of the jobs that they hold, and who hears it.

use crate::common::grab_nothing;
use crate::common::packet::{self, body};
use crate::roles::{complete, completed, connect, grab, server, status, submit, submit_plain, text, worker};

#[test]
fn data_warnings_and_progress_reach_every_client_in_their_order() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let mut clients = [(); 3].map(|()| connect(&server));
    let handle = submit(&mut clients[0], packet::SUBMIT_JOB, "f", "u", "");
    for client in &mut clients[1..] {
        submit(client, packet::SUBMIT_JOB, "f", "u", "");
    }
    grab(&mut worker);
    let packets = [
        (packet::WORK_DATA, body(&[handle.as_bytes(), b"part 1"])),
        (packet::WORK_STATUS, body(&[handle.as_bytes(), b"1", b"3"])),
        (packet::WORK_WARNING, body(&[handle.as_bytes(), b"careful\0\n"])),
        (packet::WORK_DATA, body(&[handle.as_bytes(), b""])),
        (packet::WORK_STATUS, body(&[handle.as_bytes(), b"33.3", b"100 %"])),
        (packet::WORK_COMPLETE, body(&[handle.as_bytes(), b"the end"])),
    ];
    for (packet_type, body) in &packets {
        worker.send(*packet_type, body);
    }
    worker.expect_nothing();
    for client in &mut clients {
        for (packet_type, body) in &packets {
            client.expect(*packet_type, body);
        }
        client.expect_nothing();
    }
}

#[test]
fn progress_is_kept_with_the_job_and_asked_for_by_handle_and_unique() {
    let server = server(&[]);
    let [mut client, mut observer] = [(); 2].map(|()| connect(&server));
    let handle = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "u", "");
    assert_eq!(status(&mut observer, &handle), "1 0 0 0");
    let mut worker = worker(&server, &["f"]);
    grab(&mut worker);
    assert_eq!(status(&mut observer, &handle), "1 1 0 0");
    for (numerator, denominator, shown) in
        [("3", "10", "3 10"), ("33.3", "100", "33 100"), ("99999999999", "-1", "99999999999 0")]
    {
        worker.send(packet::WORK_STATUS, &body(&[handle.as_bytes(), numerator.as_bytes(), denominator.as_bytes()]));
        worker.expect_nothing();
        assert_eq!(status(&mut observer, &handle), format!("1 1 {shown}"));
        observer.send(packet::GET_STATUS_UNIQUE, b"u");
        let answer = text(observer.expect_type(packet::STATUS_RES_UNIQUE)).replace('\0', " ");
        assert_eq!(answer, format!("u 1 1 {shown} 0"));
    }
    complete(&mut worker, &handle, "");
    client.expect_nothing();
    assert_eq!(status(&mut observer, &handle), "0 0 0 0");
    observer.send(packet::GET_STATUS_UNIQUE, b"u");
    observer.expect(packet::STATUS_RES_UNIQUE, b"u\x000\x000\x000\x000\x000");
}

#[test]
fn a_handle_is_echoed_up_to_its_nul() {
    let server = server(&[]);
    let mut client = connect(&server);
    submit_plain(&mut client, "f", "");
    client.send(packet::GET_STATUS, b"H:t:1\0and more");
    client.expect(packet::STATUS_RES, b"H:t:1\x001\x000\x000\x000");
    for strange in ["H:t:01", "H:t:+1", "H:t:", "H:x:1", "h:t:1", "H:t:1 ", ""] {
        assert_eq!(status(&mut client, strange), "0 0 0 0", "{strange}");
    }
}

#[test]
fn a_failure_is_the_bare_handle() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    for terminator in ["", "\0"] {
        let handle = submit_plain(&mut client, "f", "");
        grab(&mut worker);
        worker.send(packet::WORK_FAIL, format!("{handle}{terminator}").as_bytes());
        client.expect(packet::WORK_FAIL, handle.as_bytes());
    }
    worker.expect_nothing();
}

#[test]
fn an_exception_is_for_those_who_asked_for_it_and_a_failure_for_the_others() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let [mut asked, mut not_asked] = [(); 2].map(|()| connect(&server));
    asked.send(packet::OPTION_REQ, b"Exceptions");
    asked.expect(packet::OPTION_RES, b"Exceptions");
    let handle = submit(&mut asked, packet::SUBMIT_JOB, "f", "u", "");
    submit(&mut not_asked, packet::SUBMIT_JOB, "f", "u", "");
    grab(&mut worker);
    let exception = body(&[handle.as_bytes(), b"reason\0with a NUL"]);
    worker.send(packet::WORK_EXCEPTION, &exception);
    asked.expect(packet::WORK_EXCEPTION, &exception);
    not_asked.expect(packet::WORK_FAIL, handle.as_bytes());
    // It has ended the job.
    worker.send(packet::WORK_FAIL, handle.as_bytes());
    worker.expect_error("JOB_NOT_FOUND");
    asked.expect_nothing();
    not_asked.expect_nothing();
}

#[test]
fn the_option_exceptions_of_the_server_is_for_every_client() {
    let server = server(&["--exceptions"]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    let handle = submit_plain(&mut client, "f", "");
    grab(&mut worker);
    worker.send(packet::WORK_EXCEPTION, &body(&[handle.as_bytes(), b"reason"]));
    client.expect(packet::WORK_EXCEPTION, &body(&[handle.as_bytes(), b"reason"]));
}

#[test]
fn only_the_holder_of_a_job_may_speak_of_it() {
    let server = server(&[]);
    let [mut holder, mut liar] = [(); 2].map(|()| worker(&server, &["f"]));
    let mut client = connect(&server);
    let queued = submit_plain(&mut client, "g", "");
    let handle = submit_plain(&mut client, "f", "");
    grab(&mut holder);
    for handle in [&handle, &queued, "H:t:99", "", "nonsense"] {
        for (packet_type, arguments) in [
            (packet::WORK_STATUS, &[handle.as_bytes(), b"1", b"2"][..]),
            (packet::WORK_DATA, &[handle.as_bytes(), b"x"]),
            (packet::WORK_WARNING, &[handle.as_bytes(), b"x"]),
            (packet::WORK_COMPLETE, &[handle.as_bytes(), b"x"]),
            (packet::WORK_EXCEPTION, &[handle.as_bytes(), b"x"]),
            (packet::WORK_FAIL, &[handle.as_bytes()]),
        ] {
            liar.send(packet_type, &body(arguments));
            liar.expect_error("JOB_NOT_FOUND");
        }
    }
    client.expect_nothing();
    complete(&mut holder, &handle, "true");
    completed(&mut client, &handle, "true");
}

#[test]
fn a_reducer_is_seen_by_those_who_ask_for_all() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    for packet_type in [packet::SUBMIT_REDUCE_JOB, packet::SUBMIT_REDUCE_JOB_BACKGROUND] {
        for (grab, assign, arguments) in [
            (packet::GRAB_JOB, packet::JOB_ASSIGN, &[&b"f"[..], b"w\0w"][..]),
            (packet::GRAB_JOB_UNIQ, packet::JOB_ASSIGN_UNIQ, &[b"f", b"u", b"w\0w"]),
            (packet::GRAB_JOB_ALL, packet::JOB_ASSIGN_ALL, &[b"f", b"u", b"red", b"w\0w"]),
        ] {
            client.send(packet_type, b"f\0u\0red\0ignored\0w\0w");
            let handle = client.expect_type(packet::JOB_CREATED);
            worker.send(grab, b"");
            worker.expect(assign, &body(&[&[&handle[..]], arguments].concat()));
            worker.send(packet::WORK_FAIL, &handle);
            // The next submission must not join this job.
            worker.expect_nothing();
            if packet_type == packet::SUBMIT_REDUCE_JOB {
                client.expect(packet::WORK_FAIL, &handle);
            }
        }
    }
    client.send(packet::SUBMIT_REDUCE_JOB, b"f\0u\0\0\0w");
    let handle = client.expect_type(packet::JOB_CREATED);
    worker.send(packet::GRAB_JOB_ALL, b"");
    worker.expect(packet::JOB_ASSIGN_UNIQ, &body(&[&handle, b"f", b"u", b"w"]));
}

#[test]
fn a_worker_holds_as_many_jobs_as_it_may() {
    let server = server(&["--max-jobs-per-connection", "2"]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    let handles: Vec<String> = (0..3).map(|_| submit_plain(&mut client, "f", "")).collect();
    assert_eq!([grab(&mut worker).handle, grab(&mut worker).handle], handles[..2]);
    grab_nothing(&mut worker);
    complete(&mut worker, &handles[1], "");
    assert_eq!(grab(&mut worker).handle, handles[2]);
}

#[test]
fn results_of_a_cancelled_job_are_ignored() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    let handle = submit_plain(&mut client, "f", "");
    grab(&mut worker);
    let mut operator = connect(&server);
    assert_eq!(operator.text(&format!("cancel job {handle}")), "OK\r\n");
    client.expect(packet::WORK_FAIL, handle.as_bytes());
    for packet_type in [packet::WORK_DATA, packet::WORK_COMPLETE] {
        worker.send(packet_type, &body(&[handle.as_bytes(), b"late"]));
    }
    worker.expect_nothing();
    client.expect_nothing();
    assert_eq!(operator.text(&format!("cancel job {handle}")), "ERR UNKNOWN_JOB\r\n");
}
