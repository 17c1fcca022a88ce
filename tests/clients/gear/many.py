"""A worker on gear that offers many functions. Usage: python many.py HOST PORT COUNT"""

import sys

import gear

host, port, count = sys.argv[1:]
worker = gear.Worker("many")
worker.addServer(host, int(port))
worker.waitForServer()
for number in range(int(count)):
    worker.registerFunction("build:%d" % number)
print("registered", flush=True)
while True:
    job = worker.getJob()
    job.sendWorkComplete(job.name.encode())
