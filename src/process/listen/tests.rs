use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::*;

const BACKLOG: i32 = 32;

fn target(host: &str, port: u16) -> TcpTarget {
    TcpTarget { host: Some(host.to_owned()), port }
}

const ALL: TcpTarget = TcpTarget { host: None, port: 0 };

fn bound(tcp: &[TcpTarget]) -> Listeners {
    Listeners::bind(tcp, &[], BACKLOG).unwrap()
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// Both ends of a connection that the listener has accepted.
fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(("127.0.0.1", port_of(listener))).unwrap();
    listener.set_nonblocking(false).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

#[test]
fn all_addresses_share_a_free_port_and_both_families_answer() {
    let listeners = bound(&[ALL]);
    assert_eq!(listeners.tcp.len(), 2, "{:?}", listeners.notices);
    let port = port_of(&listeners.tcp[0]);
    assert_eq!(listeners.addresses(), [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    for address in ["127.0.0.1", "::1"] {
        TcpStream::connect((address, port)).unwrap();
    }
}

#[test]
fn several_targets_share_a_port_and_listen_once_each() {
    let listeners = bound(&[target("127.0.0.1", 0), target("[::1]", 0), target("127.0.0.1", 0)]);
    let port = port_of(&listeners.tcp[0]);
    assert_eq!(listeners.addresses(), [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
}

#[test]
fn a_wildcard_includes_the_addresses_of_its_family() {
    let listeners = bound(&[target("127.0.0.1", 0), target("0.0.0.0", 0), target("::1", 0)]);
    let port = port_of(&listeners.tcp[0]);
    assert_eq!(listeners.addresses(), [format!("0.0.0.0:{port}"), format!("[::1]:{port}")]);
}

#[test]
fn a_port_in_use_is_reported_at_once_with_the_address() {
    let first = bound(&[target("127.0.0.1", 0)]);
    let port = port_of(&first.tcp[0]);
    let start = std::time::Instant::now();
    let error = Listeners::bind(&[target("::1", 0), target("127.0.0.1", port)], &[], BACKLOG).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(matches!(error, ListenError::InUse(_)));
    let text = error.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{port}")) && text.contains(&format!("ss -ltnp 'sport = :{port}'")),
        "{text}"
    );
}

#[test]
fn an_address_of_another_host_and_an_unknown_name_are_errors() {
    // 192.0.2.0/24 is reserved for documentation.
    let error = Listeners::bind(&[target("192.0.2.1", 0)], &[], BACKLOG).unwrap_err();
    assert!(matches!(error, ListenError::Tcp { .. }) && error.to_string().contains("192.0.2.1"), "{error}");
    let error = Listeners::bind(&[target("no..host", 0)], &[], BACKLOG).unwrap_err();
    assert!(matches!(error, ListenError::Resolve { .. }) && error.to_string().contains("no..host"), "{error}");
}

/// Binds with a fake system call. Returns the addresses that were requested as well.
fn with_fake(
    targets: &[TcpTarget],
    fake: impl Fn(SocketAddr, usize) -> io::Result<()>,
) -> (Result<Listeners, ListenError>, Vec<SocketAddr>) {
    let asked = RefCell::new(Vec::new());
    let mut listeners = Listeners::default();
    let result = listeners.bind_candidates(&candidates(targets).unwrap(), |address| {
        asked.borrow_mut().push(address);
        fake(address, asked.borrow().len())?;
        bind_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), BACKLOG)
    });
    (result.map(|()| listeners), asked.into_inner())
}

fn system_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[test]
fn a_host_without_ipv6_listens_on_ipv4_and_says_so() {
    for code in [EAFNOSUPPORT, EADDRNOTAVAIL] {
        let without_ipv6 = |address: SocketAddr, _| {
            if address.is_ipv6() { Err(system_error(code)) } else { Ok(()) }
        };
        let listeners = with_fake(&[ALL], without_ipv6).0.unwrap();
        assert_eq!(listeners.tcp.len(), 1);
        assert!(listeners.notices.len() == 1 && listeners.notices[0].contains("[::]"), "{:?}", listeners.notices);
        assert!(with_fake(&[ALL, target("::1", 0)], without_ipv6).0.is_ok(), "[::1] is part of all addresses");
        assert!(
            with_fake(&[target("127.0.0.1", 0), target("::1", 0)], without_ipv6).0.is_err(),
            "an address asked for by name is not left out"
        );
    }
}

#[test]
fn another_port_is_tried_when_the_first_choice_is_taken_elsewhere() {
    let (result, asked) =
        with_fake(
            &[ALL],
            |address, call| {
                if address.is_ipv6() && call <= 4 { Err(system_error(EADDRINUSE)) } else { Ok(()) }
            },
        );
    assert_eq!(result.unwrap().tcp.len(), 2);
    assert_eq!(asked.len(), 6, "two failures, then both: {asked:?}");
    let (result, asked) = with_fake(&[ALL], |address, _| {
        if address.is_ipv6() && address.port() != 0 { Err(system_error(EADDRINUSE)) } else { Ok(()) }
    });
    assert_eq!(result.unwrap().tcp.len(), 2, "different ports at last");
    assert_eq!(asked.len(), 2 * SHARED_PORT_TRIES + 2);
}

#[test]
fn a_restart_right_after_stop_gets_the_port_back() {
    let listeners = bound(&[target("127.0.0.1", 0)]);
    let port = port_of(&listeners.tcp[0]);
    let (mut client, mut server) = connected(&listeners.tcp[0]);
    server.write_all(b"x").unwrap();
    // The server closes first, so its port is left in TIME_WAIT.
    server.shutdown(std::net::Shutdown::Write).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    drop(client);
    server.read_to_end(&mut Vec::new()).unwrap();
    drop(server);
    drop(listeners);

    let plain = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert!(
        plain.bind(&address.into()).is_err(),
        "without SO_REUSEADDR the port is taken, or this test proves nothing"
    );
    assert_eq!(port_of(&bound(&[target("127.0.0.1", port)]).tcp[0]), port);
}

#[test]
fn accepted_sockets_are_tuned() {
    let listeners = bound(&[target("127.0.0.1", 0)]);
    let (_client, server) = connected(&listeners.tcp[0]);
    let keep_alive = KeepAlive {
        idle: Some(Duration::from_secs(33)),
        interval: Some(Duration::from_secs(7)),
        count: Some(5),
        user_timeout: Some(Duration::from_millis(4_321)),
    };
    tune(&server, &keep_alive).unwrap();
    let socket = SockRef::from(&server);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    let idle = socket.tcp_keepalive_time().unwrap();
    assert!((17..=33).contains(&idle.as_secs()), "{idle:?}");
    assert_eq!(Some(socket.tcp_keepalive_interval().unwrap()), keep_alive.interval);
    assert_eq!(Some(socket.tcp_keepalive_retries().unwrap()), keep_alive.count);
    // At least as long as all probes take.
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(33 + 5 * 7)));
    assert_eq!(socket.linger().unwrap(), None);
}

