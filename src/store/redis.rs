//! Jobs in Redis: each has a hash under C++ gearmand's key, and a side hash.
//!
//! # The format
//! [`keys`] defines the key of a job. Its hash has the fields of C++ gearmand, `data` and `priority` (0 high,
//! 1 normal, 2 low), and no others, since C++ gearmand 1.1 exits on an unknown field. The side hash has the
//! rest: `id`, the job number; `function`; `unique`; `handle`; `when`, the due time; `reducer`; `submitted`;
//! `flags` ([`super::row`]); and `attempts`. Numbers are decimal. Earlier versions wrote all fields into
//! one hash. A hash without a side hash was written by C++ gearmand. A side hash without a hash belongs to a
//! job that C++ gearmand has run.
//!
//! A separate hash holds the format version, the highest job number, and whether invalid entries have their
//! present names; another one the operator settings of functions and workers. A scan for jobs finds neither
//! these nor a side hash. Invalid entries are renamed so that no scan finds them either. Other keys with the
//! same prefix are left alone.
//!
//! # Two servers
//! The connection name (`CLIENT SETNAME`) says which jobs it owns. A server that finds another connection
//! with that name does not start. The name disappears with the connection, and costs nothing per job.
//!
//! # What Redis keeps
//! With `appendonly yes` and `appendfsync always` a response means that the job is on disk. Other settings
//! guarantee less; then a warning is logged.

mod changes;
mod edits;
mod errors;
mod keys;
mod read;
mod replay;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, cmd,
};
use bytes::Bytes;

use self::errors::Failed;
use self::keys::Keys;
use super::location::{Access, Location};
use super::row::Prefixes;
use super::strangers::Strangers;
use super::{Changes, HasWorkload, OUR_LAST, Replayed, Store, StoreError, Workloads};
use crate::job_server::{FORMAT, JobKey, StoreFailure, StoredJob};

/// Timeout for connecting.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Timeout for a response.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait until the previous server has released the keys.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// Redis's own limit for a value, used if its settings cannot be read.
const VALUE_MAX: usize = 512 << 20;

/// See the module.
pub(super) struct Redis {
    connection: Option<Connection>,
    info: ConnectionInfo,
    /// Human-readable name of the database, without passwords.
    name: String,
    keys: Keys,
    access: Access,
    prefixes: Prefixes,
    /// Client id of the previous connection, which may linger after a network failure.
    last_client: Option<u64>,
    /// Whether the store was ever opened. Until then, permanent errors are reported as
    /// [`StoreFailure::Refused`].
    opened: bool,
    /// Whether settings that can lose jobs were already logged.
    warned: bool,
    /// Maximum size of a value, in bytes.
    value_max: usize,
    last_number: u64,
    strangers: Strangers,
}

impl Redis {
    /// Connects. `location` must be a Redis location.
    ///
    /// # Errors
    /// The server cannot be reached or rejects the connection, another server has the jobs, or their format
    /// is unknown.
    pub(super) fn open(location: &Location, access: Access, prefix: &Arc<str>) -> Result<Self, StoreError> {
        let Location::Redis { host, port, password, prefix: key_prefix } = location else {
            return Err(StoreError::new(StoreFailure::Io, format!("{location} is not in Redis")));
        };
        let address = if host.starts_with('/') {
            ConnectionAddr::Unix(host.into())
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        };
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if !password.is_empty() {
            settings = settings.set_password(password);
        }
        let name = location.to_string();
        let info = address
            .into_connection_info()
            .map_err(|error| Failed::Driver(error).explain(&name, "open the queue"))?
            .set_redis_settings(settings);
        let mut store = Self {
            connection: None,
            info,
            name,
            keys: Keys::new(key_prefix),
            access,
            prefixes: Prefixes::new(prefix),
            last_client: None,
            opened: false,
            warned: false,
            value_max: VALUE_MAX,
            last_number: 0,
            strangers: Strangers::default(),
        };
        store.with_connection("open the queue", |_, _| Ok(()))?;
        store.opened = true;
        Ok(store)
    }

    /// Runs `work` on a working connection, and connects first if there is none. `purpose` completes the
    /// sentence "could not ...".
    fn with_connection<T>(
        &mut self,
        purpose: &str,
        work: impl FnOnce(&mut Self, &mut Connection) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let (_, done) = self.attempt(work);
        done.map_err(|failed| self.error(&failed, purpose))
    }

