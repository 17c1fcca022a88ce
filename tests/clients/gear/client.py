"""A client on gear. Usage: python client.py HOST PORT COMMAND [ARGUMENT...]"""

import sys
import threading
import time

import gear

host, port, command, *arguments = sys.argv[1:]


class Job(gear.Job):
    """A job that can be waited for; a quiet one does not print its result."""

    def __init__(self, *arguments, quiet=False, **options):
        super().__init__(*arguments, **options)
        self.quiet = quiet
        self.ended = threading.Event()


class Client(gear.Client):
    """Prints what happens to its jobs, from the library's thread, in the order of arrival."""

    def handleWorkData(self, packet):
        job = super().handleWorkData(packet)
        print("data", packet.getArgument(1, True).decode(), flush=True)
        return job

    def handleWorkWarning(self, packet):
        job = super().handleWorkWarning(packet)
        print("warning", packet.getArgument(1, True).decode(), flush=True)
        return job

    def handleWorkStatus(self, packet):
        job = super().handleWorkStatus(packet)
        print(f"status {int(job.numerator)}/{int(job.denominator)}", flush=True)
        return job

    def handleWorkComplete(self, packet):
        job = super().handleWorkComplete(packet)
        if not job.quiet:
            print("complete", packet.getArgument(1, True).decode(), flush=True)
        job.ended.set()
        return job

    def handleWorkException(self, packet):
        job = super().handleWorkException(packet)
        print("exception", packet.getArgument(1, True).decode(), flush=True)
        job.ended.set()
        return job

    def handleWorkFail(self, packet):
        job = super().handleWorkFail(packet)
        print("fail", flush=True)
        job.ended.set()
        return job

    def handleDisconnect(self, job):
        super().handleDisconnect(job)
        job.ended.set()


def run(client, function, workload, unique=None):
    job = Job(function, workload.encode(), unique=unique and unique.encode())
    client.submitJob(job)
    job.ended.wait()
    return job


def background(client, function, workload):
    job = Job(function, workload.encode())
    client.submitJob(job, background=True)
    print("queued", flush=True)
    seen = False
    while True:
        job.known = None
        packet = gear.Packet(gear.constants.REQ, gear.constants.GET_STATUS, job.handle)
        job.connection.related_jobs[job.handle] = job
        client.sendPacket(packet, job.connection)
        while job.known is None:
            time.sleep(0.01)
        if not job.known:
            break
        if job.running and int(job.numerator) and not seen:
            print(f"running {int(job.numerator)}/{int(job.denominator)}", flush=True)
            seen = True
    print("finished", flush=True)


def priorities(client):
    precedences = {
        "low": gear.PRECEDENCE_LOW,
        "normal": gear.PRECEDENCE_NORMAL,
        "high": gear.PRECEDENCE_HIGH,
    }
    for name, precedence in precedences.items():
        client.submitJob(Job("order", f"{name} background".encode()), background=True, precedence=precedence)
    jobs = [Job("order", name.encode()) for name in precedences]
    for job in jobs:
        client.submitJob(job, precedence=precedences[job.arguments.decode()])
    for job in jobs:
        job.ended.wait()


def large(client, size):
    workload = b"0123456789abcdef" * (int(size) // 16)
    job = Job("reverse", workload, quiet=True)
    client.submitJob(job)
    job.ended.wait()
    result = b"".join(job.data)
    print("complete", len(result), "reversed" if result == workload[::-1] else "wrong", flush=True)


def repeat(client):
    for line in sys.stdin:
        while True:
            try:
                client.waitForServer()
                if not run(client, "reverse", line.rstrip("\n")).failure:
                    break
            except (gear.GearmanError, gear.NoConnectedServersError):
                time.sleep(0.05)


client = Client("client-of-gear")
client.addServer(host, int(port))
client.waitForServer()
if command == "run":
    run(client, *arguments)
elif command == "run-exceptions":
    client.setOption("exceptions")
    run(client, *arguments)
else:
    {"background": background, "priorities": priorities, "large": large, "repeat": repeat}[command](client, *arguments)
client.shutdown()
