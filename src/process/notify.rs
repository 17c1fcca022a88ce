//! Service notifications (systemd's `Type=notify` protocol).
//!
//! A message is a datagram of `NAME=value` lines to the socket named in `NOTIFY_SOCKET`. Without that
//! variable all of this does nothing. Sending never blocks: a manager that does not read must not stop the
//! server.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The connection to the service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. Call it after the fork of `-d`: the
    /// watchdog is for one process id.
    ///
    /// # Errors
    /// When `NOTIFY_SOCKET` is not a valid socket address.
    pub fn from_environment() -> io::Result<Self> {
        let mut notifier = match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => Self::to(&name)?,
            _ => Self::default(),
        };
        notifier.watchdog = sd_notify::watchdog_enabled();
        Ok(notifier)
    }

    /// Sends to the socket of this name: a path, or `@` and the name of an abstract socket.
    ///
    /// # Errors
    /// When the name is too long for a socket address.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok(Self { address: Some(address), watchdog: None })
    }

    /// Reports that all listeners are bound: `READY=1`, and `STATUS=Listening on ADDRESS[, ADDRESS...]` with
    /// the addresses as given. Ends a reload, too.
    ///
    /// # Errors
    /// When the datagram cannot be sent, here and in all that follow.
    pub fn ready(&self, addresses: &[String]) -> io::Result<()> {
        let status = format!("Listening on {}", addresses.join(", "));
        self.send(&[NotifyState::Ready, NotifyState::Status(&one_line(&status))])
    }

    /// Sets the line for `systemctl status`.
    ///
    /// # Errors
    /// As [`Notifier::ready`].
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&[NotifyState::Status(&one_line(text))])
    }

    /// Reports that the process is ending.
    ///
    /// # Errors
    /// As [`Notifier::ready`].
    pub fn stopping(&self) -> io::Result<()> {
        self.send(&[NotifyState::Stopping])
    }

    /// Reports the beginning of a reload; [`Notifier::ready`] ends it. systemd requires a timestamp, to tell
    /// the end of this reload from that of an earlier one.
    ///
    /// # Errors
    /// As [`Notifier::ready`].
    pub fn reloading(&self) -> io::Result<()> {
        self.send(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
    }

    /// Sends the watchdog keepalive. Call it every [`Notifier::watchdog_interval`].
    ///
    /// # Errors
    /// As [`Notifier::ready`].
    pub fn watchdog(&self) -> io::Result<()> {
        self.send(&[NotifyState::Watchdog])
    }

    /// How often to send [`Notifier::watchdog`]: half of the manager's timeout. `None` when the manager does
    /// not watch this process.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|allowed| allowed / 2).filter(|interval| self.address.is_some() && !interval.is_zero())
    }

    fn send(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let Some(address) = &self.address else {
            return Ok(());
        };
        let mut message = String::new();
        for state in states {
            message.push_str(&state.to_string());
            message.push('\n');
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), address)?;
        Ok(())
    }
}

/// Replaces control characters: a line end in a status would start another variable.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Manager {
        socket: UnixDatagram,
        notifier: Notifier,
        _directory: tempfile::TempDir,
    }

    fn manager() -> Manager {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Manager { socket, notifier: Notifier::to(path.as_os_str()).unwrap(), _directory: directory }
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn readiness_names_the_addresses() {
        let manager = manager();
        manager.notifier.ready(&["127.0.0.1:4730".into(), "unix:/run/g\nFDSTORE=1".into()]).unwrap();
        assert_eq!(received(&manager.socket), "READY=1\nSTATUS=Listening on 127.0.0.1:4730, unix:/run/g FDSTORE=1\n");
    }

    #[test]
    fn each_state_has_its_line() {
        let manager = manager();
        manager.notifier.status("draining").unwrap();
        assert_eq!(received(&manager.socket), "STATUS=draining\n");
        manager.notifier.stopping().unwrap();
        assert_eq!(received(&manager.socket), "STOPPING=1\n");
        manager.notifier.watchdog().unwrap();
        assert_eq!(received(&manager.socket), "WATCHDOG=1\n");
        manager.notifier.reloading().unwrap();
        let message = received(&manager.socket);
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.trim_end().parse::<u64>().unwrap() > 0, "{message}");
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("gearmand-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let notifier = Notifier::to(OsStr::new(&format!("@{name}"))).unwrap();
        notifier.stopping().unwrap();
        assert_eq!(received(&socket), "STOPPING=1\n");
    }

    #[test]
    fn without_a_manager_nothing_happens_and_a_lost_one_is_an_error() {
        let nobody = Notifier::default();
        nobody.ready(&[]).unwrap();
        nobody.reloading().unwrap();
        assert_eq!(nobody.watchdog_interval(), None);
        let gone = Notifier::to(OsStr::new("/nonexistent/notify")).unwrap();
        assert!(gone.stopping().is_err());
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_asked() {
        let manager = manager();
        let notifier = Notifier { watchdog: Some(Duration::from_secs(30)), ..manager.notifier.clone() };
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(15)));
        assert_eq!(manager.notifier.watchdog_interval(), None);
    }
}
