"""A managed worker in Python 3: a monitor finds it, gives it an id, and switches its functions on and off.

What is said between them is in docs/worker-contract.md. The functions, which you replace, are in managed_jobs.py.

    GEARMAN_SERVERS=queue1:4730,queue2:4730 FLEET_NAME=web python3 managed_worker.py

It needs Linux (for /proc) and nothing but the standard library. It has two connections to each server, each with a
thread: one does jobs, the other is managed, and answers while a job runs.
"""

import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time

from managed_connection import SERVERS, Connection
from managed_process import Jobs, start_another

# So many workers are started on a host: whoever may submit jobs can ask for one more.
MAX_WORKERS = int(os.environ.get("FLEET_MAX_WORKERS") or 64)


class Worker:
    """What a managed worker says of itself, and what it does when it is told to."""

    def __init__(self):
        self.id, self.started, self.is_leaving = None, time.time(), False
        self.jobs, self.turn = Jobs(), threading.Lock()
        self.manage = {"setId"}  # The function by which it is managed.

    def run(self):
        """Works until it is told to end. Its job and its last answer go out first."""
        signal.signal(signal.SIGTERM, lambda *_: self.leave())
        managed = [Connection(server, self.turn, lambda: self.manage, self.answer) for server in SERVERS]
        for connection in self.jobs.connections + managed:
            connection.start()
        while not self.is_leaving:
            time.sleep(0.05)
        with self.jobs.turn, self.turn:
            sys.stdout.flush()
            # The threads end with the process.
            os._exit(0)

    def answer(self, _, name, workload):
        try:
            answer = self.take_id(workload) if name == "setId" else self.obey(json.loads(workload))
        except Exception as error:
            answer = {"ok": False, "error": str(error) or repr(error)}
        return json.dumps(answer).encode()

    def take_id(self, workload):
        if self.id or not re.fullmatch(rb"[A-Za-z0-9._-]{1,64}", workload):
            raise ValueError("an id is given once, and has 1 to 64 letters, digits, dots, underscores or hyphens")
        self.id = workload.decode()
        self.manage = {"manage_" + self.id}
        return self.introduction()

    def introduction(self):
        return {
            "ok": True, "contract": 1, "id": self.id, "fleet": os.environ.get("FLEET_NAME") or "default",
            "host": os.environ.get("FLEET_HOST") or socket.gethostname(), "pid": os.getpid(), "language": "python",
            "version": self.jobs.version, "started": self.started, "functions": self.jobs.functions,
        }

    def obey(self, request):
        """Does what a request says. The status has all that is to be answered, and what is too much does no harm."""
        jobs, news = self.jobs, {}
        match request:
            case {"verb": "registerFunction" | "newWorker" | "reload"} if self.is_leaving:
                raise ValueError("this worker is leaving")
            case {"verb": "status" | "version"}:
                pass
            case {"verb": "registerFunction", "arguments": {"functions": [*names]}}:
                jobs.use(jobs.in_use | self.known(names))
            case {"verb": "unregisterFunction", "arguments": {"functions": [*names]}}:
                jobs.use(jobs.in_use - self.known(names))
            case {"verb": "newWorker"}:
                news = {"pid": start_another(MAX_WORKERS)}
            case {"verb": "exitWorker"}:
                self.leave()
            case {"verb": "reload"}:
                jobs.load()
                jobs.use(jobs.in_use & set(jobs.functions))
            case _:
                raise ValueError("the workload must be a JSON object with a verb of the contract and its arguments")
        pages, running = int(pathlib.Path("/proc/self/statm").read_text().split()[1]), jobs.running
        return self.introduction() | {
            "state": "leaving" if self.is_leaving else "working" if running else "idle", "running": running,
            "functionInUse": [name for name in jobs.functions if name in jobs.in_use],
            "functionNotUse": [name for name in jobs.functions if name not in jobs.in_use],
            "count": dict(jobs.count), "failures": dict(jobs.failures),
            "uptime": time.time() - self.started, "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        } | news

    def known(self, names):
        if unknown := [name for name in names if name not in self.jobs.functions]:
            raise ValueError(f"this worker cannot do {unknown}")
        return set(names)

    def leave(self):
        self.jobs.in_use, self.is_leaving = set(), True


if __name__ == "__main__":
    Worker().run()
