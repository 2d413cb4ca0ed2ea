"""EBS direct on loopback, as cheap as Python allows: one thread, answers made beforehand, every one of them late.

    python -m tests.bench.stub --listed 2048 --distinct 2048 --gib 8 --latency-ms 100

It prints one line of JSON, then serves until it is killed: the snapshot `SNAPSHOT` is there to be read; what is put is
compared with the blocks that it knows, and its checksums are kept (`GET /_put/ID` tells their digest).
Errors are as bare as can be: this is no double of AWS (bundler/lab/moto_ebs.py is).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB
from tests.bench.content import SEED, blocks

SNAPSHOT = "snap-0123456789abcdef0"
_HEADER_BYTES = 16 << 10
_BUFFER_BYTES = 4 << 20
_BLOCK = re.compile(rb"/snapshots/([^/?]+)/blocks/(\d+)")
_LIST = re.compile(rb"/snapshots/([^/?]+)/blocks(?:\?|\Z)")
_COMPLETE = re.compile(rb"/snapshots/completion/([^/?]+)")
_PUT = re.compile(rb"/_put/([^/?]+)")
Answer = tuple[bytes, bytes]


@dataclass
class Snapshot:
    """What was put: block -> its checksum, as it was stated and found right."""

    gib: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    completed: bool = False

    @property
    def digests(self) -> bytes:
        return b"".join(base64.b64decode(self.blocks[number]) for number in sorted(self.blocks))


class Ebs:
    """The API."""

    def __init__(self, *, listed: int, distinct: int, gib: int, seed: int) -> None:
        self._gib = gib
        self._content = list(blocks(distinct, seed=seed))
        self.sha256 = [hashlib.sha256(content).digest() for content in self._content]
        checksums = [base64.b64encode(digest) for digest in self.sha256]
        self._known = dict(zip(checksums, self._content, strict=True))
        self._heads = [
            _head(
                b"200 OK",
                BLOCK_BYTES,
                b"Content-Type: application/octet-stream\r\nx-amz-Data-Length: %d\r\nx-amz-Checksum: %s\r\n"
                b"x-amz-Checksum-Algorithm: SHA256\r\n" % (BLOCK_BYTES, checksum),
            )
            for checksum in checksums
        ]
        step = gib * BLOCKS_PER_GIB // listed
        self.numbers = range(0, listed * step, step)
        self._snapshots: dict[bytes, Snapshot] = {}

    def answer(self, line: bytes, header: bytes, body: bytearray | None) -> Answer:
        """Answer a request; `body` is whole."""
        method, target, _ = line.split(b" ", 2)
        if found := _BLOCK.match(target):
            if method == b"GET":
                place = int(found[2]) // self.numbers.step % len(self._content)
                return self._heads[place], self._content[place]
            return self._put(found[1], int(found[2]), _value(header, b"x-amz-checksum"), body)
        if found := _LIST.match(target):
            return _json(b"200 OK", self._page(target))
        if found := _COMPLETE.match(target):
            return self._complete(self._snapshots[found[1]], header)
        if found := _PUT.match(target):
            put = self._snapshots[found[1]]
            sha256 = hashlib.sha256(put.digests).hexdigest()
            return _json(b"200 OK", {"count": len(put.blocks), "sha256": sha256, "completed": put.completed})
        return self._start(json.loads(bytes(body or b"{}")))

    def _page(self, target: bytes) -> dict[str, object]:
        most = int((re.search(rb"maxResults=(\d+)", target) or [b"", b"10000"])[1])
        first = int((re.search(rb"pageToken=(\d+)", target) or [b"", b"0"])[1])
        listed = self.numbers[first : first + most]
        more = {"NextToken": str(first + most)} if first + most < len(self.numbers) else {}
        return {
            "Blocks": [{"BlockIndex": number, "BlockToken": _token(number)} for number in listed],
            "ExpiryTime": 1.9e9,
            "VolumeSize": self._gib,
            "BlockSize": BLOCK_BYTES,
            **more,
        }

    def _start(self, asked: dict[str, object]) -> Answer:
        name = f"snap-{len(self._snapshots):017x}"
        self._snapshots[name.encode()] = Snapshot(gib=int(str(asked["VolumeSize"])))
        made = {"SnapshotId": name, "Status": "pending", "VolumeSize": asked["VolumeSize"], "BlockSize": BLOCK_BYTES}
        return _json(b"201 Created", made)

    def _put(self, snapshot: bytes, number: int, checksum: bytes, body: bytearray | None) -> Answer:
        right = body is not None and (
            self._known.get(checksum) == body or base64.b64encode(hashlib.sha256(body).digest()) == checksum
        )
        if not right or snapshot not in self._snapshots:
            return _json(b"400 Bad Request", {"Message": "not the block that its checksum names", "Reason": ""})
        self._snapshots[snapshot].blocks[number] = checksum
        return _head(b"201 Created", 0, b"x-amz-Checksum: %s\r\nx-amz-Checksum-Algorithm: SHA256\r\n" % checksum), b""

    def _complete(self, snapshot: Snapshot, header: bytes) -> Answer:
        aggregate = base64.b64encode(hashlib.sha256(snapshot.digests).digest())
        count = int(_value(header, b"x-amz-changedblockscount"))
        if count != len(snapshot.blocks) or _value(header, b"x-amz-checksum") not in (aggregate, b""):
            return _json(b"400 Bad Request", {"Message": "count or aggregate differ", "Reason": ""})
        snapshot.completed = True
        return _json(b"202 Accepted", {"Status": "completed"})


def _token(number: int) -> str:
    """Return a token that is as long as a real one."""
    return base64.b64encode(b"token %d" % number + bytes(48)).decode()


def _head(status: bytes, length: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n" % (status, length, more)


def _json(status: bytes, value: object) -> Answer:
    content = json.dumps(value).encode()
    return _head(status, len(content), b"Content-Type: application/json\r\n"), content


def _value(header: bytes, name: bytes) -> bytes:
    """Return the value of a header whose name is given in small letters; empty where there is none."""
    start = header.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    return header[start : header.index(b"\r\n", start)].strip()


class _Connection:
    """Reads requests and writes answers, one after the other."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self._sock = sock
        self._server = server
        self._begin = bytearray(_HEADER_BYTES)
        self._have = 0
        self._block = bytearray(BLOCK_BYTES)
        self._body: bytearray | None = None
        self._into = memoryview(b"")
        self._line, self._header = b"", b""
        self._out: list[memoryview] = []

    def ready(self, events: int) -> None:
        """Read or write as far as it goes."""
        try:
            if events & selectors.EVENT_WRITE:
                self._write()
            else:
                self._read()
        except BlockingIOError:
            return
        except OSError:
            self._server.forget(self._sock)

    def _read(self) -> None:
        if self._body is None:
            got = self._sock.recv_into(memoryview(self._begin)[self._have :])
            self._have += got
            if got and not self._headed():
                return
        else:
            got = self._sock.recv_into(self._into)
            self._into = self._into[got:]
        if not got:
            self._server.forget(self._sock)
        elif self._body is not None and not self._into:
            self._server.later(self)

    def answer(self) -> None:
        """Send the answer to the request that has come."""
        body, self._body = self._body, None
        head, content = self._server.ebs.answer(self._line, self._header, body if body else None)
        self._out = [memoryview(head), memoryview(content)]
        self.ready(selectors.EVENT_WRITE)

    def _write(self) -> None:
        if self._sock.fileno() < 0:
            return
        if self._flush():
            self._server.watch(self._sock, selectors.EVENT_READ, self)
        else:
            self._server.watch(self._sock, selectors.EVENT_WRITE, self)

    def _headed(self) -> bool:
        """Whether the header has come; then the body begins."""
        end = self._begin.find(b"\r\n\r\n", 0, self._have)
        if end < 0:
            return False
        self._header = bytes(self._begin[: end + 2])
        self._line = self._header.partition(b"\r\n")[0]
        length = int(_value(self._header, b"content-length") or 0)
        self._body = self._block if length == BLOCK_BYTES else bytearray(length)
        early = self._have - end - 4
        self._body[:early] = self._begin[end + 4 : self._have]
        self._into = memoryview(self._body)[early:]
        self._have = 0
        if _value(self._header, b"expect"):
            self._sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _flush(self) -> bool:
        while self._out:
            try:
                sent = self._sock.sendmsg(self._out)
            except BlockingIOError:
                return False
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.pop(0))
            if sent:
                self._out[0] = self._out[0][sent:]
        return True


