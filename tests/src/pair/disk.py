"""A machine's disk under load, by libnbd: writes, reads back, flushes, and goes from one server to the other.

    disk.py EXPORT DEPTH SERVER...      (a server is HOST:PORT)

Does what the kernel and the client agent do together: one connection at a time; when it ends or is silent, what was not
answered is asked again of the next server that takes the connection. Every block carries its number and the number of
the write that made it. A command a line on standard input, an answer a line (JSON) on standard output:

    report    what was done so far
    mark      forgets the pauses, errors and attachments so far
    grow      writes as many blocks again, which nobody has written before
    rest, go  no load; load again
    verify    reads every block; "wrong" lists those that are not what was answered
    quit
"""

import collections
import errno
import json
import queue
import random
import struct
import sys
import threading
import time

import nbd

BLOCK = 4096
BLOCKS = 2048
FLUSH_EVERY = 32
# Seconds: until a handshake is given up, until a silent server is.
HANDSHAKE = 1
SILENCE = 2
PAUSE = 0.3
# The number of no write: the image's own content, which looks like no block of the load.
UNWRITTEN = 0


def pattern(block, number):
    return bytearray(struct.pack("<QQ", number, block) * (BLOCK // 16))


class Request:
    def __init__(self, kind, block=0, number=0, may=()):
        self.kind, self.block, self.number, self.may = kind, block, number, may
        self.buffer = pattern(block, number) if kind == "write" else None
        self.result = None
        self.since = 0


class Disk:
    def __init__(self, export, depth, servers):
        self.export, self.depth = export, depth
        self.servers = collections.deque(servers)
        self.handle = None
        self.pending, self.again = [], collections.deque()
        self.plan = collections.deque()
        # What each block may hold: what was answered last, and what was answered with an error since.
        self.holds = {}
        self.busy = set()
        self.number = self.answered = self.flushes = 0
        self.loading = True
        self.failed, self.wrong = [], []
        self.last = time.monotonic()
        self.forget()
        self.size = 0
        self.grow()

    def grow(self):
        begin, self.size = self.size, self.size + 512
        self.plan.extend(("write", block) for block in range(begin, self.size))

    def forget(self):
        self.pauses, self.failed, self.attached = [], [], []

    # The connection.

    def attach(self):
        while self.handle is None:
            server = self.servers[0]
            try:
                self.handle = self.dial(*server.rsplit(":", 1))
                self.attached.append(server)
            except (nbd.Error, TimeoutError):
                self.servers.rotate(-1)
                time.sleep(0.02)
                if self.commands_wait():
                    return
        for request in self.again:
            self.submit(request)
        self.again.clear()

    def dial(self, host, port):
        handle = nbd.NBD()
        handle.set_export_name(self.export)
        until = time.monotonic() + HANDSHAKE
        handle.aio_connect_tcp(host, port)
        while not handle.aio_is_ready():
            if handle.aio_is_dead() or handle.aio_is_closed():
                raise TimeoutError("closed")
            if time.monotonic() > until:
                raise TimeoutError("silent")
            handle.poll(50)
        return handle

    def leave(self):
        self.handle = None
        self.again.extend(self.pending)
        self.pending = []
        self.servers.rotate(-1)

    # Requests.

    def submit(self, request):
        handle = self.handle

        def ended(error):
            if handle is self.handle:
                request.result = error.value
            return 1

        def data(*_):
            return 0

        request.since, request.result = time.monotonic(), None
        self.pending.append(request)
        offset = request.block * BLOCK
        if request.kind == "write":
            handle.aio_pwrite(nbd.Buffer.from_bytearray(request.buffer), offset, completion=ended)
        elif request.kind == "read":
            request.buffer = nbd.Buffer(BLOCK)
            handle.aio_pread(request.buffer, offset, completion=ended)
        else:
            handle.aio_flush(completion=ended)

    def next_request(self):
        if self.plan:
            kind, block = self.plan.popleft()
        elif not self.loading:
            return None
        else:
            kind = random.choices(["write", "read", "flush"], [FLUSH_EVERY, FLUSH_EVERY / 2, 1])[0]
            block = random.randrange(self.size)
        if kind == "flush":
            return Request(kind)
        if block in self.busy:
            return None
        self.busy.add(block)
        if kind == "read":
            return Request(kind, block, may=list(self.holds.get(block, [UNWRITTEN])))
        self.number += 1
        return Request(kind, block, self.number)

    def fill(self):
        for _ in range(4 * self.depth):
            if len(self.pending) >= self.depth or not (self.plan or self.loading):
                return
            if self.plan and self.plan[0][1] in self.busy:
                return
            request = self.next_request()
            if request:
                self.submit(request)

    def settle(self):
        done = [request for request in self.pending if request.result is not None]
        self.pending = [request for request in self.pending if request.result is None]
        for request in done:
            self.end(request)

    def end(self, request):
        self.busy.discard(request.block) if request.kind != "flush" else None
        if request.result:
            self.failed.append(errno.errorcode.get(request.result, request.result))
            if request.kind == "write":
                self.holds.setdefault(request.block, [UNWRITTEN]).append(request.number)
            return
        now = time.monotonic()
        if now - self.last > PAUSE:
            self.pauses.append(now - self.last)
        self.last = now
        self.answered += 1
        if request.kind == "write":
            self.holds[request.block] = [request.number]
        elif request.kind == "read":
            self.check(request)
        else:
            self.flushes += 1

    def check(self, request):
        found = bytes(request.buffer.to_bytearray())
        if any(found == bytes(pattern(request.block, number)) for number in request.may):
            return
        number, block = struct.unpack("<QQ", found[:16])
        another = number > 0 and found == bytes(pattern(block, number))
        if another or UNWRITTEN not in request.may:
            self.wrong.append([request.block, request.may, number, block])

    def turn(self):
        """One round of the load."""
        if self.handle is None:
            self.attach()
        if self.handle is None:
            return
        try:
            self.fill()
            self.handle.poll(20)
        except nbd.Error:
            pass
        over = self.handle.aio_is_dead() or self.handle.aio_is_closed()
        if over:
            # What it says of requests that were under way is not the server's word.
            for request in self.pending:
                request.result = None if request.result else request.result
        self.settle()
        now = time.monotonic()
        silent = any(now - request.since > SILENCE for request in self.pending)
        if over or silent:
            self.leave()

    # Commands.

    def commands_wait(self):
        return not commands.empty()

    def report(self):
        running = time.monotonic() - self.last
        return {
            "answered": self.answered,
            "flushes": self.flushes,
            "failed": self.failed,
            "wrong": self.wrong,
            "attached": self.attached,
            "waiting": len(self.pending) + len(self.again),
            "pause": max(self.pauses + [running if self.loading else 0]),
        }

    def idle(self):
        while self.pending or self.again or self.plan:
            self.turn()

    def verify(self):
        was, self.loading = self.loading, False
        self.idle()
        for block in sorted(self.holds):
            self.plan.append(("read", block))
        self.idle()
        self.loading, self.last = was, time.monotonic()
        return self.report() | {"verified": len(self.holds)}

    def obey(self, command):
        if command == "verify":
            return self.verify()
        if command == "mark":
            self.forget()
        elif command == "grow":
            self.grow()
        elif command == "rest":
            self.loading = False
            self.idle()
        elif command == "go":
            self.loading, self.last = True, time.monotonic()
        return self.report()


commands = queue.Queue()


def listen():
    for line in sys.stdin:
        commands.put(line.strip())
    commands.put("quit")


def main():
    disk = Disk(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    threading.Thread(target=listen, daemon=True).start()
    while True:
        disk.turn()
        try:
            command = commands.get_nowait()
        except queue.Empty:
            if not (disk.loading or disk.pending or disk.again or disk.plan):
                time.sleep(0.01)
            continue
        if command == "quit":
            return
        print(json.dumps(disk.obey(command)), flush=True)


main()
