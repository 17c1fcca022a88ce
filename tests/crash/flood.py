"""Submits background jobs one after the other, and says which ones were acknowledged, until the server is gone.

Usage: python flood.py PORT FUNCTION FIRST LAST
"""

import sys

import gear

port, function, first, last = sys.argv[1:]
client = gear.Client()
client.addServer("127.0.0.1", int(port))
client.waitForServer()
for serial in range(int(first), int(last) + 1):
    job = gear.Job(function, f"{serial} foreign".encode())
    client.submitJob(job, background=True, timeout=20)
    print(serial, job.handle.decode(), flush=True)