    /// The same for idempotent work: if an existing connection was severed, the work is retried at once on a
    /// new one.
    fn with_connection_again<T>(
        &mut self,
        purpose: &str,
        work: impl Fn(&mut Self, &mut Connection) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let done = match self.attempt(&work) {
            (true, Err(failed)) if failed.is_severed() => {
                let error = self.error(&failed, purpose);
                tracing::warn!("{error}: retrying with a new connection");
                self.attempt(work).1
            }
            (_, done) => done,
        };
        done.map_err(|failed| self.error(&failed, purpose))
    }

    /// Whether there was a connection, and the result of the work.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Connection) -> Result<T, Failed>,
    ) -> (bool, Result<T, Failed>) {
        let mut kept = self.connection.take();
        // The driver waits for each response of a pipeline separately, so a hanging connection must be
        // detected by a single request.
        if let Some(connection) = &mut kept
            && cmd("PING").exec(connection).is_err_and(|error| error.code().is_none())
        {
            kept = None;
        }
        let connected = kept.map_or_else(|| self.connect(), Ok);
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(failed) => return (false, Err(failed)),
        };
        let done = work(self, &mut connection);
        // If Redis only rejects writes, the connection is kept: a new one could not be set up.
        if done.as_ref().err().is_none_or(Failed::is_refused_write) {
            self.connection = Some(connection);
        }
        (true, done)
    }

    fn error(&self, failed: &Failed, purpose: &str) -> StoreError {
        let error = failed.explain(&self.name, purpose);
        let failure = if !self.opened && failed.is_lasting() { StoreFailure::Refused } else { error.failure };
        StoreError { failure, ..error }
    }

    fn connect(&mut self) -> Result<Connection, Failed> {
        if let ConnectionAddr::Unix(socket) = self.info.addr()
            && !socket.parent().is_some_and(Path::is_dir)
        {
            return Err(Failed::NoDirectory(socket.display().to_string()));
        }
        let mut connection = Client::open(self.info.clone())?
            .get_connection_with_timeout(CONNECT_LIMIT)
            .map_err(|error| Failed::within(CONNECT_LIMIT, error))?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.set_write_timeout(Some(ANSWER_LIMIT))?;
        let meta = self.keys.meta();
        let (format, last): (Option<String>, Option<u64>) =
            cmd("HMGET").arg(&meta).arg("format").arg("last_number").query(&mut connection)?;
        if let Some(format) = &format
            && !format.parse().is_ok_and(|format: u32| format <= FORMAT)
        {
            let text = format!(
                "the queue has format {format}, and this program supports formats up to {FORMAT}; use the newer \
                 program that wrote it"
            );
            return Err(Failed::Here(StoreFailure::Corrupt, text));
        }
        self.last_number = self.last_number.max(last.unwrap_or(0));
        if self.access == Access::Own {
            self.claim(&mut connection)?;
            self.look_at_settings(&mut connection);
            if format.is_none() {
                // A new queue has no quarantine of an earlier version.
                cmd("HSET").arg(&meta).arg(replay::QUARANTINE).arg(1).exec(&mut connection)?;
            }
            if format.is_none_or(|format| format != FORMAT.to_string()) {
                cmd("HSET").arg(&meta).arg("format").arg(FORMAT).exec(&mut connection)?;
            }
        }
        Ok(connection)
    }

    /// Keeps other servers away as long as this connection lives. Of two that connect at the same moment,
    /// neither may stay.
    fn claim(&mut self, connection: &mut Connection) -> Result<(), Failed> {
        let name = self.keys.owner();
        let named = cmd("CLIENT").arg("SETNAME").arg(&name).exec(connection);
        let id: u64 = match named.and_then(|()| cmd("CLIENT").arg("ID").query(connection)) {
            Ok(id) => id,
            Err(error) => return self.unclaimed(error),
        };
        let end = Instant::now() + LOCK_LIMIT;
        loop {
            let list: String = match cmd("CLIENT").arg("LIST").query(connection) {
                Ok(list) => list,
                Err(error) => return self.unclaimed(error),
            };
            let Some((other, address)) = other_client(&list, id, &name) else { break };
            let is_last = self.last_client == Some(other);
            if Instant::now() > end {
                let text = if is_last {
                    format!("the keys are held by {OUR_LAST} (client {other} from {address}, see CLIENT LIST)")
                } else {
                    format!(
                        "another gearmand uses the same keys (client {other} from {address}, see CLIENT LIST); stop it, \
                         or use another prefix"
                    )
                };
                return Err(Failed::Here(StoreFailure::Locked, text));
            }
            // Redis may take a moment to notice that the previous client is gone. Our own is killed; if that
            // is not allowed, wait for it.
            if !is_last || cmd("CLIENT").arg("KILL").arg("ID").arg(other).exec(connection).is_err() {
                // Nothing is ever pushed to this list, so Redis answers after the timeout.
                cmd("BLPOP").arg(self.keys.never()).arg("0.1").exec(connection)?;
            }
        }
        self.last_client = Some(id);
        Ok(())
    }

    /// Continues without a check for other servers, if Redis does not permit it.
    fn unclaimed(&self, error: RedisError) -> Result<(), Failed> {
        if error.code().is_none() {
            return Err(error.into());
        }
        if !self.warned {
            tracing::warn!(
                "{}: cannot check whether another gearmand uses the same keys, since CLIENT is not allowed: {error}",
                self.name
            );
        }
        Ok(())
    }

    /// Reads the persistence settings, and logs once what they mean for stored jobs.
    fn look_at_settings(&mut self, connection: &mut Connection) {
        let mut setting = |name: &str| -> Option<String> {
            let pair: Vec<String> = cmd("CONFIG").arg("GET").arg(name).query(connection).ok()?;
            pair.into_iter().nth(1)
        };
        let (append, sync) = (setting("appendonly"), setting("appendfsync"));
        let policy = setting("maxmemory-policy");
        let value_max = setting("proto-max-bulk-len").and_then(|value| value.parse().ok());
        self.value_max = value_max.unwrap_or(VALUE_MAX);
        if std::mem::replace(&mut self.warned, true) {
            return;
        }
        match (append.as_deref(), sync.as_deref()) {
            (Some("yes"), Some("always")) => {}
            // Jobs can be lost, so this is logged at a level that is on by default.
            (Some(append), Some(sync)) => tracing::error!(
                "{}: acknowledged jobs may be lost when Redis ends, since appendonly is {append} and appendfsync is {sync}; \
                 set them to yes and always",
                self.name
            ),
            _ => tracing::warn!(
                "{}: cannot check whether Redis keeps acknowledged jobs, since CONFIG GET is not allowed; appendonly \
                 should be yes and appendfsync always",
                self.name
            ),
        }
        if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
            tracing::error!(
                "{}: Redis may evict jobs when out of memory, since maxmemory-policy is {policy}; set it to noeviction",
                self.name
            );
        }
    }
}

