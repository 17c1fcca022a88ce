"""A managed worker in Python 3: a monitor finds it, gives it an id, and switches its functions on and off.

What is said between them is in docs/worker-contract.md.

    GEARMAN_SERVERS=queue1:4730,queue2:4730 FLEET_NAME=web python3 managed_worker.py

It needs Linux (for /proc) and nothing but the standard library. To make it yours, change what stands above the line.
"""

import json
import os
import pathlib
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

# Another one with every release: the first line of the file VERSION beside this one, or of the one that is named here.
version_file = pathlib.Path(os.environ.get("WORKER_VERSION_FILE") or pathlib.Path(__file__).with_name("VERSION"))
VERSION = version_file.read_text().split("\n")[0] if version_file.exists() else "1"


def sleep_ms(workload):
    time.sleep(int(workload) / 1000)
    return workload


def log_line(workload):
    # One write at the file's end, so that the lines of several workers do not mix.
    with open(os.environ["LOG_FILE"], "ab", buffering=0) as file:
        file.write(b"%s %d\n" % (workload, os.getpid()))
    return workload


def fail(workload):
    raise RuntimeError("this function always fails")


# The function => what does it. It is called with the workload, and what it returns is the result, both in bytes; an
# exception fails the job.
FUNCTIONS = {"reverse": lambda workload: workload[::-1], "sleep_ms": sleep_ms, "log_line": log_line, "fail": fail}

# So many of these are started on a host: whoever may submit jobs can ask for one more.
MAX_WORKERS = int(os.environ.get("FLEET_MAX_WORKERS") or 64)

# ---------------------------------- What follows need not be touched. ----------------------------------
#
# There are two connections to each server, each with a thread: one does jobs, the other is managed. Python's Gearman
# libraries will not do: they change what a worker does while a job may be on its way to it, which is then done twice.

SERVERS = os.environ.get("GEARMAN_SERVERS", "127.0.0.1:4730").split(",")
CAN_DO, CANT_DO, PRE_SLEEP, NOOP, GRAB_JOB, JOB_ASSIGN, WORK_COMPLETE, WORK_FAIL = 1, 2, 4, 6, 9, 11, 13, 14


class Connection(threading.Thread):
    """Does jobs of the functions that `wanted` names at the time, as `do` says; comes back when the server was away.

    `turn` is held from the request for a job to its result: the connections to several servers do one job at a time.
    """

    def __init__(self, server, turn, wanted, do):
        super().__init__(daemon=True)
        self.server, self.turn, self.wanted, self.do = server, turn, wanted, do
        # The functions that the server knows of; None when it could not be reached.
        self.known = set()

    def run(self):
        host, _, port = self.server.strip().rpartition(":") if ":" in self.server else (self.server.strip(), "", 4730)
        while True:
            try:
                with socket.create_connection((host.strip("[]"), port), timeout=5) as self.socket:
                    self.socket.settimeout(None)
                    self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    self.known = set()
                    while True:
                        self.step()
            except (OSError, ValueError):
                # The server is away, or says what no server says.
                self.known = None
                time.sleep(0.2)

    def step(self):
        """Does a job, or waits until there may be one or the functions change."""
        with self.turn:
            # Never while a job is in hand: a server takes a running job from a worker that drops its function.
            wanted = self.wanted()
            self.tell(CANT_DO, self.known - wanted)
            self.tell(CAN_DO, wanted - self.known)
            self.send(GRAB_JOB)
            kind = NOOP
            while kind == NOOP:
                _, kind, size = struct.unpack(">4sII", self.receive(12))
                body = self.receive(size)
            # The server has answered, so it has heard that too.
            self.known = wanted
            if kind == JOB_ASSIGN:
                handle, function, workload = body.split(b"\0", 2)
                answer = self.do(handle.decode(), function.decode(), workload)
                # Who has been given an id can be managed by it when its answer is there.
                wanted = wanted | self.wanted()
                self.tell(CAN_DO, wanted - self.known)
                self.known = wanted
                self.send(*[WORK_FAIL, handle] if answer is None else [WORK_COMPLETE, handle, answer])
        if kind == JOB_ASSIGN:
            # A lock is not fair: with jobs in several servers, each gets its turn.
            time.sleep(0.001 if len(SERVERS) > 1 else 0)
            return
        self.send(PRE_SLEEP)
        while self.known == self.wanted() and not select.select([self.socket], [], [], 0.05)[0]:
            pass

    def tell(self, kind, functions):
        for function in functions:
            self.send(kind, function.encode())

    def send(self, kind, *arguments):
        body = b"\0".join(arguments)
        self.socket.sendall(struct.pack(">4sII", b"\0REQ", kind, len(body)) + body)

    def receive(self, size):
        data = self.socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise ConnectionError("the server has closed the connection")
        return data


