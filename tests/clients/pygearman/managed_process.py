"""What does the jobs of managed_worker.py, and starts other workers."""

import os
import pathlib
import subprocess
import sys
import threading
import time
import traceback

from managed_connection import SERVERS, Connection

JOBS_FILE = pathlib.Path(__file__).with_name("managed_jobs.py")


class Jobs:
    """Does jobs of the functions in use, one at a time, and counts them."""

    def __init__(self):
        self.code, self.in_use = {}, set()
        self.count, self.failures, self.running = {}, {}, []
        self.load()
        self.turn = threading.Lock()
        self.connections = [Connection(server, self.turn, lambda: self.in_use, self.do) for server in SERVERS]

    def load(self):
        """Takes up the functions as they are now in their file. The job that runs ends as it has begun."""
        file = {"__file__": str(JOBS_FILE)}
        exec(compile(JOBS_FILE.read_text(), JOBS_FILE, "exec"), file)
        # Jobs of a function that is gone may be on their way.
        self.code = self.code | file["FUNCTIONS"]
        self.functions, self.version = list(file["FUNCTIONS"]), file["VERSION"]

    def do(self, handle, name, workload):
        self.running = [{"function": name, "handle": handle, "since": time.time()}]
        try:
            # What is not bytes fails as well.
            return b"" + self.code[name](workload)
        except Exception:
            traceback.print_exc()
            self.failures[name] = self.failures.get(name, 0) + 1
        finally:
            self.count[name] = self.count.get(name, 0) + 1
            self.running = []

    def use(self, functions):
        """Does jobs of these functions and no others: when this returns, or from the end of the job that runs."""
        self.in_use = functions
        # Not so long that the answer is late: it is due within a second.
        end = time.monotonic() + 0.8
        is_done = lambda: self.running or all(one.known in (None, self.in_use) for one in self.connections)
        while not is_done() and time.monotonic() < end:
            time.sleep(0.001)


def start_another(most):
    """Starts another worker, in a session of its own, and returns its process id, unless it ends at once."""
    own = pathlib.Path("/proc/self/cmdline").read_bytes()
    if sum(command_line(process) == own for process in pathlib.Path("/proc").glob("[0-9]*")) >= most:
        raise ValueError(f"this host has {most} workers like this one already")
    nothing = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.DEVNULL)
    worker = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], start_new_session=True, **nothing)
    try:
        status = worker.wait(timeout=0.3)
    except subprocess.TimeoutExpired:
        # Waits for its end, after which it would stay as a zombie.
        threading.Thread(target=worker.wait, daemon=True).start()
        return worker.pid
    raise RuntimeError(f"the new worker has ended as soon as it was started, with status {status}")


def command_line(process):
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        # It has ended.
        return b""