class Server:
    """One thread; answers leave in the order in which their requests came, each of them late by as much."""

    def __init__(self, ebs: Ebs, *, latency_s: float) -> None:
        self.ebs = ebs
        self._latency_s = latency_s
        self._selector = selectors.DefaultSelector()
        self._late: deque[tuple[float, _Connection]] = deque()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listening.setblocking(False)
        self._selector.register(self._listening, selectors.EVENT_READ)

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def serve(self) -> None:
        """Serve for ever."""
        while True:
            for key, events in self._selector.select(self._wait_s()):
                if key.data is None:
                    self._accept()
                    continue
                key.data.ready(events)
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                self._late.popleft()[1].answer()

    def later(self, connection: _Connection) -> None:
        """Answer when it is time."""
        self._late.append((time.monotonic() + self._latency_s, connection))

    def watch(self, sock: socket.socket, events: int, connection: _Connection) -> None:
        if self._selector.get_key(sock).events != events:
            self._selector.modify(sock, events, connection)

    def forget(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._selector.unregister(sock)
            sock.close()

    def _wait_s(self) -> float | None:
        return max(0.0, self._late[0][0] - time.monotonic()) if self._late else None

    def _accept(self) -> None:
        sock, _ = self._listening.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._selector.register(sock, selectors.EVENT_READ, _Connection(sock, self))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listed", type=int, default=2048)
    parser.add_argument("--distinct", type=int, default=2048)
    parser.add_argument("--gib", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, default=100)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args(arguments)
    ebs = Ebs(listed=asked.listed, distinct=asked.distinct, gib=asked.gib, seed=asked.seed)
    server = Server(ebs, latency_s=asked.latency_ms / 1000)
    facts = {
        "url": f"http://127.0.0.1:{server.port}",
        "snapshot": SNAPSHOT,
        "gib": asked.gib,
        "step": ebs.numbers.step,
        "listed": asked.listed,
        "sha256": [digest.hex() for digest in ebs.sha256],
    }
    print(json.dumps(facts), flush=True)
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
