"""Bounded parallel work: the only threads of the product.

One failure, or Ctrl-C, calls the whole map off: work that waits for a network, a lock or a pause is woken at once,
work that computes notices at its next `check_stopped`.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from bundler.domain.events import Emit, silent
from bundler.errors import StoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many transfers at a time, and who is told of each."""

    workers: int = 8
    emit: Emit = silent


def parallel_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> list[Result]:
    """Return `work(item)` for each item, in input order, with at most `workers` at a time.

    The first failure in time calls off everything else, what runs and what has not begun, and is raised. Ctrl-C
    does the same. Maps may be nested: calling off the outer one calls off the inner ones.
    """
    flag = _Flag()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="transfer")
    try:
        with Interruptible(flag.stop):
            futures: list[Future[Result]] = [pool.submit(_run, flag, work, item) for item in items]
            wait(futures, return_when=FIRST_EXCEPTION)
        if flag.failure is not None:
            raise flag.failure
        return [future.result() for future in futures]
    finally:
        flag.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def drain(
    work: Callable[[Item], Iterable[Item]], items: Iterable[Item], *, rank: Callable[[Item], Any], workers: int
) -> None:
    """Do `work(item)` for each item, and for each further one that it returns, with at most `workers` at a time.

    The waiting item with the least rank is next; among equals, the one that waits longest. A failure ends all of it
    as it ends `parallel_map`.
    """
    queue = _Queue(items, rank)

    def serve(_: int) -> None:
        while True:
            taken = queue.take()
            if not taken:
                return
            further: Iterable[Item] = ()
            try:
                further = work(*taken)
            finally:
                queue.done(further)

    parallel_map(serve, range(workers), workers=workers)


class _Queue(Generic[Item]):
    """What waits, and how many are being worked on, which may bring more."""

    def __init__(self, items: Iterable[Item], rank: Callable[[Item], Any]) -> None:
        self._rank = rank
        self._count = 0
        self._busy = 0
        self._change = threading.Condition()
        self._heap = [self._entry(item) for item in items]
        heapq.heapify(self._heap)

    def take(self) -> tuple[()] | tuple[Item]:
        """Return the next item; nothing when none is left and none can come."""
        with Interruptible(self._wake), self._change:
            while self._busy and not self._heap:
                self._change.wait()
                check_stopped()
            if not self._heap:
                return ()
            self._busy += 1
            return (heapq.heappop(self._heap)[2],)

    def done(self, further: Iterable[Item]) -> None:
        """Take what came of an item, which is no longer worked on."""
        with self._change:
            self._busy -= 1
            for item in further:
                heapq.heappush(self._heap, self._entry(item))
                self._change.notify()
            if not self._busy and not self._heap:
                self._change.notify_all()  # this was the end

    def _entry(self, item: Item) -> tuple[Any, int, Item]:
        self._count += 1
        return self._rank(item), self._count, item

    def _wake(self) -> None:
        with self._change:
            self._change.notify_all()


@contextmanager
def ordered_map(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Iterator[Result]]:
    """Hold while taking `work(item)` of each item, in input order; at most `ahead` results wait for those before them.

    Items are taken when there is room for them, so that neither they nor the results pile up. A failure ends it as it
    ends `parallel_map`, and so does a consumer who leaves: threads have ended then, and `items`, where they are a
    generator, are closed. Nothing is left to the garbage collector: it may run in any thread, one that holds
    a lock of `threading` among them, and a thread that is joined there never ends.
    """
    flag = _Flag()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="transfer")

    def results() -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(_run, flag, work, item))
            if len(waiting) >= ahead:
                yield _first(waiting, flag)
        while waiting:
            yield _first(waiting, flag)

    try:
        with Interruptible(flag.stop):
            yield results()
    finally:
        flag.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(items, Generator):
            items.close()


def lanes(
    works: Sequence[Callable[[Item], Result]], items: Sequence[Item], *, ended: Callable[[], None] = lambda: None
) -> Iterator[Result]:
    """Yield the result of each item, in input order, made ahead by one thread for each of `works`.

    Item n is the work of lane n modulo their number, which begins its next item when this result has been used: a lane
    may hand out one buffer again and again. Unlike those of a map these threads are not waited for, and no lock stands
    between them: whoever reads a stream may just drop it, and the garbage collector may end this generator anywhere.

    Args:
        works: what the lanes do; each is called in its own thread only.
        items: all of them.
        ended: called by each lane when it has ended.

    Raises:
        StoppedError: the map that this thread works for has been called off.
    """
    queues = [_Lane(work, items[number :: len(works)], ended) for number, work in enumerate(works)]
    try:
        for number in range(len(items)):
            lane = queues[number % len(queues)]
            with Interruptible(partial(lane.results.put, None)):
                outcome = lane.results.get()
            check_stopped()
            if outcome is None:
                raise StoppedError("transfer", "was called off")
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome[0]
            lane.used.put(True)
    finally:
        for lane in queues:
            lane.used.put(False)


class _Lane(Generic[Item, Result]):
    """A thread that makes one result after the other, each when the one before has been used."""

    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item], ended: Callable[[], None]) -> None:
        # Unlike Queue, SimpleQueue may be put to from within the garbage collector.
        self.results: SimpleQueue[tuple[Result] | BaseException | None] = SimpleQueue()
        self.used: SimpleQueue[bool] = SimpleQueue()
        self._flag = _flag()  # what calls off the thread that reads calls off this one
        threading.Thread(target=self._run, args=(work, items, ended), name="lane", daemon=True).start()

    def _run(self, work: Callable[[Item], Result], items: Sequence[Item], ended: Callable[[], None]) -> None:
        _here.flag = self._flag
        try:
            for item in items:
                self.results.put((work(item),))
                if not self.used.get():
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
            self.results.put(error)
        finally:
            ended()


