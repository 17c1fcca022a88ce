//! Where our answers differ from those of gearmand 1.1.20 on purpose.

/// One answer that differs.
pub(crate) struct Deviation {
    /// The name of the conversation.
    pub(crate) conversation: &'static str,
    /// The step, as it is written there.
    pub(crate) step: &'static str,
    /// What our server says, as the runner writes it down.
    pub(crate) ours: &'static str,
    /// What gearmand says.
    pub(crate) theirs: &'static str,
    /// Why ours is otherwise.
    pub(crate) reason: &'static str,
}

const PRIORITY: &str = "a higher priority of any of the worker's functions comes first, as since gearmand 2.0.0";
const ROTATION: &str = "functions take turns, as since gearmand 2.0.0";
const BARE_HANDLE: &str =
    "WORK_FAIL is always the bare handle: libgearman's client does not recognise one that ends with a NUL";
const NO_ANSWER: &str = "what is too long is answered by an error; gearmand says nothing, or closes the connection";
const GONE_AT_ONCE: &str =
    "a job that nobody wants is gone at once, from listings and limits; gearmand keeps it until a worker meets it";
const JOINER: &str = "who joins a job that was abandoned gets its result; gearmand lets that client wait for ever";
const LATE_RESULT: &str = "the first result of anybody who was handed the job ends it; gearmand drops it, tells the worker of an error, and runs the job again";
const UNKNOWN_TYPE: &str = "the framing is intact, so the connection stays and is told; gearmand closes it";
const LISTING: &str =
    "a name or an id cannot break a listing for those who parse it: what separates is written as \\x..";

