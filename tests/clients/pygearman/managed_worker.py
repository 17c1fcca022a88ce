"""A managed worker in Python 3: a monitor finds it, gives it an id, and switches its functions on and off.

What is said between them is in the documentation of the crate, in src/fleet/mod.rs.

To make it yours: put your functions into FUNCTIONS, and raise VERSION with every release. Start it as

    GEARMAN_SERVERS=queue1:4730,queue2:4730 FLEET_NAME=web python3 managed_worker.py

It needs Linux (for /proc) and nothing but the standard library. Python's Gearman libraries change what a worker does
by RESET_ABILITIES, or from another thread: a job that is being assigned at that moment is done twice.

It has two connections to each server, each with a thread: one is managed, the other does jobs, one at a time.

Environment: GEARMAN_SERVERS, FLEET_NAME and FLEET_HOST; FUNCTIONS="a,b" cuts the list of functions down to some;
WORKER_VERSION_FILE names a file whose first line is the version.
"""

import json
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

VERSION = "1"


def reverse(workload):
    return workload[::-1]


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
FUNCTIONS = {"reverse": reverse, "sleep_ms": sleep_ms, "log_line": log_line, "fail": fail}

# ---- What follows need not be changed.

CAN_DO, CANT_DO, PRE_SLEEP, NOOP, GRAB_JOB, JOB_ASSIGN, WORK_COMPLETE, WORK_FAIL = 1, 2, 4, 6, 9, 11, 13, 14

# An answer is due within a second.
PATIENCE = 0.8


class Connection(threading.Thread):
    """Does jobs of some functions for one server, as `do` says, and comes back when the server was away.

    `turn` is held from the request for a job to its result. Whoever holds it knows that no job is in hand.
    """

    def __init__(self, server, do, turn, functions, pause):
        super().__init__(daemon=True)
        host, _, port = server.strip().rpartition(":")
        self.address = (host.strip("[]"), int(port))
        self.do, self.turn, self.wanted, self.pause = do, turn, frozenset(functions), pause
        # What the server was told; None after it could not be reached.
        self.known = frozenset()
        self.changed, self.poke = socket.socketpair()

    def want(self, functions):
        """Has it do jobs of these functions, from the end of the one that runs."""
        self.wanted = frozenset(functions)
        self.poke.send(b"!")

    def run(self):
        while True:
            try:
                with socket.create_connection(self.address, timeout=5) as self.socket:
                    self.socket.settimeout(None)
                    self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    self.known = frozenset()
                    while True:
                        self.step()
            except OSError:
                self.known = None
                time.sleep(0.2)

    def step(self):
        """Does a job, or waits for one, or for a change of the functions."""
        with self.turn:
            # Never while a job is in hand: a server takes a running job from a worker that drops its function.
            for function in self.known - self.wanted:
                self.send(CANT_DO, function.encode())
            self.known &= self.wanted
            self.announce()
            self.send(GRAB_JOB)
            kind, body = NOOP, b""
            while kind == NOOP:
                kind, body = self.receive()
            if kind == JOB_ASSIGN:
                handle, function, workload = body.split(b"\0", 2)
                kind, *result = self.do(self, handle.decode(), function.decode(), workload)
                # What the job has added is there when its result comes.
                self.announce()
                self.send(kind, handle, *result)
        if kind == WORK_COMPLETE or kind == WORK_FAIL:
            # A lock is not fair: with jobs in all servers, each gets its turn.
            time.sleep(self.pause)
            return
        self.send(PRE_SLEEP)
        if self.changed in select.select([self.socket, self.changed], [], [])[0]:
            self.changed.recv(64)

    def announce(self):
        for function in self.wanted - self.known:
            self.send(CAN_DO, function.encode())
        self.known |= self.wanted

    def send(self, kind, *arguments):
        body = b"\0".join(arguments)
        self.socket.sendall(struct.pack(">4sII", b"\0REQ", kind, len(body)) + body)

    def receive(self):
        _, kind, size = struct.unpack(">4sII", self.receive_bytes(12))
        return kind, self.receive_bytes(size)

    def receive_bytes(self, size):
        data = self.socket.recv(size, socket.MSG_WAITALL) if size else b""
        if len(data) < size:
            raise ConnectionError("the server has closed the connection")
        return data


