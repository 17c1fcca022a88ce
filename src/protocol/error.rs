//! What the server tells a peer that made a mistake: the ERROR packets, each with its code and text.
//!
//! Codes are libgearman's return names without their prefix. After an ERROR the connection stays usable.

/// One ERROR packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerError {
    /// The code that clients look at.
    pub code: &'static str,
    /// The text for people.
    pub text: &'static str,
}

/// Why a function that a worker offers is not registered.
///
/// CAN_DO and CAN_DO_TIMEOUT have no answer: a worker library takes an ERROR for the answer to its next GRAB_JOB, and fails. So
/// the worker is told nothing, and the operator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRegistered {
    /// The name has more than 512 bytes.
    NameTooLong,
    /// The timeout does not fit into 64 bits.
    TimeoutOutOfRange,
    /// The server keeps as many functions as it may.
    TooManyOnServer,
    /// The connection offers as many functions as it may.
    TooManyOnConnection,
    /// The server's memory is used up.
    OutOfMemory,
}

impl NotRegistered {
    /// The reason, for the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NameTooLong => "the name has more than 512 bytes",
            Self::TimeoutOutOfRange => "the timeout of CAN_DO_TIMEOUT is out of range",
            Self::TooManyOnServer => "the server has as many functions as it may (--max-functions)",
            Self::TooManyOnConnection => {
                "the connection offers as many functions as it may (--max-functions-per-connection)"
            }
            Self::OutOfMemory => "the memory of the server is used up (--max-memory)",
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
    /// A number that is no packet type.
    COMMAND_UNKNOWN = "INVALID_COMMAND", "Invalid command expected";
    /// The body has fewer separators than the type has arguments.
    TOO_FEW_ARGUMENTS = "INVALID_PACKET", "Packet has too few arguments";
    /// The packet announces more bytes than the server takes.
    PACKET_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Packet is larger than the server accepts (max-packet-size)";
    /// A unique id, or a reducer name, of more than 64 bytes; gearmand has one text for both.
    UNIQUE_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Unique value too large";
    /// A function name of more than 512 bytes.
    FUNCTION_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Function name too large";
    /// A handle of more than 63 bytes. The text is gearmand's.
    HANDLE_TOO_LARGE = "ARGUMENT_TOO_LARGE", "Error occurred due to GEARMAND_JOB_HANDLE_SIZE being too small from snprintf";
    /// The time of SUBMIT_JOB_EPOCH does not fit into 64 bits.
    EPOCH_OUT_OF_RANGE = "INVALID_ARGUMENT", "Epoch time is out of range";
    /// There are as many jobs as there may be.
    TOO_MANY_JOBS = "QUEUE_ERROR", "Job queue is full: there are as many jobs as there may be (max-jobs)";
    /// The queue limit of the function and priority was reached.
    JOB_QUEUE_FULL = "QUEUE_ERROR", "Job queue is full";
    /// Workloads of jobs that only memory holds take all the memory they may.
    OUT_OF_MEMORY = "QUEUE_ERROR", "Job queue is full: its memory is used up (max-memory-for-workloads)";
    /// Jobs and what is remembered of peers take all the memory they may.
    MEMORY_USED_UP = "QUEUE_ERROR", "Job queue is full: the memory of the server is used up (max-memory)";
    /// All numbers of handles were given.
    NUMBERS_USED_UP = "QUEUE_ERROR", "Queue error: no job number is left, start with an empty queue";
    /// More background jobs wait to be stored than may.
    STORE_BEHIND = "QUEUE_ERROR", "Queue error: the store does not keep up, try again";
    /// The store has no space left.
    STORE_FULL = "QUEUE_ERROR", "Queue error: the store is full";
    /// The store may not be written to.
    STORE_READ_ONLY = "QUEUE_ERROR", "Queue error: the store is read-only";
    /// The store could not be written.
    STORE_FAILED = "QUEUE_ERROR", "Queue error: the store cannot be written";
    /// Somebody else has locked the store.
    STORE_LOCKED = "QUEUE_ERROR", "Queue error: the store is locked";
    /// The database that is the store is away.
    STORE_UNREACHABLE = "QUEUE_ERROR", "Queue error: the database cannot be reached";
    /// The store is damaged.
    STORE_CORRUPT = "QUEUE_ERROR", "Queue error: the store is damaged";
    /// The store does not take this one job.
    STORE_REFUSED = "QUEUE_ERROR", "Queue error: the store does not take this job";
    /// More functions than the server keeps.
    TOO_MANY_FUNCTIONS = "QUEUE_ERROR", "Too many functions on this server (max-functions)";
    /// More foreground jobs than one client may wait for.
    TOO_MANY_WAITS = "QUEUE_ERROR", "Too many unfinished jobs on this connection (max-waits-per-connection)";
    /// More submissions of one job than one client may wait for.
    TOO_MANY_WAITS_FOR_JOB = "QUEUE_ERROR", "Too many submissions of one unfinished job on this connection (max-waits-per-job)";
    /// The server is draining and takes no new jobs.
    SHUTTING_DOWN = "SHUTDOWN_GRACEFUL", "Server is shutting down and takes no new jobs";
    /// More connections than the server takes.
    TOO_MANY_CONNECTIONS = "COULD_NOT_CONNECT", "Too many connections on this server (max-connections)";
    /// What is remembered of peers and jobs takes all the memory it may.
    NO_MEMORY_FOR_CONNECTION = "COULD_NOT_CONNECT", "No memory is left for another connection (max-memory)";
    /// WORK_DATA or WORK_WARNING for a job that this connection does not hold.
    DATA_FOR_UNKNOWN_JOB = "JOB_NOT_FOUND", "Job does not exist on server";
    /// WORK_STATUS, WORK_COMPLETE or WORK_FAIL for a job that this connection does not hold.
    RESULT_FOR_UNKNOWN_JOB = "JOB_NOT_FOUND", "Job given in work result not found";
    /// WORK_EXCEPTION for a job that this connection does not hold.
    EXCEPTION_FOR_UNKNOWN_JOB = "JOB_NOT_FOUND", "An exception was received for a job that does not exist";
    /// An OPTION_REQ for something that is no [`ConnectionOption`](super::ConnectionOption).
    UNKNOWN_OPTION = "UNKNOWN_OPTION", "Server does not recognize given option";
}
