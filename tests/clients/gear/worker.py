"""A worker on gear. Usage: python worker.py HOST PORT"""

import sys

import gear

host, port = sys.argv[1:]


def reverse(job):
    job.sendWorkComplete(job.arguments[::-1])


def fail(job):
    job.sendWorkFail()


def exception(job):
    job.sendWorkException(job.arguments)


def progress(job):
    job.sendWorkData(b"one")
    job.sendWorkStatus(1, 3)
    job.sendWorkWarning(b"careful")
    job.sendWorkData(b"two")
    job.sendWorkStatus(2, 3)
    job.sendWorkData(b"three")
    job.sendWorkStatus(3, 3)
    job.sendWorkComplete(b"done")


def order(job):
    print("order", job.arguments.decode(), flush=True)
    job.sendWorkComplete(job.arguments)


def gate(job):
    """The workload names a FIFO: the job ends when somebody has written into it, with what was written."""
    job.sendWorkStatus(1, 2)
    print("gate", flush=True)
    with open(job.arguments, "rb") as fifo:
        job.sendWorkComplete(fifo.read())


functions = {f.__name__: f for f in (reverse, fail, exception, progress, order, gate)}

# The library reconnects by itself.
worker = gear.Worker("worker-of-gear")
worker.addServer(host, int(port))
worker.waitForServer()
for name in functions:
    worker.registerFunction(name)
while True:
    job = worker.getJob()
    functions[job.name](job)
