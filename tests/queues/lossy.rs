//! A connection between the server and its database that is cut at the worst moment: the database has kept
//! the jobs, and the server does not hear of it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a request contains that makes changes final, in each of the databases.
const FINAL: [&[u8]; 2] = [b"COMMIT", b"EXEC"];

/// Hands on what the server and the database say to each other.
pub(crate) struct Lossy {
    port: u16,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    is_losing: AtomicBool,
    /// How often it was cut.
    cuts: AtomicU64,
    /// The server's ends of all connections.
    servers: Mutex<Vec<TcpStream>>,
}

impl Lossy {
    /// Stands in for the database of these options. Returns the options with which it is reached here.
    pub(crate) fn before(options: &[String]) -> (Self, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let lossy = Self { port, line: Arc::default() };
        let mut database = None;
        let options = options.iter().map(|option| lossy.stand_in(option, &mut database)).collect();
        let (database, line) = (database.expect("an option that says where it is"), Arc::clone(&lossy.line));
        thread::spawn(move || {
            for server in listener.incoming().map_while(Result::ok) {
                // One that cannot be connected is closed.
                let _ = database.serve(server, &line);
            }
        });
        (lossy, options)
    }

    /// The option, with this place for that of the database.
    fn stand_in(&self, option: &str, database: &mut Option<Address>) -> String {
        for name in ["--redis-port=", "--mysql-port="] {
            if let Some(port) = option.strip_prefix(name) {
                *database = Some(Address::Port(port.parse().expect("a port")));
                return format!("{name}{}", self.port);
            }
        }
        let name = "--libpq-conninfo=";
        if let Some((directory, rest)) =
            option.strip_prefix(name).and_then(|info| info["host=".len()..].split_once(' '))
        {
            *database = Some(Address::Socket(format!("{directory}/.s.PGSQL.5432")));
            return format!("{name}host=127.0.0.1 port={} {rest}", self.port);
        }
        option.to_owned()
    }

    /// From now on nothing is heard of the database after a request that makes changes final.
    pub(crate) fn lose(&self) {
        self.line.is_losing.store(true, Ordering::SeqCst);
    }

    /// Cuts all connections, as a network would: the server notices, the database does not. New ones lose
    /// nothing.
    pub(crate) fn cut(&self) {
        self.line.cuts.fetch_add(1, Ordering::SeqCst);
        self.line.is_losing.store(false, Ordering::SeqCst);
        for server in self.line.servers.lock().expect("the connections").drain(..) {
            // It may have ended by itself.
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}

/// Where the database is.
enum Address {
    Port(u16),
    Socket(String),
}

impl Address {
    /// Hands on all of one connection, in threads of its own.
    fn serve(&self, server: TcpStream, line: &Arc<Line>) -> io::Result<()> {
        match self {
            Self::Port(port) => {
                let database = TcpStream::connect(("127.0.0.1", *port))?;
                database.set_nodelay(true)?;
                let close = database.try_clone()?;
                hand_on(server, database.try_clone()?, database, move || close.shutdown(Shutdown::Both), line)
            }
            Self::Socket(path) => {
                let database = UnixStream::connect(path)?;
                let close = database.try_clone()?;
                hand_on(server, database.try_clone()?, database, move || close.shutdown(Shutdown::Both), line)
            }
        }
    }
}

fn hand_on(
    server: TcpStream,
    mut from_database: impl Read + Send + 'static,
    mut to_database: impl Write + Send + 'static,
    close: impl FnOnce() -> io::Result<()> + Send + 'static,
    line: &Arc<Line>,
) -> io::Result<()> {
    server.set_nodelay(true)?;
    line.servers.lock().expect("the connections").push(server.try_clone()?);
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    let (line, is_final) = (Arc::clone(line), Arc::new(AtomicBool::new(false)));
    let (was_final, cuts) = (Arc::clone(&is_final), line.cuts.load(Ordering::SeqCst));
    thread::spawn(move || {
        pump(&mut from_server, &mut to_database, |bytes| {
            let has = |word: &&[u8]| bytes.windows(word.len()).any(|part| part == *word);
            if line.is_losing.load(Ordering::SeqCst) && FINAL.iter().any(has) {
                is_final.store(true, Ordering::SeqCst);
            }
            true
        });
        if line.cuts.load(Ordering::SeqCst) == cuts {
            // Fails where it is closed already, here as below.
            let _ = close();
        }
    });
    thread::spawn(move || {
        pump(&mut from_database, &mut to_server, |_| !was_final.load(Ordering::SeqCst));
        let _ = to_server.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Hands on what comes and may pass, to the end.
fn pump(from: &mut impl Read, to: &mut impl Write, may_pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(size) = from.read(&mut buffer) {
        let bytes = &buffer[..size];
        if size == 0 || may_pass(bytes) && to.write_all(bytes).is_err() {
            return;
        }
    }
}
