//! Packets as the simulated peers write and read them. Nothing of the server's own protocol code is used
//! here: what it reads was written by this file, and what it writes is read by this file.

/// The prefixes of handles in the simulation: after a restart the server may have another.
pub(crate) const PREFIXES: [&str; 4] = ["H:sim", "H:sim2", "H:a-new-name", "H"];

/// How many bits of a job's name are the index of its prefix. The others are its number, so that names are in
/// the order of numbers.
const PREFIX_BITS: u32 = 2;

/// The names of functions; the first four are used most.
pub(crate) const FUNCTIONS: [&[u8]; 10] =
    [b"reverse", b"", b"with space\tand tab", b"count", b"f4", b"f5", b"f6", b"f7", b"f8", b"f9"];

/// The unique ids: never, by workload, three that meet often, the longest there may be.
pub(crate) const UNIQUES: [&[u8]; 6] = [b"", b"-", b"u1", b"u2", b"u3", &[b'x'; 64]];

/// The ids that peers give to themselves. The last is what is shown of one who gave none.
pub(crate) const CLIENTS: [&[u8]; 3] = [b"alice", b"bob", b"-"];

/// Where peers come from.
pub(crate) const HOSTS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];

/// A submission of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    /// An index into [`FUNCTIONS`].
    pub(crate) function: usize,
    pub(crate) unique: &'static [u8],
    /// `Some` for the reduce packets, though it may be empty.
    pub(crate) reducer: Option<&'static [u8]>,
    /// 0 high, 1 normal, 2 low.
    pub(crate) priority: usize,
    pub(crate) background: bool,
    /// `Some` for the epoch packet, in seconds.
    pub(crate) epoch_s: Option<i64>,
    pub(crate) workload: Vec<u8>,
}

/// Something that a peer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    CanDo {
        function: usize,
    },
    CanDoTimeout {
        function: usize,
        timeout_ms: i64,
    },
    CantDo {
        function: usize,
    },
    ResetAbilities,
    PreSleep,
    Grab(Grab),
    Submit(Submission),
    WorkStatus {
        handle: Vec<u8>,
        numerator: &'static str,
        denominator: &'static str,
    },
    WorkData {
        handle: Vec<u8>,
        workload: Vec<u8>,
    },
    WorkWarning {
        handle: Vec<u8>,
        workload: Vec<u8>,
    },
    WorkComplete {
        handle: Vec<u8>,
        workload: Vec<u8>,
    },
    WorkFail {
        handle: Vec<u8>,
    },
    WorkException {
        handle: Vec<u8>,
        workload: Vec<u8>,
    },
    GetStatus {
        handle: Vec<u8>,
    },
    GetStatusUnique {
        unique: &'static [u8],
    },
    Echo(Vec<u8>),
    Option(&'static [u8]),
    SetClientId {
        id: &'static [u8],
    },
    /// A line of text, which the simulated server passes over.
    Line,
    /// A packet that is refused, with the code of the refusal.
    Wrong {
        number: u32,
        body: &'static [u8],
        code: &'static str,
    },
}

/// Which of the three grabbing packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grab {
    Plain,
    Unique,
    All,
}

impl Ask {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let function = |index: &usize| FUNCTIONS[*index].to_vec();
        match self {
            Self::CanDo { function: index } => packet(1, &function(index)),
            Self::CanDoTimeout { function: index, timeout_ms } => {
                packet(23, &[FUNCTIONS[*index], timeout_ms.to_string().as_bytes()].join(&0))
            }
            Self::CantDo { function: index } => packet(2, &function(index)),
            Self::ResetAbilities => packet(3, b""),
            Self::PreSleep => packet(4, b""),
            Self::Grab(Grab::Plain) => packet(9, b""),
            Self::Grab(Grab::Unique) => packet(30, b""),
            Self::Grab(Grab::All) => packet(39, b""),
            Self::Submit(submission) => encode_submission(submission),
            Self::WorkStatus { handle, numerator, denominator } => {
                packet(12, &[handle, numerator.as_bytes(), denominator.as_bytes()].join(&0))
            }
            Self::WorkData { handle, workload } => packet(28, &[&handle[..], workload].join(&0)),
            Self::WorkWarning { handle, workload } => packet(29, &[&handle[..], workload].join(&0)),
            Self::WorkComplete { handle, workload } => packet(13, &[&handle[..], workload].join(&0)),
            Self::WorkFail { handle } => packet(14, handle),
            Self::WorkException { handle, workload } => packet(25, &[&handle[..], workload].join(&0)),
            Self::GetStatus { handle } => packet(15, handle),
            Self::GetStatusUnique { unique } => packet(41, unique),
            Self::Echo(workload) => packet(16, workload),
            Self::Option(name) => packet(26, name),
            Self::SetClientId { id } => packet(22, id),
            Self::Line => b"version\r\n".to_vec(),
            Self::Wrong { number, body, .. } => packet(*number, body),
        }
    }
}

