"""The functions of managed_worker.py. It reads this file when it starts, and again when it is told to `reload`.

To make it yours, replace what is here. Modules that this file imports are not read again.
"""

import os
import pathlib
import time

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