def command_line(process):
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        # It has ended.
        return b""


class Worker:
    """What a managed worker knows of itself, and what it answers."""

    def __init__(self):
        self.me = {
            "ok": True, "contract": 1, "id": None, "fleet": os.environ.get("FLEET_NAME") or "default",
            "host": os.environ.get("FLEET_HOST") or socket.gethostname(), "pid": os.getpid(), "language": "python",
            "version": VERSION, "started": time.time(), "functions": list(FUNCTIONS),
        }
        self.in_use, self.is_leaving = set(), False
        self.count, self.failures, self.running = {}, {}, []
        self.manage = {"setId"}
        self.job_turn, self.answer_turn = threading.Lock(), threading.Lock()
        self.jobs = [Connection(server, self.job_turn, lambda: self.in_use, self.do_job) for server in SERVERS]
        self.managed = [Connection(server, self.answer_turn, lambda: self.manage, self.answer) for server in SERVERS]

    def run(self):
        """Works until it is told to end. Its job and its last answer go out first."""
        signal.signal(signal.SIGTERM, lambda *_: self.leave())
        for connection in self.jobs + self.managed:
            connection.start()
        while not self.is_leaving:
            time.sleep(0.05)
        with self.job_turn, self.answer_turn:
            sys.stdout.flush()
            # The threads end with the process.
            os._exit(0)

    def do_job(self, handle, name, workload):
        self.running = [{"function": name, "handle": handle, "since": time.time()}]
        try:
            # What is not bytes fails as well.
            return b"" + FUNCTIONS[name](workload)
        except Exception:
            traceback.print_exc()
            self.failures[name] = self.failures.get(name, 0) + 1
        finally:
            self.count[name] = self.count.get(name, 0) + 1
            self.running = []

    def answer(self, _, name, workload):
        try:
            answer = self.take_id(workload) if name == "setId" else self.obey(json.loads(workload))
        except Exception as error:
            answer = {"ok": False, "error": str(error) or repr(error)}
        return json.dumps(answer).encode()

    def take_id(self, workload):
        if self.me["id"] or not re.fullmatch(rb"[A-Za-z0-9._-]{1,64}", workload):
            raise ValueError("an id is given once, and has 1 to 64 letters, digits, dots, underscores or hyphens")
        self.me["id"] = workload.decode()
        self.manage = {"manage_" + self.me["id"]}
        return self.me

    def obey(self, request):
        """Does what a request says. The status has all that is to be answered, and what is too much does no harm."""
        news = {}
        match request:
            case {"verb": "status" | "version"}:
                pass
            case {"verb": "registerFunction", "arguments": {"functions": [*names]}}:
                self.use(names, True)
            case {"verb": "unregisterFunction", "arguments": {"functions": [*names]}}:
                self.use(names, False)
            case {"verb": "exitWorker"}:
                self.leave()
            case {"verb": "newWorker"}:
                own = pathlib.Path("/proc/self/cmdline").read_bytes()
                if sum(command_line(process) == own for process in pathlib.Path("/proc").glob("[0-9]*")) >= MAX_WORKERS:
                    raise ValueError(f"this host has {MAX_WORKERS} workers like this one already")
                # In a session of its own, without our terminal, and nobody's child.
                shell = ["sh", "-c", 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $!', "sh", sys.executable]
                news = {"pid": int(subprocess.check_output(shell + sys.orig_argv[1:]))}
            case {"verb": "reload"}:
                raise ValueError("this worker cannot reload: use newWorker, then exitWorker")
            case _:
                raise ValueError("the workload must be a JSON object with a verb of the contract and its arguments")
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        running = self.running
        return self.me | {
            "state": "leaving" if self.is_leaving else "working" if running else "idle", "running": running,
            "functionInUse": [name for name in FUNCTIONS if name in self.in_use],
            "functionNotUse": [name for name in FUNCTIONS if name not in self.in_use],
            "count": dict(self.count), "failures": dict(self.failures),
            "uptime": time.time() - self.me["started"], "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        } | news

    def use(self, names, is_on):
        """Does jobs of these functions or does not: when this returns, or from the end of the job that runs."""
        if unknown := [name for name in names if name not in list(FUNCTIONS)]:
            raise ValueError(f"this worker cannot do {unknown}")
        if self.is_leaving:
            raise ValueError("this worker is leaving")
        self.in_use = self.in_use | set(names) if is_on else self.in_use - set(names)
        # Not so long that the answer is late: it is due within a second.
        end = time.monotonic() + 0.8
        is_done = lambda: self.running or all(job.known in (None, self.in_use) for job in self.jobs)
        while not is_done() and time.monotonic() < end:
            time.sleep(0.001)

    def leave(self):
        self.in_use, self.is_leaving = set(), True


if __name__ == "__main__":
    Worker().run()