def _first(waiting: deque[Future[Result]], flag: _Flag) -> Result:
    try:
        return waiting.popleft().result()
    except Exception:
        if flag.failure is not None:
            raise flag.failure from None  # this one was only called off
        raise


class _Flag:
    """Whether a map is called off, why, and whom to wake."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._wakers: dict[object, Callable[[], None]] = {}  # changed without the lock: one step of the interpreter

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.failure = self.failure or error
        self.stop()

    def stop(self) -> None:
        with self._lock:
            self._event.set()
            wakers = list(self._wakers.values())
        for wake in wakers:
            wake()

    def watch(self, key: object, wake: Callable[[], None]) -> None:
        self._wakers[key] = wake

    def unwatch(self, key: object) -> None:
        del self._wakers[key]

    def sleep(self, seconds: float) -> None:
        self._event.wait(seconds)


_here = threading.local()


def _flag() -> _Flag | None:
    return getattr(_here, "flag", None)


def _run(flag: _Flag, work: Callable[[Item], Result], item: Item) -> Result:
    if flag.is_set:
        raise StoppedError("transfer", "was called off before it began")
    _here.flag = flag
    try:
        return work(item)
    except BaseException as error:
        flag.fail(error)
        raise
    finally:
        _here.flag = None


def check_stopped() -> None:
    """Do nothing, unless the map that this thread works for has been called off.

    Raises:
        StoppedError: it has; give up at once, nobody waits for the result.
    """
    flag = _flag()
    if flag is not None and flag.is_set:
        raise StoppedError("transfer", "was called off")


def pause(seconds: float) -> None:
    """Sleep, but wake when the map that this thread works for is called off.

    Raises:
        StoppedError: it is.
    """
    flag = _flag()
    if flag is None:
        time.sleep(seconds)
        return
    flag.sleep(seconds)
    check_stopped()


@contextmanager
def to_the_end() -> Iterator[None]:
    """Hold around a clean-up: what is called off takes away in there what it made, and nothing wakes or stops it."""
    flag, _here.flag = _flag(), None
    try:
        yield
    finally:
        _here.flag = flag


class Interruptible:
    """Holds around a call that may block: `wake` (from another thread) must make it return.

    Raises:
        StoppedError: on entry, when the map that this thread works for has been called off already.
    """

    __slots__ = ("_flag", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._flag = _flag()

    def __enter__(self) -> None:
        if self._flag is None:
            return
        self._flag.watch(self, self._wake)
        if self._flag.is_set:
            self._flag.unwatch(self)
            raise StoppedError("transfer", "was called off")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flag is not None:
            self._flag.unwatch(self)


class Once:
    """Runs an action one thread at a time, so that one token refresh serves all workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Slot:
    """A thread's place among those that are let in; `leave` gives it back, once."""

    __slots__ = ("_event", "_owner", "_slots", "is_in")

    def __init__(self, slots: Slots, owner: int) -> None:
        self.is_in = False
        self._slots = slots
        self._owner = owner
        self._event = threading.Event()

    @property
    def owner(self) -> int:
        """The thread that came in."""
        return self._owner

    def let_in(self) -> None:
        """Wake who waits for it."""
        self.is_in = True
        self._event.set()

    def wait(self) -> None:
        """Wait to be let in.

        Raises:
            StoppedError: the work was called off meanwhile.
        """
        with Interruptible(self._event.set):
            self._event.wait()
            check_stopped()

    def leave(self) -> None:
        """Make room again."""
        self._slots.leave(self)


class Slots:
    """Lets as many threads in as are allowed at the moment, in the order in which they came.

    A thread that is in may come in again at once.
    """

    def __init__(self, allowed: Callable[[], int]) -> None:
        self._allowed = allowed
        self._inside: dict[int, int] = {}
        self._line: deque[Slot] = deque()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Threads that are in."""
        return len(self._inside)

    def enter(self) -> Slot:
        """Wait until there is room.

        Raises:
            StoppedError: the work was called off meanwhile.
        """
        slot = Slot(self, threading.get_ident())
        with self._lock:
            if slot.owner in self._inside:
                self._let_in(slot)
            else:
                self._line.append(slot)
                self._admit()
        try:
            if not slot.is_in:
                slot.wait()
        except BaseException:
            self.leave(slot)
            raise
        return slot

    def leave(self, slot: Slot) -> None:
        """Take a slot back; nothing where that was done."""
        with self._lock:
            if slot in self._line:
                self._line.remove(slot)
            elif slot.is_in:
                slot.is_in = False
                self._inside[slot.owner] -= 1
                if not self._inside[slot.owner]:
                    del self._inside[slot.owner]
            self._admit()

    def _admit(self) -> None:
        """Let in who waits longest, as far as there is room, and wake nobody else."""
        while self._line and len(self._inside) < self._allowed():
            self._let_in(self._line.popleft())

    def _let_in(self, slot: Slot) -> None:
        self._inside[slot.owner] = self._inside.get(slot.owner, 0) + 1
        slot.let_in()


class Beat:
    """Calls `action` every `every_s` seconds in a thread of its own, while held.

    A call that raises ends it; `failure` then says why, and the holder asks for it where it matters.
    """

    def __init__(self, action: Callable[[], None], *, every_s: float) -> None:
        self.failure: BaseException | None = None
        self._action = action
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._action()
            except BaseException as error:  # noqa: BLE001 - kept for the holder, as a future keeps it
                self.failure = error
                return
