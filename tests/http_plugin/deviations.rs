//! Where our plugin's answers differ from those of gearmand 1.1.20 on purpose.

/// One answer that differs.
pub(crate) struct Deviation {
    /// The name of the request.
    pub(crate) request: &'static str,
    /// What our server says.
    pub(crate) ours: &'static str,
    /// What gearmand says, or how that begins: what follows depends on how its writes are cut.
    pub(crate) theirs: &'static str,
    /// Why ours is otherwise.
    pub(crate) reason: &'static str,
}

const HEAD: &str = "the body of a response to HEAD is not sent: whoever asked would read it as the next response";
const FAILED_HANDLE: &str = "the handle of a failed job is whole; gearmand cuts off its last character";
const SPACES: &str =
    "spaces around a value are no part of it and need not be there, as HTTP has it; a proxy may change them";
const BAD_LENGTH: &str = "a length is digits and nothing else: two readers that guess may guess otherwise";
const NOT_THE_END: &str = "progress and warnings are not the end of a job; gearmand takes them for its result";

const FOREIGN: &str = "a page of another site submits no jobs by way of whoever looks at it";

pub(crate) const DEVIATIONS: &[Deviation] = &[
    Deviation {
        request: "HEAD",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|-|",
        reason: HEAD,
    },
    Deviation {
        request: "version 1.1",
        ours: r"HTTP/1.1 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 12\r\nServer: Gearman/V\r\nConnection: close\r\n\r\nshow|-|hello",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 12\r\nServer: Gearman/V\r\n\r\nshow|-|hello",
        reason: "the request's version is answered in, as since gearmand 2.0.0",
    },
    Deviation {
        request: "HEAD without a function",
        ours: r"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: (null)\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        reason: "there is no job and no handle; gearmand shows what lies in its memory, such as the last function",
    },
    Deviation {
        request: "TRACE",
        ours: r"",
        theirs: r"nothing, for ever",
        reason: "it is closed like other methods that are not answered; gearmand lets the peer wait for ever",
    },
    Deviation {
        request: "an empty first line",
        ours: r"",
        theirs: r"nothing, for ever",
        reason: "it is no request line; gearmand waits for ever",
    },
    Deviation {
        request: "a unique id with spaces around",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|u|",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 9\r\nServer: Gearman/V\r\n\r\nshow| u |",
        reason: SPACES,
    },
    Deviation {
        request: "a unique id without a space",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|u|",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|-|",
        reason: SPACES,
    },
    Deviation {
        request: "background without a space",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: JOB_CREATED\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|-|",
        reason: SPACES,
    },
    Deviation {
        request: "a length without a space",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 9\r\nServer: Gearman/V\r\n\r\nshow|-|ab",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|-|",
        reason: SPACES,
    },
    Deviation {
        request: "a length with a sign",
        ours: r"",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 9\r\nServer: Gearman/V\r\n\r\nshow|-|ab",
        reason: BAD_LENGTH,
    },
    Deviation {
        request: "a length and a letter",
        ours: r"",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 9\r\nServer: Gearman/V\r\n\r\nshow|-|ab",
        reason: BAD_LENGTH,
    },
    Deviation {
        request: "two lengths",
        ours: r"HTTP/1.0 400 BAD_REQUEST\r\nServer: Gearman/V\r\nContent-Length: 0\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 10\r\nServer: Gearman/V\r\n\r\nshow|-|abc",
        reason: "a proxy may believe the other one, and take the rest for another request; gearmand believes the last",
    },
    Deviation {
        request: "chunks",
        ours: r"HTTP/1.0 501 NOT_IMPLEMENTED\r\nServer: Gearman/V\r\nContent-Length: 0\r\n\r\n",
        theirs: r"",
        reason: "a body in chunks is refused by a status; gearmand runs a job without a workload, then reads the chunks as requests",
    },
    Deviation {
        request: "a failing job",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_FAIL\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:\r\nX-Gearman-Command: WORK_FAIL\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        reason: FAILED_HANDLE,
    },
    Deviation {
        request: "HEAD of a failing job",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:\r\nContent-Length: 0\r\nServer: Gearman/V\r\n\r\n",
        reason: FAILED_HANDLE,
    },
    Deviation {
        request: "data before the result",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 17\r\nServer: Gearman/V\r\n\r\none, two, data|-|",
        theirs: r"one,",
        reason: "data is put before the result; gearmand cuts it, and writes it over the head of its response",
    },
    Deviation {
        request: "progress",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 9\r\nServer: Gearman/V\r\n\r\nstatus|-|",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_STATUS\r\nContent-Length: 0\r\n",
        reason: NOT_THE_END,
    },
    Deviation {
        request: "a warning",
        ours: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 10\r\nServer: Gearman/V\r\n\r\nwarning|-|",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_WARNING\r\nContent-Length: 7\r\n",
        reason: NOT_THE_END,
    },
    Deviation {
        request: "a page of another site",
        ours: r"HTTP/1.0 403 FORBIDDEN\r\nServer: Gearman/V\r\nContent-Length: 71\r\n\r\nPages of other sites can submit no jobs here (Origin, Sec-Fetch-Site).\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nX-Gearman-Command: WORK_COMPLETE\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|-|",
        reason: FOREIGN,
    },
    Deviation {
        request: "another site, by HEAD",
        ours: r"HTTP/1.0 403 FORBIDDEN\r\nServer: Gearman/V\r\nContent-Length: 71\r\n\r\n",
        theirs: r"HTTP/1.0 200 OK\r\nX-Gearman-Job-Handle: H:t:1\r\nContent-Length: 7\r\nServer: Gearman/V\r\n\r\nshow|-|",
        reason: FOREIGN,
    },
];
