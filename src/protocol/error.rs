//! The ERROR packets that the server sends to a peer, each with its code and text.
//!
//! Codes are libgearman's return names without their prefix. After an ERROR the connection stays usable.

/// One ERROR packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerError {
    /// The code that clients check.
    pub code: &'static str,
    /// The message for people.
    pub text: &'static str,
}

/// Why a function that a worker offers is not registered.
///
/// CAN_DO and CAN_DO_TIMEOUT have no response: a worker library takes an ERROR for the response to its next
/// GRAB_JOB, and fails. So the error is logged and not sent to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRegistered {
    /// The name has more than 512 bytes.
    NameTooLong,
    /// The timeout does not fit into 64 bits.
    TimeoutOutOfRange,
    /// The server has reached its limit of functions.
    TooManyOnServer,
    /// The connection has reached its limit of functions.
    TooManyOnConnection,
    /// The server's memory limit is reached.
    OutOfMemory,
}

impl NotRegistered {
    /// The reason, for the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NameTooLong => "the name has more than 512 bytes",
            Self::TimeoutOutOfRange => "the timeout of CAN_DO_TIMEOUT is out of range",
            Self::TooManyOnServer => "function limit of the server reached (--max-functions)",
            Self::TooManyOnConnection => "function limit of the connection reached (--max-functions-per-connection)",
            Self::OutOfMemory => "memory limit of the server reached (--max-memory)",
        }
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl PeerError {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, text: $text };)*

            /// Every error that the server can send, for documentation and tests.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

errors! {
    /// The packet came with the magic of a response.
    INVALID_MAGIC = "INVALID_MAGIC", "Request magic expected";
    /// A packet type of the protocol that only a server sends, or that is not in use.
    COMMAND_NOT_EXPECTED = "INVALID_COMMAND", "Command not expected";
    /// The number is not a packet type.
    COMMAND_UNKNOWN = "INVALID_COMMAND", "Invalid command expected";
    /// The body has fewer separators than the type has arguments.
    TOO_FEW_ARGUMENTS = "INVALID_PACKET", "Packet has too few arguments";
    /// The packet header announces more bytes than the server accepts.
    PACKET_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Packet is larger than the server accepts (max-packet-size)";
    /// A unique id, or a reducer name, of more than 64 bytes; gearmand has one text for both.
    UNIQUE_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Unique value too large";
    /// A function name of more than 512 bytes.
    FUNCTION_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Function name too large";
    /// A handle of more than 63 bytes. The text is gearmand's.
    HANDLE_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Error occurred due to GEARMAND_JOB_HANDLE_SIZE being too small from snprintf";
    /// The time of SUBMIT_JOB_EPOCH does not fit into 64 bits.
    EPOCH_OUT_OF_RANGE = "INVALID_ARGUMENT", "Epoch time is out of range";
    /// The server has reached its limit of jobs.
    TOO_MANY_JOBS = "QUEUE_ERROR", "Job queue is full: job limit reached (max-jobs)";
    /// The queue limit of the function and priority was reached.
    JOB_QUEUE_FULL = "QUEUE_ERROR", "Job queue is full";
    /// The memory limit for workloads of jobs in memory is reached.
    OUT_OF_MEMORY = "QUEUE_ERROR", "Job queue is full: workload memory limit reached (max-workload-memory)";
    /// The memory limit for jobs and peers is reached.
    MEMORY_USED_UP = "QUEUE_ERROR", "Job queue is full: memory limit reached (max-memory)";
    /// All job numbers are used up.
    NUMBERS_USED_UP = "QUEUE_ERROR", "Queue error: job numbers exhausted, start with an empty queue";
    /// Too many background jobs are waiting to be stored.
    STORE_BEHIND = "QUEUE_ERROR", "Queue error: the store cannot keep up, try again";
    /// The store has no space left.
    STORE_FULL = "QUEUE_ERROR", "Queue error: the store is full";
    /// The store is read-only.
    STORE_READ_ONLY = "QUEUE_ERROR", "Queue error: the store is read-only";
    /// The store could not be written.
    STORE_FAILED = "QUEUE_ERROR", "Queue error: the store cannot be written";
    /// Another process has locked the store.
    STORE_LOCKED = "QUEUE_ERROR", "Queue error: the store is locked";
    /// The database of the store is unreachable.
    STORE_UNREACHABLE = "QUEUE_ERROR", "Queue error: the database cannot be reached";
    /// The store is damaged.
    STORE_CORRUPT = "QUEUE_ERROR", "Queue error: the store is damaged";
    /// The store refuses this one job.
    STORE_REFUSED = "QUEUE_ERROR", "Queue error: the store rejects this job";
    /// The limit of functions on the server is reached.
    TOO_MANY_FUNCTIONS = "QUEUE_ERROR", "Too many functions on this server (max-functions)";
    /// The client waits for too many foreground jobs.
    TOO_MANY_WAITS = "QUEUE_ERROR", "Too many unfinished jobs on this connection (max-pending-jobs-per-connection)";
    /// The client waits for too many submissions of one job.
    TOO_MANY_WAITS_FOR_JOB = "QUEUE_ERROR", "Too many submissions of one unfinished job on this connection (max-waits-per-job)";
    /// The server is draining and rejects new jobs.
    SHUTTING_DOWN = "SHUTDOWN_GRACEFUL", "Server is shutting down and rejects new jobs";
    /// The limit of connections is reached.
    TOO_MANY_CONNECTIONS = "COULD_NOT_CONNECT", "Too many connections on this server (max-connections)";
    /// The memory limit for jobs and peers is reached.
    NO_MEMORY_FOR_CONNECTION = "COULD_NOT_CONNECT", "Memory limit reached, no more connections (max-memory)";
    /// WORK_DATA or WORK_WARNING for a job that this connection does not hold.
    DATA_FOR_UNKNOWN_JOB = "JOB_NOT_FOUND", "Job does not exist on server";
    /// WORK_STATUS, WORK_COMPLETE or WORK_FAIL for a job that this connection does not hold.
    RESULT_FOR_UNKNOWN_JOB = "JOB_NOT_FOUND", "Job given in work result not found";
    /// WORK_EXCEPTION for a job that this connection does not hold.
    EXCEPTION_FOR_UNKNOWN_JOB = "JOB_NOT_FOUND", "An exception was received for a job that does not exist";
    /// An OPTION_REQ for anything other than a [`ConnectionOption`](super::ConnectionOption).
    UNKNOWN_OPTION = "UNKNOWN_OPTION", "Server does not recognize given option";
}