#[test]
fn first_probes_are_spread_over_half_of_their_time() {
    let times = |longest: u64| -> Vec<u64> {
        (0..50).map(|number| first_probe(Duration::from_secs(longest), number).as_secs()).collect()
    };
    assert_eq!(times(1), [1; 50]);
    for (longest, shortest) in [(2, 1), (5, 3), (20, 10)] {
        let times = times(longest);
        for time in shortest..=longest {
            assert!(times.contains(&time), "{time} of {longest}");
        }
        assert!(times.iter().all(|time| (shortest..=longest).contains(time)), "{times:?}");
    }
}

#[test]
fn what_is_left_to_the_kernel_is_not_touched() {
    let listeners = bound(&[target("127.0.0.1", 0)]);
    let (client, server) = connected(&listeners.tcp[0]);
    tune(&server, &KeepAlive::default()).unwrap();
    let (untouched, socket) = (SockRef::from(&client), SockRef::from(&server));
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), untouched.tcp_keepalive_time().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), None);
}

struct Scratch {
    directory: tempfile::TempDir,
    target: UnixTarget,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gearmand.socket");
    Scratch { directory, target: UnixTarget { path, mode: 0o660, owner: None } }
}

fn bind_unix(target: &UnixTarget) -> Result<Listeners, ListenError> {
    Listeners::bind(&[], std::slice::from_ref(target), BACKLOG)
}

#[test]
fn a_unix_socket_has_its_mode_and_goes_when_the_server_does() {
    let scratch = scratch();
    let path = &scratch.target.path;
    for mode in [0o600, 0o666, 0o660] {
        let target = UnixTarget { mode, ..scratch.target.clone() };
        let listeners = bind_unix(&target).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        assert_eq!(listeners.addresses(), [format!("unix:{}", path.display())]);
        UnixStream::connect(path).unwrap();
        drop(listeners);
        assert!(!path.exists());
    }
}

#[test]
fn a_unix_socket_belongs_to_whom_it_is_given() {
    let scratch = scratch();
    let mine = fs::metadata(scratch.directory.path()).unwrap();
    let owner = if mine.uid() == 0 { (65_534, 65_533) } else { (mine.uid(), mine.gid()) };
    let target = UnixTarget { owner: Some(owner), ..scratch.target };
    let _listeners = bind_unix(&target).unwrap();
    let found = fs::metadata(&target.path).unwrap();
    assert_eq!((found.uid(), found.gid()), owner);
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_living_one_is_not() {
    let scratch = scratch();
    let path = &scratch.target.path;
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists(), "std leaves the file");
    let first = bind_unix(&scratch.target).unwrap();
    let error = bind_unix(&scratch.target).unwrap_err();
    assert!(matches!(error, ListenError::UnixInUse(_)), "{error}");
    UnixStream::connect(path).unwrap();
    drop(first);
    bind_unix(&scratch.target).unwrap();
}

#[test]
fn a_living_unix_socket_with_a_full_backlog_is_in_use() {
    let scratch = scratch();
    let path = &scratch.target.path;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(path).unwrap();
    socket.bind(&address).unwrap();
    socket.listen(0).unwrap();
    let _waiting = UnixStream::connect(path).unwrap();
    let error = bind_unix(&scratch.target).unwrap_err();
    assert!(matches!(error, ListenError::UnixInUse(_)), "{error}");
}

#[test]
fn other_files_and_other_sockets_are_left_alone() {
    let scratch = scratch();
    let path = &scratch.target.path;
    fs::write(path, "precious").unwrap();
    assert!(matches!(bind_unix(&scratch.target), Err(ListenError::NotASocket(_))));
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    fs::remove_file(path).unwrap();
    let _datagram = UnixDatagram::bind(path).unwrap();
    assert!(matches!(bind_unix(&scratch.target), Err(ListenError::Unix { .. })));
    let too_long = UnixTarget { path: scratch.directory.path().join("x".repeat(200)), ..scratch.target.clone() };
    assert!(bind_unix(&too_long).is_err());
}

#[test]
fn the_socket_of_a_successor_is_not_removed() {
    let scratch = scratch();
    let path = &scratch.target.path;
    let first = bind_unix(&scratch.target).unwrap();
    fs::remove_file(path).unwrap();
    let _second = bind_unix(&scratch.target).unwrap();
    drop(first);
    UnixStream::connect(path).unwrap();
}
