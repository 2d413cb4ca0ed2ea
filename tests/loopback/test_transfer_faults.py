"""Blobs that come in parts, over connections and from registries that fail: F09-F13 of the fault model.

Every case ends with the right bytes in their place, or with a typed error and no member.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.adapters.http import TransportSettings
from bundler.archive.header import BLOCK_BYTES, member_header
from bundler.archive.members import Member
from bundler.archive.partial import PartialFile
from bundler.archive.writer import MemberWriter, no_failpoint
from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.domain.events import Event, Retrying
from bundler.domain.lock import Lock
from bundler.domain.oci import Platform
from bundler.errors import BundleError, DigestError, NetworkError, TransientError
from bundler.pacing import Limits
from bundler.retry import RetryPolicy
from bundler.stages import fetch as stage
from bundler.stages.fetch import Supply, fetch
from bundler.stages.resolve import WantedImage, resolve
from bundler.transfer import Pace
from tests.fakes.images import image
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.scripted_server import Asked, Reply, ScriptedServer, Sleeps, client_of, mapped, serving

pytestmark = pytest.mark.loopback

HOST = "registry.k8s.io"
SIZE = 200_000
FIRST, PART = 4000, 16_000
CONTENT = hashlib.shake_128(b"layer").digest(SIZE)
DIGEST = Digest.of(CONTENT)
MEMBER = Member(role="layer", size=SIZE, digest=DIGEST, offset=BLOCK_BYTES)
WORKERS = 4


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "RANGED_BYTES", PART)
    monkeypatch.setattr(stage, "PART_BYTES", PART)
    monkeypatch.setattr(stage, "FIRST_PART_BYTES", FIRST)


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Lock:
    """An image whose layer is CONTENT."""
    registry = MemoryRegistry()
    wanted = WantedImage(
        reference=registry.offer(f"{HOST}/pause:3.10", image("a")),
        platforms=(Platform.parse("linux/amd64"),),
        source=registry,
    )
    (made,) = resolve([wanted], cache=Cache(tmp_path_factory.mktemp("lock")))
    manifest = made.manifests[0]
    layer = replace(manifest.blobs[-1], digest=DIGEST, size=SIZE)
    manifest = manifest.model_copy(update={"blobs": (*manifest.blobs[:-1], layer)})
    return Lock.model_construct(
        images=(made.model_copy(update={"manifests": (manifest,)}),), charts=(), tools=(), files=()
    )


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PartialFile]:
    made = PartialFile(tmp_path / "x.tar")
    made.open(MEMBER.end)
    yield made
    made.close()


def run(
    lock: Lock,
    server: ScriptedServer,
    file: PartialFile,
    *,
    settings: TransportSettings | None = None,
    policy: RetryPolicy | None = None,
    workers: int = WORKERS,
) -> None:
    """Fetch the layer, in parts, through the client that `bundle build` has."""
    client = client_of(settings, policy=policy, registries=mapped(HOST, server.url))
    fetch(
        lock,
        [(DIGEST, SIZE)],
        place=lambda digest: MemberWriter(file, MEMBER, committed=lambda member: None, failpoint=no_failpoint),
        supply=Supply(cache=Cache(file.final.parent / "cache"), source_of=lambda image: client),
        pace=Pace(workers=workers),
    )


def is_whole(file: PartialFile) -> bool:
    header, content = file.read(MEMBER.header_offset, BLOCK_BYTES), file.read(MEMBER.offset, SIZE)
    return header == member_header(MEMBER.path, SIZE) and content == CONTENT


def has_header(file: PartialFile) -> bool:
    return file.read(MEMBER.header_offset, BLOCK_BYTES) == member_header(MEMBER.path, SIZE)


def span(asked: Asked) -> tuple[int, int]:
    """The bytes that are asked for."""
    first, _, last = asked.headers.get("range", f"bytes=0-{SIZE - 1}").removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1


def content_range(start: int, stop: int, size: object = SIZE) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}


def honest(asked: Asked) -> Reply:
    start, stop = span(asked)
    is_whole = "range" not in asked.headers
    return Reply(
        status=200 if is_whole else 206,
        headers={} if is_whole else content_range(start, stop),
        body=CONTENT[start:stop],
    )


class Faulty:
    """Serves the layer; the first `times` requests for the part that holds byte `at` get `fault` instead.

    Attributes:
        sent: bytes of bodies that were given to the network, or are about to.
    """

    def __init__(self, fault: Callable[[Asked], Reply], *, at: int, times: int = 1) -> None:
        self.fault = fault
        self.at = at
        self.times = times
        self.faults = 0
        self.sent = 0
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        start, stop = span(asked)
        with self._lock:
            is_hit = start <= self.at < stop and self.faults < self.times
            self.faults += is_hit
        reply = (self.fault if is_hit else honest)(asked)
        pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
        return replace(reply, body=self._counted(pieces), length=_length(reply))

    def _counted(self, pieces: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            with self._lock:
                self.sent += len(piece)
            yield piece


def _length(reply: Reply) -> int | str | None:
    return len(reply.body) if reply.length == "right" and isinstance(reply.body, bytes) else reply.length


def half(asked: Asked) -> bytes:
    start, stop = span(asked)
    return CONTENT[start : (start + stop) // 2]


def cut_short(asked: Asked) -> Reply:
    start, stop = span(asked)
    return replace(honest(asked), body=half(asked), length=stop - start, cut=True)


def cut_without_length(asked: Asked) -> Reply:
    return replace(honest(asked), body=half(asked), length=None)


def reset(asked: Asked) -> Reply:
    return replace(cut_short(asked), reset=True)


def nothing_at_all(asked: Asked) -> Reply:
    return replace(honest(asked), body=b"")


def no_such_range(asked: Asked) -> Reply:
    return Reply(status=416, headers={"Content-Range": f"bytes */{SIZE}"})


def whole_instead(asked: Asked) -> Reply:
    return Reply(body=CONTENT)


def chunked(asked: Asked) -> Reply:
    """The right bytes, in the coding that has no length."""
    body = half(asked)
    start, stop = span(asked)
    rest = CONTENT[start + len(body) : stop]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body, rest)) + b"0\r\n\r\n"
    headers = {**content_range(start, stop), "Transfer-Encoding": "chunked"}
    return Reply(status=206, headers=headers, body=coded, length=None)


def other_content(asked: Asked) -> Reply:
    start, stop = span(asked)
    return replace(honest(asked), body=bytes(stop - start))


MENDED = [
    cut_short,
    cut_without_length,
    reset,
    nothing_at_all,
    no_such_range,
    chunked,
]


@pytest.mark.parametrize("at", [0, FIRST + 100, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: fault.__name__)
def test_f09_a_part_that_fails_on_its_way_is_mended_and_no_byte_of_it_comes_twice(
    lock: Lock, file: PartialFile, fault: Callable[[Asked], Reply], at: int
) -> None:
    """What stood unread in a connection that was reset may be lost; of the others every byte counts."""
    script = Faulty(fault, at=at)
    with serving(script) as server:
        run(lock, server, file)
    assert is_whole(file)
    assert script.faults == 1
    framing = 100 if fault is chunked else 0
    assert script.sent <= SIZE + framing + (PART if fault is reset else 0)


@pytest.mark.parametrize("at", [FIRST + 100, SIZE // 2, SIZE - 1])
def test_f09_a_part_answered_with_the_whole_blob_is_taken_from_it(lock: Lock, file: PartialFile, at: int) -> None:
    script = Faulty(whole_instead, at=at)
    with serving(script) as server:
        run(lock, server, file)
    assert is_whole(file)
    assert script.sent <= 2 * SIZE


def test_f09_a_registry_that_knows_no_ranges_is_asked_once(lock: Lock, file: PartialFile) -> None:
    with serving(whole_instead) as server:
        run(lock, server, file)
        assert len(server.requests) == 1
    assert is_whole(file)


def test_f09_a_registry_that_knows_no_ranges_and_cuts_is_read_again(lock: Lock, file: PartialFile) -> None:
    def script(asked: Asked) -> Reply:
        if len(server.requests) == 1:
            return Reply(body=CONTENT[:150_000], length=SIZE, cut=True)
        return whole_instead(asked)

    with serving(script) as server:
        run(lock, server, file)
        assert len(server.requests) == 2
    assert is_whole(file)


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_f09_a_part_that_came_with_more_than_was_asked_for_is_asked_for_again(
    lock: Lock, file: PartialFile, at: int
) -> None:
    script = Faulty(one_too_many, at=at)
    with serving(script) as server:
        run(lock, server, file)
    assert is_whole(file)
    assert script.sent <= SIZE + PART + 1


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_f09_a_part_that_always_comes_with_more_is_named_by_its_bytes(lock: Lock, file: PartialFile, at: int) -> None:
    script = Faulty(one_too_many, at=at, times=1 << 30)
    start = max(first for first in (0, *range(FIRST, SIZE, PART)) if first <= at)
    with serving(script) as server, pytest.raises(NetworkError) as caught:
        run(lock, server, file)
    assert f"-{min(start + (PART if start else FIRST), SIZE) - 1}," in caught.value.cause
    assert script.faults == 3


@pytest.mark.parametrize("at", [0, SIZE // 2])
def test_f09_a_part_of_other_content_costs_the_blob_once_more(lock: Lock, file: PartialFile, at: int) -> None:
    script = Faulty(other_content, at=at)
    with serving(script) as server:
        run(lock, server, file)
    assert is_whole(file)
    assert script.sent == 2 * SIZE


def endless(asked: Asked) -> Reply:
    return replace(honest(asked), body=itertools.repeat(bytes(PART)), length=None)


def one_too_many(asked: Asked) -> Reply:
    start, stop = span(asked)
    return replace(honest(asked), body=CONTENT[start:stop] + b"?")


def said(headers: Callable[[int, int], dict[str, str]]) -> Callable[[Asked], Reply]:
    return lambda asked: replace(honest(asked), headers=headers(*span(asked)))


WRONG_RANGES = {
    "none": lambda start, stop: {},
    "no numbers": lambda start, stop: {"Content-Range": "bytes a-b/c"},
    "one further": lambda start, stop: content_range(start + 1, stop + 1),
    "one more": lambda start, stop: content_range(start, stop + 1),
    "one less": lambda start, stop: content_range(start, stop - 1),
    "another size": lambda start, stop: content_range(start, stop, SIZE + 1),
    "another unit": lambda start, stop: {"Content-Range": f"items {start}-{stop - 1}/{SIZE}"},
    "two of them": lambda start, stop: {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}, bytes 0-1/2"},
}
REFUSED = {
    "endless": (endless, NetworkError),
    "one too many": (one_too_many, NetworkError),
    "always 416": (no_such_range, TransientError),
    "always nothing": (nothing_at_all, TransientError),
    "always other content": (other_content, DigestError),
    **{name: (said(headers), NetworkError) for name, headers in WRONG_RANGES.items()},
}


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("name", REFUSED)
def test_f09_a_part_that_stays_wrong_is_a_typed_error_and_no_member(
    lock: Lock, file: PartialFile, name: str, at: int
) -> None:
    fault, error = REFUSED[name]
    script = Faulty(fault, at=at, times=1 << 30)
    with serving(script) as server, pytest.raises(BundleError) as caught:
        run(lock, server, file)
    assert type(caught.value) is error
    assert HOST in caught.value.subject or DIGEST.hex in caught.value.subject
    assert not has_header(file)
    assert script.faults <= 8
    assert script.sent <= 3 * SIZE + (64 << 20 if name == "endless" else 0)


class VirtualTime:
    """A clock that only sleeping moves; who sleeps at the same time sleeps together."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        with self._lock:
            self.now = max(self.now, until)


