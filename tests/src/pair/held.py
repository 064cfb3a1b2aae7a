"""A connection that its machine does not give up, as one whose server is frozen: held.py EXPORT HOST:PORT

Writes the first block, and says "ready"; at the next line of standard input asks for a write, a read and a flush, says
"sent", and once the connection has ended or all is answered, how each ended (JSON: 0 is an answer).
"""

import errno
import json
import sys
import time

import nbd

BLOCK = 4096
LIMIT = 60

handle = nbd.NBD()
handle.set_export_name(sys.argv[1])
handle.connect_tcp(*sys.argv[2].rsplit(":", 1))
handle.pwrite(b"\1" * BLOCK, 0)
handle.flush()
print("ready", flush=True)
sys.stdin.readline()
ends = {}


def end(name):
    def ended(error):
        ends[name] = errno.errorcode.get(error.value, error.value)
        return 1

    return ended


handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"\2" * BLOCK)), 0, completion=end("write"))
handle.aio_pread(nbd.Buffer(BLOCK), BLOCK, completion=end("read"))
handle.aio_flush(completion=end("flush"))
print("sent", flush=True)
until = time.monotonic() + LIMIT
while len(ends) < 3 and time.monotonic() < until:
    try:
        handle.poll(100)
    except nbd.Error:
        pass
print(json.dumps(ends), flush=True)