pub(crate) const DEVIATIONS: &[Deviation] = &[
    Deviation {
        conversation: "priorities over functions",
        step: "W GRAB_JOB",
        ours: r"W JOB_ASSIGN H:t:2\0old\0high",
        theirs: r"W JOB_ASSIGN H:t:1\0new\0low",
        reason: PRIORITY,
    },
    Deviation {
        conversation: "functions in rotation",
        step: "W GRAB_JOB",
        ours: r"W JOB_ASSIGN H:t:1\0old\0o",
        theirs: r"W JOB_ASSIGN H:t:3\0new\0n2",
        reason: ROTATION,
    },
    Deviation {
        conversation: "a unique id of 64 bytes",
        step: "W GRAB_JOB_UNIQ",
        ours: r"W JOB_ASSIGN_UNIQ H:t:1\0f\0uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu\0x",
        theirs: r"W JOB_ASSIGN_UNIQ H:t:1\0f\0uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu\0\0x",
        reason: "the last byte of a unique id of 64 bytes is not lost, and the workload does not begin with a NUL in its place",
    },
    Deviation {
        conversation: "progress below nothing",
        step: "C GET_STATUS H:t:1",
        ours: r"C STATUS_RES H:t:1\01\01\00\02",
        theirs: r"C STATUS_RES H:t:1\01\01\04294967295\02",
        reason: "a negative number counts as 0; gearmand wraps it around",
    },
    Deviation {
        conversation: "a denominator of 12 digits",
        step: r"W WORK_STATUS H:t:1\01\0100000000000",
        ours: r"C WORK_STATUS H:t:1\01\0100000000000",
        theirs: "W END",
        reason: "no length of a number makes a status vanish or closes the connection",
    },
    Deviation {
        conversation: "status of a handle of 64 bytes",
        step: "C GET_STATUS {h*64}",
        ours: r"C ERROR ARGUMENT_TOO_LARGE\0Error occurred due to GEARMAND_JOB_HANDLE_SIZE being too small from snprintf",
        theirs: "C END",
        reason: NO_ANSWER,
    },
    Deviation {
        conversation: "status of a unique id of 65 bytes",
        step: "C GET_STATUS_UNIQUE {u*65}",
        ours: r"C ERROR ARGUMENT_TOO_LARGE\0Unique value too large",
        theirs: "C END",
        reason: NO_ANSWER,
    },
    Deviation {
        conversation: "a failure whose handle ends with a NUL",
        step: r"W WORK_FAIL H:t:1\0",
        ours: "C WORK_FAIL H:t:1",
        theirs: r"C WORK_FAIL H:t:1\0",
        reason: BARE_HANDLE,
    },
    Deviation {
        conversation: "a failure with a reason",
        step: r"W WORK_FAIL H:t:1\0why it failed",
        ours: "C WORK_FAIL H:t:1",
        theirs: r"C WORK_FAIL H:t:1\0why it failed",
        reason: BARE_HANDLE,
    },
    Deviation {
        conversation: "an exception for a client that did not ask for it",
        step: r"W WORK_EXCEPTION H:t:1\0reason",
        ours: "C WORK_FAIL H:t:1",
        theirs: r"C WORK_FAIL H:t:1\0",
        reason: BARE_HANDLE,
    },
    Deviation {
        conversation: "a sleeper and a job that is due later",
        step: r"C SUBMIT_JOB_EPOCH f\0u\04000000000\0x",
        ours: "C JOB_CREATED H:t:1",
        theirs: "C JOB_CREATED H:t:1 | W NOOP",
        reason: "a worker is woken when the job is due, as since gearmand 2.0.0; 1.1.20 wakes it for nothing when the job comes in, and never when it is due",
    },
    Deviation {
        conversation: "a client that leaves its queued job",
        step: "D TEXT status",
        ours: r#"D "f\t0\t0\t0\n" ".\n""#,
        theirs: r#"D "f\t1\t0\t0\n" ".\n""#,
        reason: GONE_AT_ONCE,
    },
    Deviation {
        conversation: "a client that joins an abandoned queued job",
        step: r"D SUBMIT_JOB f\0u\0x",
        ours: "D JOB_CREATED H:t:2",
        theirs: "D JOB_CREATED H:t:1",
        reason: JOINER,
    },
    Deviation {
        conversation: "a client that joins an abandoned queued job",
        step: "W GRAB_JOB",
        ours: r"W JOB_ASSIGN H:t:2\0f\0x",
        theirs: "W NO_JOB",
        reason: JOINER,
    },
    Deviation {
        conversation: "a client that joins an abandoned running job whose worker dies",
        step: "W GRAB_JOB",
        ours: r"W JOB_ASSIGN H:t:1\0f\0x",
        theirs: "W NO_JOB",
        reason: JOINER,
    },
    Deviation {
        conversation: "a background job that a foreground client joined and left",
        step: "W GRAB_JOB",
        ours: r"W JOB_ASSIGN H:t:1\0f\0x",
        theirs: "W NO_JOB",
        reason: "an acknowledged background job is not lost because a foreground client joined it and left",
    },
    Deviation {
        conversation: "many sleepers and one job",
        step: r"C SUBMIT_JOB f\0\0x",
        ours: "C JOB_CREATED H:t:1 | A NOOP",
        theirs: "C JOB_CREATED H:t:1 | A NOOP | B NOOP | E NOOP",
        reason: "one job wakes one worker, unless --worker-wakeup says otherwise; gearmand's default wakes all, who find nothing",
    },
    Deviation {
        conversation: "a worker that learns a function while it sleeps",
        step: "W CAN_DO f",
        ours: "W NOOP",
        theirs: "",
        reason: "a sleeper that learns a function is told of its queued jobs; with gearmand it sleeps until the next one comes",
    },
    Deviation {
        conversation: "a worker that sleeps over a job that another was woken for",
        step: "W PRE_SLEEP",
        ours: "",
        theirs: "W NOOP",
        reason: "a job that another worker was just woken for wakes nobody else, until that one is late",
    },
    Deviation {
        conversation: "a late result after a function was withdrawn",
        step: r"W WORK_COMPLETE H:t:1\0late",
        ours: r"C WORK_COMPLETE H:t:1\0late",
        theirs: r"W ERROR JOB_NOT_FOUND\0Job given in work result not found",
        reason: LATE_RESULT,
    },
    Deviation {
        conversation: "two jobs that come back together",
        step: "W GRAB_JOB",
        ours: r"W JOB_ASSIGN H:t:1\0f\01",
        theirs: r"W JOB_ASSIGN H:t:2\0f\02",
        reason: "jobs that come back together keep their order; gearmand turns it around",
    },
    Deviation {
        conversation: "two jobs that come back together",
        step: "W GRAB_JOB_UNIQ",
        ours: r"W JOB_ASSIGN_UNIQ H:t:2\0f\0\02",
        theirs: r"W JOB_ASSIGN_UNIQ H:t:1\0f\0\01",
        reason: "jobs that come back together keep their order; gearmand turns it around",
    },
    Deviation {
        conversation: "a late result after a timeout",
        step: r"V WORK_COMPLETE H:t:1\0late",
        ours: r"C WORK_COMPLETE H:t:1\0late",
        theirs: r"V ERROR JOB_NOT_FOUND\0Job given in work result not found",
        reason: LATE_RESULT,
    },
    Deviation {
        conversation: "a timeout of more than 20 digits",
        step: r"W CAN_DO_TIMEOUT f\0123456789012345678901",
        ours: "",
        theirs: "W END",
        reason: "a timeout that is out of range is not registered, and the connection goes on; gearmand closes it, or dies",
    },
    Deviation {
        conversation: "a function registered twice",
        step: "W TEXT status",
        ours: r#"W "f\t0\t0\t1\n" ".\n""#,
        theirs: r#"W "f\t0\t0\t2\n" ".\n""#,
        reason: "a worker that registers a function twice is one worker for it; gearmand counts and lists it twice",
    },
    Deviation {
        conversation: "type 0",
        step: "C #0",
        ours: r"C ERROR INVALID_COMMAND\0Invalid command expected",
        theirs: "C END",
        reason: UNKNOWN_TYPE,
    },
    Deviation {
        conversation: "a type that does not exist",
        step: "C #43 x",
        ours: r"C ERROR INVALID_COMMAND\0Invalid command expected",
        theirs: "C END",
        reason: UNKNOWN_TYPE,
    },
    Deviation {
        conversation: "a type of the upper half",
        step: "C #2147483648",
        ours: r"C ERROR INVALID_COMMAND\0Invalid command expected",
        theirs: "C END",
        reason: "a number that is no packet type is an error to who sent it; this one ends the whole gearmand process",
    },
    Deviation {
        conversation: "a name of a function that is larger than libgearman allows",
        step: "W TEXT status",
        ours: r#"W ".\n""#,
        theirs: r#"W "ffffffffffffffffffff...(520 bytes, fce24e5d21f197d9)" ".\n""#,
        reason: "names have libgearman's own limit of 512 bytes; gearmand takes up to 8 KiB and then fails to hand such jobs out",
    },
    Deviation {
        conversation: "a client id with a space",
        step: "W TEXT workers",
        ours: r#"W "FD 127.0.0.1 - :\n" "FD 127.0.0.1 my\\x20id :\n" ".\n""#,
        theirs: r#"W "FD 127.0.0.1 - :\n" "FD 127.0.0.1 my id :\n" ".\n""#,
        reason: LISTING,
    },
    Deviation {
        conversation: "names that would break a listing",
        step: "W TEXT status",
        ours: r#"W "tab\\x09here\t0\t0\t1\n" ".\n""#,
        theirs: r#"W "tab\there\t0\t0\t1\n" ".\n""#,
        reason: LISTING,
    },
    Deviation {
        conversation: "create a function with a bare line feed",
        step: "C TEXT status",
        ours: r#"C "abc\t0\t0\t0\n" ".\n""#,
        theirs: r#"C "ab\t0\t0\t0\n" ".\n""#,
        reason: "gearmand takes the last letter of the name for a carriage return",
    },
    Deviation {
        conversation: "create nothing",
        step: r"C TEXT create\sfunction\s",
        ours: r#"C "ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+create\r\n""#,
        theirs: r#"C "OK\r\n""#,
        reason: "an empty name is no name: nobody could drop or query that function",
    },
    Deviation {
        conversation: "drop a function with a queued job",
        step: "C TEXT drop function f",
        ours: r#"C "ERR there are still queued jobs, which this command removes: cancel jobs f\r\n""#,
        theirs: r#"C "OK\r\n""#,
        reason: "the queued job would never be run; gearmand frees the function under it",
    },
    Deviation {
        conversation: "drop a function written otherwise",
        step: "C TEXT drop function ABC",
        ours: r#"C "ERR function not found\r\n""#,
        theirs: r#"C "OK\r\n""#,
        reason: "names of functions are compared to the letter everywhere else",
    },
    Deviation {
        conversation: "maxqueue",
        step: "C TEXT maxqueue f many",
        ours: r#"C "ERR INVALID_ARGUMENTS A+limit+is+a+number+of+jobs,+0+for+none:+maxqueue+NAME+[HIGH+[NORMAL+[LOW]]]\r\n""#,
        theirs: r#"C "OK\r\n""#,
        reason: "gearmand takes what is no number for no limit, so that a slip takes a limit away",
    },
    Deviation {
        conversation: "maxqueue of a function that is not known",
        step: r"C SUBMIT_JOB f\0v\0x",
        ours: r"C ERROR QUEUE_ERROR\0Job queue is full",
        theirs: "C JOB_CREATED H:t:2",
        reason: "a limit that was acknowledged holds, also when the first job comes after it",
    },
    Deviation {
        conversation: "a cancelled job that no worker has seen",
        step: "D TEXT status",
        ours: r#"D "f\t0\t0\t0\n" ".\n""#,
        theirs: r#"D "f\t1\t0\t0\n" ".\n""#,
        reason: GONE_AT_ONCE,
    },
    Deviation {
        conversation: "cancel a running job",
        step: r"W WORK_COMPLETE H:t:1\0r",
        ours: "",
        theirs: r"C WORK_COMPLETE H:t:1\0r",
        reason: "a client hears one end of its job; gearmand sends WORK_FAIL and later the result",
    },
    Deviation {
        conversation: "six words",
        step: "C TEXT status 2 3 4 5 6",
        ours: r#"C "ERR INVALID_ARGUMENTS Too+many+words+in+this+command\r\n""#,
        theirs: "C END",
        reason: "an error says what is wrong, and the connection stays; gearmand closes it without a word",
    },
    Deviation {
        conversation: "a line that is too long",
        step: r"C RAW {x*8192}\n",
        ours: r#"C "ERR LINE_TOO_LONG The+line+is+longer+than+the+limit+(max-admin-line)\r\n" END"#,
        theirs: "C END",
        reason: "the connection is closed as by gearmand, but is told why before",
    },
];
