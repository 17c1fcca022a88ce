"""A client on pygearman, the living fork of python-gearman. Usage: python client.py HOST PORT COMMAND [ARGUMENT...]"""

import sys
import time

import gearman
from gearman.client_handler import GearmanClientCommandHandler
from gearman.errors import ExceededConnectionAttempts, ServerUnavailable
from gearman.protocol import GEARMAN_COMMAND_OPTION_REQ

host, port, command, *arguments = sys.argv[1:]

# The library waits for results only when it is told how long, in seconds.
PATIENCE = 60.0


class Handler(GearmanClientCommandHandler):
    """Prints what happens to a job in the order of arrival, where the library only collects it."""

    exceptions = False

    def initial_state(self):
        if self.exceptions:
            self.send_command(GEARMAN_COMMAND_OPTION_REQ, option_name=b"exceptions")

    def recv_option_res(self, option_name):
        return True

    def recv_work_data(self, job_handle, data):
        print("data", data.decode(), flush=True)
        return super().recv_work_data(job_handle, data)

    def recv_work_warning(self, job_handle, data):
        print("warning", data.decode(), flush=True)
        return super().recv_work_warning(job_handle, data)

    def recv_work_status(self, job_handle, numerator, denominator):
        print(f"status {int(numerator)}/{int(denominator)}", flush=True)
        return super().recv_work_status(job_handle, numerator, denominator)

    def recv_work_exception(self, job_handle, data):
        print("exception", data.decode(), flush=True)
        super().recv_work_exception(job_handle, data)
        # The library waits for a WORK_FAIL; an exception is the end of a job.
        return self.recv_work_fail(job_handle)


class Client(gearman.GearmanClient):
    command_handler_class = Handler


def run(client, function, workload, unique=None):
    request = client.submit_job(
        function.encode(), workload.encode(), unique=unique and unique.encode(), poll_timeout=PATIENCE
    )
    if request.result is not None:
        print("complete", request.result.decode(), flush=True)
    elif request.exception is None:
        print("fail", flush=True)


def background(client, function, workload):
    request = client.submit_job(function.encode(), workload.encode(), background=True, wait_until_complete=False)
    print("queued", flush=True)
    seen = False
    while True:
        status = client.get_job_status(request).status
        if not status["known"]:
            break
        if status["running"] and status["numerator"] and not seen:
            print(f"running {status['numerator']}/{status['denominator']}", flush=True)
            seen = True
        time.sleep(0.01)
    print("finished", flush=True)


def priorities(client):
    priorities = {
        "low": gearman.PRIORITY_LOW,
        "normal": gearman.PRIORITY_NONE,
        "high": gearman.PRIORITY_HIGH,
    }
    jobs = [
        {"task": b"order", "data": name.encode(), "priority": priority} for name, priority in priorities.items()
    ]
    client.submit_multiple_jobs(
        [{**job, "data": job["data"] + b" background"} for job in jobs], background=True, wait_until_complete=False
    )
    for request in client.submit_multiple_jobs(jobs, poll_timeout=PATIENCE):
        print("complete", request.result.decode(), flush=True)


def large(client, size):
    workload = b"0123456789abcdef" * (int(size) // 16)
    result = client.submit_job(b"reverse", workload, poll_timeout=PATIENCE).result
    print("complete", len(result), "reversed" if result == workload[::-1] else "wrong", flush=True)


def repeat(client):
    for line in sys.stdin:
        while True:
            try:
                request = client.submit_job(b"reverse", line.rstrip("\n").encode(), poll_timeout=PATIENCE)
                if request.result is not None:
                    break
            except (ExceededConnectionAttempts, ServerUnavailable):
                pass
            time.sleep(0.05)
        print("complete", request.result.decode(), flush=True)


client = Client([f"{host}:{port}"])
if command == "run":
    run(client, *arguments)
elif command == "run-exceptions":
    Handler.exceptions = True
    run(client, *arguments)
else:
    {"background": background, "priorities": priorities, "large": large, "repeat": repeat}[command](client, *arguments)
