"""The connections of managed_worker.py to its servers.

Python's Gearman libraries will not do: they change what a worker does while a job may be on its way to it, which is
then done twice.
"""

import os
import select
import socket
import struct
import threading
import time

SERVERS = os.environ.get("GEARMAN_SERVERS", "127.0.0.1:4730").split(",")
CAN_DO, CANT_DO, PRE_SLEEP, NOOP, GRAB_JOB, JOB_ASSIGN, WORK_COMPLETE, WORK_FAIL = 1, 2, 4, 6, 9, 11, 13, 14


class Connection(threading.Thread):
    """Does jobs of the functions that `wanted` names at the time, as `do` says; comes back when the server was away.

    `turn` is held from the request for a job to its result: the connections to several servers do one job at a time.
    """

    def __init__(self, server, turn, wanted, do):
        super().__init__(daemon=True)
        self.server, self.turn, self.wanted, self.do = server, turn, wanted, do
        # The functions that the server knows of; None when it could not be reached.
        self.known = set()

    def run(self):
        host, _, port = self.server.strip().rpartition(":") if ":" in self.server else (self.server.strip(), "", 4730)
        while True:
            try:
                with socket.create_connection((host.strip("[]"), port), timeout=5) as self.socket:
                    self.socket.settimeout(None)
                    self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    self.known = set()
                    while True:
                        self.step()
            except (OSError, ValueError):
                # The server is away, or says what no server says.
                self.known = None
                time.sleep(0.2)

    def step(self):
        """Does a job, or waits until there may be one or the functions change."""
        with self.turn:
            # Never while a job is in hand: a server takes a running job from a worker that drops its function.
            wanted = self.wanted()
            self.tell(CANT_DO, self.known - wanted)
            self.tell(CAN_DO, wanted - self.known)
            self.send(GRAB_JOB)
            kind = NOOP
            while kind == NOOP:
                _, kind, size = struct.unpack(">4sII", self.receive(12))
                body = self.receive(size)
            # The server has answered, so it has heard that too.
            self.known = wanted
            if kind == JOB_ASSIGN:
                handle, function, workload = body.split(b"\0", 2)
                answer = self.do(handle.decode(), function.decode(), workload)
                # Who has been given an id can be managed by it when its answer is there.
                wanted = wanted | self.wanted()
                self.tell(CAN_DO, wanted - self.known)
                self.known = wanted
                self.send(*[WORK_FAIL, handle] if answer is None else [WORK_COMPLETE, handle, answer])
        if kind == JOB_ASSIGN:
            # A lock is not fair: with jobs in several servers, each gets its turn.
            time.sleep(0.001 if len(SERVERS) > 1 else 0)
            return
        self.send(PRE_SLEEP)
        while self.known == self.wanted() and not select.select([self.socket], [], [], 0.05)[0]:
            pass

    def tell(self, kind, functions):
        for function in functions:
            self.send(kind, function.encode())

    def send(self, kind, *arguments):
        body = b"\0".join(arguments)
        self.socket.sendall(struct.pack(">4sII", b"\0REQ", kind, len(body)) + body)

    def receive(self, size):
        data = self.socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise ConnectionError("the server has closed the connection")
        return data
