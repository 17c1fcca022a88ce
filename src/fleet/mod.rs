//! Managed workers: the contract between them and a monitor, the desired state of a fleet, and what is to be done next.
//!
//! Nothing here talks to anybody. `gearmand work --managed` is a worker that keeps the contract, `gearmand fleet` the
//! monitor; both are tools of the client side. The dashboard speaks the same contract.
//!
//! # The contract, for those who write workers
//! A managed worker is an ordinary Gearman worker, in any language, that can be found, asked and steered by ordinary
//! foreground jobs. It needs nothing of the job server that any Gearman server lacks.
//!
//! ## Two connections
//! A worker has a connection on which it does jobs, and one on which it is managed (to each server, if it has several).
//! It does **one job at a time**, over all its servers together: a host that is to do more has more workers. Each connection
//! says SET_CLIENT_ID with the worker's id once it has one; nothing depends on it, but listings of the server show it.
//!
//! Each server is there once. One that is listed twice in GEARMAN_SERVERS, perhaps by two names, gets twice the connections,
//! and counts the worker twice: two wait for an id, and two answer to it. Libraries on libgearman, such as PHP's extension, read
//! GEARMAN_SERVERS by themselves when a worker is made; whoever adds the same servers once more connects twice to each.
//!
//! The second connection answers while a job runs: **every answer is there within a second**, whatever the first one does.
//! In a language without threads that is a second process.
//!
//! ## It is given an id: `setId`
//! 1. It begins with the one function `setId` (CAN_DO on the managed connection), and with no other: what it does is up to
//!    the monitor.
//! 2. A job of `setId` has the worker's new id as its whole workload: 1 to 64 letters, digits, `.`, `_` or `-`, never given
//!    twice. Anything else it answers with an error (below).
//! 3. It registers `manage_` followed by the id, answers, and drops `setId` (CANT_DO, or the end of that connection), in
//!    this order: so whoever has the answer can manage it, and the answer arrives, since C++ gearmand takes a running job
//!    from a worker that drops its function. It asks for no job between the answer and the drop.
//!
//!    Where a library sends the answer only when the callback returns, as PHP's does, the callback makes a second worker
//!    object, adds `manage_<id>` to that, and lets it ask for a job once, which is when libgearman registers; it returns the
//!    introduction, and from then on the program calls `work()` of the second object alone and lets go of the first, whose
//!    connection ends and drops `setId` with it. `unregister()` will not do: under load it has no effect.
//! 4. It has this id until it ends, also when it has lost its connection: then it registers `manage_<id>` again instead of
//!    `setId`. A second `setId` that was on its way is answered with an error.
//!
//! The answer introduces it ([`Introduction`]):
//! ```json
//! {"ok": true, "contract": 1, "id": "web-5f0c9a", "fleet": "web", "host": "web1", "pid": 4711, "language": "php",
//!  "version": "2026-11-25", "started": 1795635600, "functions": ["mail", "resize"]}
//! ```
//! `host` is the host's name, or what the environment variable `FLEET_HOST` says; `fleet` is what `FLEET_NAME` says, or
//! `default`. `version` is that of the worker's own code, a text that changes with each release. `started` is in seconds
//! since 1970. `functions` are the names of all functions that it could do. None of them is `setId` or begins with
//! `manage_` or `fleet_`.
//!
//! ## What is written, and how long it may be
//! | what | how | at most |
//! | --- | --- | --- |
//! | an answer | a JSON object in UTF-8 | 1 MiB |
//! | `id`, `fleet`, `host` | letters, digits, `.`, `_` and `-`, at least one; other letters of a host's name become `-` | 64 bytes |
//! | `language` | text | 64 bytes |
//! | `version` | text; one that is longer is never the one that is wanted | 256 bytes |
//! | names of functions | text without NUL | 512 bytes, 4096 names |
//! | `running` | a list of objects | 64 |
//! | `contract`, `pid`, `memory`, numbers in `count` and `failures` | whole numbers, not negative | |
//! | `started`, `since`, `uptime` | numbers, whole or with a fraction, not negative | |
//!
//! What is not known is left out: no field need ever be `null`. `ok` and `id` are always there. An empty map is `{}`, an
//! empty list `[]`. Whoever reads is lenient, since languages differ: `[]` for an empty map, `{}` for an empty list, `null`,
//! `1.0` or `"1"` for a number do no harm; negative numbers count as 0, unknown states as `idle`. What is too long is cut.
//!
//! ## It is managed: `manage_<id>`
//! The workload is a JSON object with `verb`, and `arguments` where the verb has some; the result is a JSON object,
//! sent with WORK_COMPLETE. `"ok": true` says that it was done. A verb that is unknown, an argument that makes no sense
//! or a workload that is no JSON is answered with `{"ok": false, "error": "what was wrong with what"}`: never with an
//! exception or a failure, and it changes nothing. Fields that one does not know are ignored, on both sides.
//!
//! | verb | arguments | what it does | answer |
//! | --- | --- | --- | --- |
//! | `status` | | | [`Status`], below |
//! | `registerFunction` | `{"functions": [NAME, ...]}` | does jobs of them from now on | `functionInUse`, `functionNotUse` |
//! | `unregisterFunction` | `{"functions": [NAME, ...]}` | takes no more jobs of them; one that runs is finished, and CANT_DO sent after its result | the same |
//! | `newWorker` | | starts another worker like itself, with the code and settings that are there now; see below | `pid` of it |
//! | `exitWorker` | | takes no more jobs, finishes the one that runs, ends | `state`: `leaving` |
//! | `reload` | | takes up new code or settings without dropping a job, keeping its id; one that cannot says so with an error | `version` |
//! | `version` | | | `version`, `language`, `contract` |
//!
//! All names of an argument `functions` must be among those it could do, else nothing of it is done. A name that is in use
//! already, or not in use already, is no error. The new functions are in effect when the answer comes, except that a
//! worker in the middle of a job takes them up at its end.
//!
//! Whoever starts workers refuses beyond what the host can bear, with an error that says so: anybody who may submit jobs to the
//! server can ask for one more, again and again.
//!
//! The worker that `newWorker` starts has the same `FLEET_HOST` and `FLEET_NAME`, no functions in use and no id: it asks for
//! one by `setId`. It must do so within the monitor's `start_timeout` (30 seconds unless its file says otherwise), else it is
//! taken for one that failed to start.
//!
//! The answer to `status`:
//! ```json
//! {"ok": true, "contract": 1, "id": "web-5f0c9a", "fleet": "web", "host": "web1", "pid": 4711, "language": "php",
//!  "version": "2026-11-25", "started": 1795635600, "uptime": 86400.5, "state": "working",
//!  "functionInUse": ["resize"], "functionNotUse": ["mail"], "count": {"resize": 1200}, "failures": {"resize": 3},
//!  "running": [{"function": "resize", "handle": "H:q:17", "since": 1795721990}], "memory": 20971520}
//! ```
//! `state` is `working`, `idle` or `leaving`. `count` has the jobs that it has done of each function, failed ones
//! included; `failures` those that failed. `since` and `started` are in seconds since 1970, `uptime` in seconds, all with a
//! fraction if one likes; `memory` is what it has resident, in bytes.
//!
//! ## When it ends
//! A worker that ends by itself (so many jobs, so long a life, too much memory) finishes its job first and says `leaving`
//! meanwhile, as with `exitWorker`. While it leaves, `status`, `version`, `unregisterFunction` and `exitWorker` are answered
//! as ever, until the end; `registerFunction`, `newWorker` and `reload` with an error.
//!
//! One that has ended is known by the end of its connection: the server shows no worker for `manage_<id>` any more, and a
//! monitor that waits for an answer waits no longer. To end when told to is no failure.
//!
//! One that is killed is known by the end of its connection: its job goes to another worker, and the server shows no worker
//! for `manage_<id>` any more.
//!
//! ## What a monitor does
//! It reads `status` of the server (the text command): workers of `setId` wait for an id, and gets them one each; workers of
//! `manage_*` have one. So it finds late-comers, and all of them again after it was started anew, and two monitors of two
//! fleets on one server find each other's workers and leave them alone, by `fleet`.
//!
//! # The contract of monitors: `fleet_<name>`
//! A monitor is asked as workers are, by jobs of the function `fleet_` followed by the fleet's name: `verb` and `arguments`
//! in, an object with `ok` out. Arguments that a verb does not have are ignored. All verbs but `status` are answered
//! when the wish is taken over, not when all is done, with `did`, a text for people; whoever wants to see the end asks
//! for `status` until it says `settled`.
//!
//! | verb | arguments | what it does |
//! | --- | --- | --- |
//! | `status` | | tells what it knows: the answer is a [`report::Report`], of at most 16 MiB |
//! | `apply` | `{"desired": TEXT}` | takes over another desired state, as the text of a file |
//! | `roll` | `{"host": NAME}`, or none for all hosts | replaces workers, whatever version they are of |
//! | `stop` | `{"host": NAME}` | ends all workers of a host when their jobs are done, and uses none there |
//! | `start` | `{"host": NAME}` | uses the host again |
//!
//! A fleet has one monitor. Each names itself by SET_CLIENT_ID on the connection on which it answers: `monitor-`, the time
//! when it was started in milliseconds since 1970 with 13 digits, `-`, and its process. A monitor that comes
//! stands by while another one answers. When there are two nevertheless, both see it in the server's listing, and the one whose
//! client id is smaller in the order of bytes stays, which is the one that was started first; the other one stands by. One
//! that has a connection and does not answer is taken for dead.

pub mod contract;
pub mod decide;
pub mod desired;
mod lenient;
pub mod report;
mod time;

pub use contract::{Introduction, Refusal, Request, Run, Status, Verb, WorkerId, WorkerState};
