"""A worker on pygearman, the living fork of python-gearman. Usage: python worker.py HOST PORT"""

import sys
import time

import gearman
from gearman.errors import ServerUnavailable

host, port = sys.argv[1:]


class Failure(Exception):
    """A job that failed without a word."""


class Worker(gearman.GearmanWorker):
    """Sends the text of an exception to the client, as the library's manual proposes.

    The library sends WORK_FAIL after WORK_EXCEPTION; the job has ended by then, and the server's answer to the
    second is an ERROR that the library logs.
    """

    def on_job_exception(self, job, exc_info):
        if exc_info[0] is Failure:
            return super().on_job_exception(job, exc_info)
        self.send_job_exception(job, str(exc_info[1]).encode())
        return False


def reverse(worker, job):
    return job.data[::-1]


def fail(worker, job):
    raise Failure


def exception(worker, job):
    raise RuntimeError(job.data.decode())


def progress(worker, job):
    worker.send_job_data(job, b"one")
    worker.send_job_status(job, 1, 3)
    worker.send_job_warning(job, b"careful")
    worker.send_job_data(job, b"two")
    worker.send_job_status(job, 2, 3)
    worker.send_job_data(job, b"three")
    worker.send_job_status(job, 3, 3)
    return b"done"


def order(worker, job):
    print("order", job.data.decode(), flush=True)
    return job.data


def gate(worker, job):
    """The workload names a FIFO: the job ends when somebody has written into it, with what was written."""
    worker.send_job_status(job, 1, 2)
    print("gate", flush=True)
    with open(job.data, "rb") as fifo:
        return fifo.read()


worker = Worker([f"{host}:{port}"])
for function in (reverse, fail, exception, progress, order, gate):
    worker.register_task(function.__name__.encode(), function)
# When no server is left, work() raises; the next call connects anew.
while True:
    try:
        worker.work()
    except ServerUnavailable:
        time.sleep(0.05)