/// Another connection with this name in the output of CLIENT LIST, and its address.
fn other_client<'a>(list: &'a str, own: u64, name: &str) -> Option<(u64, &'a str)> {
    list.lines().find_map(|client| {
        let field = |field: &str| client.split(' ').find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
        let id = field("id")?.parse().ok().filter(|id| *id != own)?;
        (field("name") == Some(name)).then(|| (id, field("addr").unwrap_or("an unknown address")))
    })
}

impl Store for Redis {
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        let replayed = self.with_connection("read jobs", |store, connection| replay::run(store, connection, take))?;
        if replayed.quarantined > 0 && self.access == Access::Own {
            tracing::warn!(
                "{}: {} invalid keys were quarantined as {}",
                self.name,
                replayed.quarantined,
                self.keys.quarantine(b"*", 0).escape_ascii()
            );
        }
        Ok(replayed)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if self.access == Access::Read {
            let text = format!("{}: could not keep jobs: the queue was opened read-only", self.name);
            return Err(StoreError::new(StoreFailure::ReadOnly, text));
        }
        if let Some(job) = changes.adds.iter().find(|job| job.workload().len() > self.value_max) {
            let text = format!(
                "{}: the workload of {} has {} bytes, more than Redis accepts: its proto-max-bulk-len is {}; raise it",
                self.name,
                job.handle(),
                job.workload().len(),
                self.value_max
            );
            return Err(StoreError::new(StoreFailure::Refused, text));
        }
        let last_number = self.last_number.max(changes.last_number);
        let made_way = self.with_connection_again("keep jobs", |store, connection| {
            changes::commit(&store.keys, connection, changes, last_number)
        })?;
        self.last_number = last_number;
        self.strangers.note(&self.name, made_way);
        Ok(())
    }

    fn load(&mut self, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.with_connection_again("read workloads", |store, connection| {
            replay::load(&store.keys, connection, jobs, most_bytes)
        })
    }
}