def test_f10_a_registry_that_counts_requests_a_second_is_obeyed_by_all_workers(lock: Lock, file: PartialFile) -> None:
    """Three requests a second, for all workers together; a try more than the waits that were asked for would end it."""
    clock, per_second, most = VirtualTime(), 3, 8
    served, refused, guard = Counter[float](), Counter[float](), threading.Lock()

    def script(asked: Asked) -> Reply:
        with guard:
            counts = served if served[clock.now] < per_second else refused
            counts[clock.now] += 1
        return honest(asked) if counts is served else Reply(status=429, headers={"Retry-After": "1"})

    settings = TransportSettings(clock=clock, sleep=clock.sleep, limits_of=lambda origin: Limits(start=most, most=most))
    policy = RetryPolicy(tries=1, sleep=clock.sleep)
    with serving(script) as server:
        run(lock, server, file, settings=settings, policy=policy, workers=most)
    assert is_whole(file)
    assert sum(served.values()) == 1 + -(-(SIZE - FIRST) // PART)
    assert max(served.values()) <= per_second
    assert max(refused.values()) < most
    assert sum(refused.values()) <= sum(served.values())


def test_f10_slots_follow_what_a_registry_bears_down_and_up_again(lock: Lock, tmp_path: Path) -> None:
    """At first it bears two requests at a time, later any number; answers take 10 ms, as over a link."""
    now, most, is_strict, guard = [0], [0], [True], threading.Lock()

    def script(asked: Asked) -> Reply:
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
            is_over = is_strict[0] and now[0] > 2
        time.sleep(0.01)
        with guard:
            now[0] -= 1
        return Reply(status=429) if is_over else honest(asked)

    def fetched(name: str, client_workers: int = 16) -> None:
        made = PartialFile(tmp_path / name)
        made.open(MEMBER.end)
        fetch(
            lock,
            [(DIGEST, SIZE)],
            place=lambda digest: MemberWriter(made, MEMBER, committed=lambda member: None, failpoint=no_failpoint),
            supply=Supply(cache=Cache(tmp_path / "cache"), source_of=lambda image: client),
            pace=Pace(workers=client_workers),
        )
        assert is_whole(made)
        made.close()

    with serving(script) as server:
        settings = TransportSettings(limits_of=lambda origin: Limits(start=8, most=16))
        client = client_of(
            settings, policy=RetryPolicy(tries=100, sleep=lambda _: None), registries=mapped(HOST, server.url)
        )
        for number in range(4):
            fetched(f"strict-{number}.tar")
        assert most[0] > 2
        most[0] = 0
        fetched("strict.tar")
        shrunk = most[0]
        is_strict[0], most[0] = False, 0
        for number in range(20):
            fetched(f"free-{number}.tar")
    assert shrunk <= 4
    assert most[0] > shrunk


def fast_clock() -> float:
    """A clock on which a real second is 300 seconds."""
    return time.monotonic() * 300


def dribble(content: bytes) -> Iterator[bytes]:
    for place in range(len(content)):
        yield content[place : place + 1]
        time.sleep(0.005)


def silence(content: bytes) -> Iterator[bytes]:
    yield content[:1000]
    time.sleep(3)


@pytest.mark.parametrize("at", [0, SIZE // 2])
@pytest.mark.parametrize("slowly", [dribble, silence])
def test_f12_f13_one_part_that_dribbles_or_falls_silent_is_asked_for_again_and_holds_up_no_other(
    lock: Lock, file: PartialFile, slowly: Callable[[bytes], Iterator[bytes]], at: int
) -> None:
    """A connection that is half open looks like one that is silent: nothing more comes, and nobody hangs up."""

    def slow(asked: Asked) -> Reply:
        start, stop = span(asked)
        return replace(honest(asked), body=slowly(CONTENT[start:stop]), length=stop - start)

    script, heard = Faulty(slow, at=at), list[Event]()
    settings = TransportSettings(clock=fast_clock, first_byte_timeout_s=0.3)
    policy = RetryPolicy(sleep=Sleeps(), emit=heard.append)
    with serving(script) as server:
        run(lock, server, file, settings=settings, policy=policy)
        spans = Counter(span(asked)[1] for asked in server.requests)
    assert is_whole(file)
    assert [type(event) for event in heard] == [Retrying]
    assert sorted(spans.values()) == [1] * (len(spans) - 1) + [2]
    assert script.sent <= SIZE + PART


def test_f13_a_registry_that_accepts_and_never_answers_is_named(lock: Lock, file: PartialFile) -> None:
    def script(asked: Asked) -> Reply:
        time.sleep(1)
        return honest(asked)

    settings = TransportSettings(first_byte_timeout_s=0.1)
    with serving(script) as server:
        with pytest.raises(TransientError, match=f"{server.url}: nothing came in time"):
            run(lock, server, file, settings=settings, policy=RetryPolicy(tries=2, sleep=Sleeps()))
        assert len(server.requests) == 2
    assert not has_header(file)