class Worker:
    """What a managed worker knows of itself, and what it answers."""

    def __init__(self, servers, functions, version, resumed):
        self.functions, self.version = functions, version
        self.host = os.environ.get("FLEET_HOST") or socket.gethostname()
        self.fleet = os.environ.get("FLEET_NAME") or "default"
        # After a reload it goes on as what it was.
        self.started = resumed.get("started", time.time())
        self.id, self.in_use = resumed.get("id"), [name for name in resumed.get("in_use", []) if name in functions]
        self.count, self.failures = resumed.get("count", {}), resumed.get("failures", {})
        self.running = []
        # The main thread waits for a byte here. An Event would not do: a signal's handler may not take a lock.
        self.ending, self.ended, self.poke = False, *socket.socketpair()
        # What is started in this process when the job in hand has ended, instead of an end.
        self.successor = None
        # One job at a time, whichever server has it; and one answer.
        self.job_turn, self.answer_turn = threading.RLock(), threading.RLock()
        pause = 0.001 if len(servers) > 1 else 0
        by = f"manage_{self.id}" if self.id else "setId"
        self.jobs = [Connection(server, self.do_job, self.job_turn, self.in_use, pause) for server in servers]
        self.managed = [Connection(server, self.do_managed, self.answer_turn, [by], pause) for server in servers]

    def do_job(self, _, handle, name, workload):
        self.running = [{"function": name, "handle": handle, "since": time.time()}]
        try:
            # What is not bytes fails as well.
            answer = (WORK_COMPLETE, b"" + self.functions[name](workload))
        except Exception:
            traceback.print_exc()
            answer = (WORK_FAIL,)
            self.failures[name] = self.failures.get(name, 0) + 1
        self.count[name] = self.count.get(name, 0) + 1
        self.running = []
        return answer

    def do_managed(self, connection, _, name, workload):
        try:
            answer = self.set_id(connection, workload) if name == "setId" else self.answer(workload)
            return (WORK_COMPLETE, json.dumps({"ok": True, **answer}).encode())
        except Exception as error:
            return (WORK_COMPLETE, json.dumps({"ok": False, "error": str(error) or repr(error)}).encode())

    def set_id(self, connection, workload):
        if self.id:
            raise ValueError(f"this worker has the id {self.id} already")
        if not re.fullmatch(rb"[A-Za-z0-9._-]{1,64}", workload):
            raise ValueError("the id must have 1 to 64 letters, digits, dots, underscores or hyphens")
        self.id = workload.decode()
        # This connection registers it before it answers, and drops setId after that.
        for managed in self.managed:
            managed.want([f"manage_{self.id}"])
        return self.introduction()

    def answer(self, workload):
        request = json.loads(workload)
        verb, arguments = (request.get("verb"), request.get("arguments")) if isinstance(request, dict) else (None, None)
        verbs = {
            "status": self.status,
            "registerFunction": lambda: self.use(self.in_use + self.checked(arguments)),
            "unregisterFunction": lambda: self.use(set(self.in_use) - set(self.checked(arguments))),
            "newWorker": self.new_worker,
            "exitWorker": self.leave,
            "reload": self.reload,
            "version": lambda: {"version": self.version, "language": "python", "contract": 1},
        }
        if not isinstance(verb, str) or verb not in verbs:
            raise ValueError("the workload must be a JSON object with one of the known verbs")
        return verbs[verb]()

    def introduction(self):
        return {
            "contract": 1, "id": self.id, "fleet": self.fleet, "host": self.host, "pid": os.getpid(),
            "language": "python", "version": self.version, "started": self.started, "functions": list(self.functions),
        }

    def status(self):
        with open("/proc/self/statm") as statm:
            memory = int(statm.read().split()[1]) * resource.getpagesize()
        running = self.running
        state = "leaving" if self.ending else "working" if running else "idle"
        return self.introduction() | self.use_of_functions() | {
            "uptime": time.time() - self.started, "state": state, "count": dict(self.count),
            "failures": dict(self.failures), "running": running, "memory": memory,
        }

    def use_of_functions(self):
        not_in_use = [name for name in self.functions if name not in self.in_use]
        return {"functionInUse": self.in_use, "functionNotUse": not_in_use}

    def checked(self, arguments):
        """The argument `functions`, if all of it makes sense."""
        names = arguments.get("functions") if isinstance(arguments, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('the argument "functions" must be a list of names')
        if unknown := [name for name in names if name not in self.functions]:
            raise ValueError(f"this worker cannot do: {', '.join(unknown)}")
        if self.ending:
            raise ValueError("this worker is leaving")
        return names

    def use(self, names):
        """Does jobs of these functions: when this returns, or from the end of the job that runs."""
        self.in_use = [name for name in self.functions if name in names]
        for connection in self.jobs:
            connection.want(self.in_use)
        end = time.monotonic() + PATIENCE
        untold = lambda job: job.known is not None and job.known != job.wanted
        while any(map(untold, self.jobs)) and not self.running and time.monotonic() < end:
            time.sleep(0.001)
        # Who has the turn now has heard the server's answer to it.
        if not self.running and self.job_turn.acquire(timeout=0.1):
            self.job_turn.release()
        return self.use_of_functions()

    def new_worker(self):
        """Starts another one: in a session of its own, without our terminal, and nobody's child."""
        shell = ["sh", "-c", 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $!', "sh", *command()]
        return {"pid": int(subprocess.run(shell, stdout=subprocess.PIPE, check=True).stdout)}

    def leave(self):
        self.ending = True
        for connection in self.jobs:
            connection.want([])
        self.poke.send(b"!")
        return {"state": "leaving"}

    def reload(self):
        if self.ending:
            raise ValueError("this worker is leaving")
        # Code that does not even start is not taken up.
        new = subprocess.run([*command(), "--version"], stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
        self.successor = command()
        self.leave()
        return {"version": new.stdout.decode().strip()}

    def run(self):
        """Works until it is told to end. Its job and its last answer go out first."""
        for connection in self.jobs + self.managed:
            connection.start()
        self.ended.recv(1)
        with self.job_turn, self.answer_turn:
            sys.stdout.flush()
            if self.successor:
                kept = ("id", "started", "in_use", "count", "failures")
                os.environ["FLEET_RESUME"] = json.dumps({name: getattr(self, name) for name in kept})
                os.execvp(self.successor[0], self.successor)
            # The threads end with the process.
            os._exit(0)


def command():
    """How this program was started, the options of Python included."""
    return [sys.executable, *sys.orig_argv[1:]]


def version():
    try:
        with open(os.environ["WORKER_VERSION_FILE"]) as file:
            return file.readline().strip()
    except (KeyError, OSError):
        return VERSION


def main():
    if sys.argv[-1] == "--version":
        print(version())
        return
    cut = os.environ.get("FUNCTIONS")
    functions = {name: do for name, do in FUNCTIONS.items() if not cut or name in cut.split(",")}
    servers = os.environ.get("GEARMAN_SERVERS", "127.0.0.1:4730").split(",")
    resumed = json.loads(os.environ.pop("FLEET_RESUME", "{}"))
    worker = Worker(servers, functions, version(), resumed)
    signal.signal(signal.SIGTERM, lambda *_: worker.leave())
    worker.run()


if __name__ == "__main__":
    main()