fn encode_submission(submission: &Submission) -> Vec<u8> {
    let Submission { unique, workload, priority, background, .. } = submission;
    let function = FUNCTIONS[submission.function];
    if let Some(due_s) = submission.epoch_s {
        return packet(36, &[function, unique, due_s.to_string().as_bytes(), workload].join(&0));
    }
    if let Some(reducer) = submission.reducer {
        return packet(if *background { 38 } else { 37 }, &[function, unique, reducer, b"", workload].join(&0));
    }
    let number = match (priority, background) {
        (0, false) => 21,
        (0, true) => 32,
        (1, false) => 7,
        (1, true) => 18,
        (_, false) => 33,
        (_, true) => 34,
    };
    packet(number, &[function, unique, workload].join(&0))
}

fn packet(number: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [b"\0REQ", &number.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

/// What the simulation calls a job: its number and its prefix in one.
pub(crate) fn name(number: u64, prefix: usize) -> u64 {
    number << PREFIX_BITS | prefix as u64
}

/// The number of a job.
pub(crate) fn number(job: u64) -> u64 {
    job >> PREFIX_BITS
}

/// The index of a job's prefix.
pub(crate) fn prefix(job: u64) -> usize {
    usize::try_from(job - name(number(job), 0)).unwrap()
}

/// The handle of a job.
pub(crate) fn handle(job: u64) -> Vec<u8> {
    format!("{}:{}", PREFIXES[prefix(job)], number(job)).into_bytes()
}

/// The job of a handle, if that is written as the server writes it.
pub(crate) fn job_of(bytes: &[u8]) -> Option<u64> {
    let (prefix, digits) = std::str::from_utf8(bytes).ok()?.rsplit_once(':')?;
    let prefix = PREFIXES.iter().position(|known| *known == prefix)?;
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0 && *number <= u64::MAX >> PREFIX_BITS)?;
    (handle(name(number, prefix)) == bytes).then(|| name(number, prefix))
}

/// Something that the server sends. Jobs are called by their [`name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Noop,
    JobCreated(u64),
    NoJob,
    Assign(Assign),
    WorkStatus {
        job: u64,
        numerator: Vec<u8>,
        denominator: Vec<u8>,
    },
    WorkData {
        job: u64,
        workload: Vec<u8>,
    },
    WorkWarning {
        job: u64,
        workload: Vec<u8>,
    },
    WorkComplete {
        job: u64,
        workload: Vec<u8>,
    },
    WorkException {
        job: u64,
        workload: Vec<u8>,
    },
    WorkFail {
        job: u64,
    },
    /// Known, running, numerator, denominator.
    Status {
        handle: Vec<u8>,
        status: [u64; 4],
    },
    /// The same, and the number of clients.
    StatusUnique {
        unique: Vec<u8>,
        status: [u64; 4],
        clients: u64,
    },
    Echo(Vec<u8>),
    Option(Vec<u8>),
    Error {
        code: String,
        text: String,
    },
}

/// A job that was handed out, with what the packet tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assign {
    pub(crate) job: u64,
    pub(crate) function: Vec<u8>,
    pub(crate) unique: Option<Vec<u8>>,
    pub(crate) reducer: Option<Vec<u8>>,
    pub(crate) workload: Vec<u8>,
}

impl Reply {
    /// The job that a final packet ends.
    pub(crate) fn ends(&self) -> Option<u64> {
        match self {
            Self::WorkComplete { job, .. } | Self::WorkException { job, .. } | Self::WorkFail { job } => Some(*job),
            _ => None,
        }
    }

    /// The job that a packet tells of without ending it.
    pub(crate) fn tells_of(&self) -> Option<u64> {
        match self {
            Self::WorkStatus { job, .. } | Self::WorkData { job, .. } | Self::WorkWarning { job, .. } => Some(*job),
            _ => None,
        }
    }
}

/// Reads the packet at the beginning of `stream` and says how many bytes it took; `None` if it is not whole
/// yet.
///
/// # Panics
/// If the bytes are no packet from a server.
pub(crate) fn decode(stream: &[u8]) -> Option<(Reply, usize)> {
    let header = stream.get(..12)?;
    assert_eq!(&header[..4], b"\0RES", "not the magic of a response");
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let size = 12 + usize::try_from(word(8)).unwrap();
    let body = stream.get(12..size)?;
    Some((decode_body(word(4), body), size))
}

fn decode_body(number: u32, body: &[u8]) -> Reply {
    match number {
        6 | 10 => {
            assert!(body.is_empty());
            if number == 6 { Reply::Noop } else { Reply::NoJob }
        }
        8 => Reply::JobCreated(job(body)),
        11 => {
            let [handle, function, workload] = cut(body);
            Reply::Assign(Assign { job: job(&handle), function, unique: None, reducer: None, workload })
        }
        31 => {
            let [handle, function, unique, workload] = cut(body);
            Reply::Assign(Assign { job: job(&handle), function, unique: Some(unique), reducer: None, workload })
        }
        40 => {
            let [handle, function, unique, reducer, workload] = cut(body);
            let (unique, reducer) = (Some(unique), Some(reducer));
            Reply::Assign(Assign { job: job(&handle), function, unique, reducer, workload })
        }
        12 => {
            let [handle, numerator, denominator] = cut(body);
            Reply::WorkStatus { job: job(&handle), numerator, denominator }
        }
        13 | 25 | 28 | 29 => {
            let [handle, workload] = cut(body);
            let job = job(&handle);
            match number {
                13 => Reply::WorkComplete { job, workload },
                25 => Reply::WorkException { job, workload },
                28 => Reply::WorkData { job, workload },
                _ => Reply::WorkWarning { job, workload },
            }
        }
        14 => Reply::WorkFail { job: job(body) },
        17 => Reply::Echo(body.to_vec()),
        19 => {
            let [code, text] = cut(body);
            Reply::Error { code: String::from_utf8(code).unwrap(), text: String::from_utf8(text).unwrap() }
        }
        20 => {
            let [handle, known, running, numerator, denominator] = cut(body);
            Reply::Status { handle, status: [known, running, numerator, denominator].map(|field| decimal(&field)) }
        }
        27 => Reply::Option(body.to_vec()),
        42 => {
            let [unique, known, running, numerator, denominator, clients] = cut(body);
            let status = [known, running, numerator, denominator].map(|field| decimal(&field));
            Reply::StatusUnique { unique, status, clients: decimal(&clients) }
        }
        _ => panic!("the server sent a packet of type {number}"),
    }
}

fn cut<const COUNT: usize>(body: &[u8]) -> [Vec<u8>; COUNT] {
    let parts: Vec<Vec<u8>> = body.splitn(COUNT, |byte| *byte == 0).map(<[u8]>::to_vec).collect();
    parts.try_into().expect("the server sent too few arguments")
}

fn job(handle: &[u8]) -> u64 {
    job_of(handle).expect("the server sent a handle that is none of its own")
}

fn decimal(field: &[u8]) -> u64 {
    std::str::from_utf8(field).unwrap().parse().expect("the server sent a number that is none")
}

/// Shows the lists of bytes in a debugging output as text.
pub(crate) fn readable(debug: &str) -> String {
    let mut out = String::new();
    for part in debug.split_inclusive(']') {
        let list = part.split_once('[').and_then(|(before, list)| Some((before, list.strip_suffix(']')?)));
        let bytes = list.map(|(before, list)| (before, list.split_terminator(", ").map(str::parse::<u8>).collect()));
        match bytes {
            Some((before, Ok::<Vec<u8>, _>(bytes))) if !before.ends_with("status: ") => {
                out.extend([before, &format!("\"{}\"", bytes.escape_ascii())]);
            }
            _ => out.push_str(part),
        }
    }
    out
}
