"""The lock of a site, held in S3 by compare-and-swap and kept alive by a heartbeat.

A lease that nobody renews expires, but is only taken over by name: `--break-lock ID`. Its former holder finds out at
the next renewal, and before each write, that it is lost.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TypeVar

from bundler.domain.oci import parse_strict_json
from bundler.errors import (
    AccessError,
    ConflictError,
    FormatError,
    LockedError,
    LockLostError,
    NetworkError,
    RejectedError,
    StaleStateError,
)
from bundler.ports import StateStore, StoredState
from bundler.transfer import Beat, Once

Result = TypeVar("Result")
Version = TypeVar("Version", str, str | None)
LOCK_NAME = "lock.json"
LEASE_S = 180.0
MOST_CHARACTERS = 200
BEAT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds the lock.

    Attributes:
        id: of this one holding, never used again.
        owner: user@host and process, for people.
        bundle: digest of the bundle that is being installed.
        since: when it was taken, UTC.
        released: given back by writing, where it may not be removed: the lock is free.
    """

    id: str
    owner: str
    bundle: str
    since: str
    released: bool = False


class Release(Enum):
    """What became of a lock that was to be given back."""

    DONE = "not ours any more"
    LATER = "S3 did not answer"
    DENIED = "may neither be removed nor written"


def shown(text: str) -> str:
    """Return a text as a lock may hold it, whatever this host calls its users: printable, and not too long."""
    return "".join(char if char.isprintable() else "?" for char in text)[:MOST_CHARACTERS]


def parse_holder(content: bytes, *, address: str = LOCK_NAME) -> Holder:
    """Return the holder that a lock names.

    Raises:
        ConflictError: not a lock of ours; who holds it cannot be known.
    """
    try:
        value = parse_strict_json(content, subject=address)
    except FormatError as error:
        raise _damaged(address) from error
    fields = value if isinstance(value, dict) else {}
    texts = {name: fields.get(name) for name in ("id", "owner", "bundle", "since")}
    if not all(
        isinstance(text, str) and text.isprintable() and 0 < len(text) <= MOST_CHARACTERS for text in texts.values()
    ):
        raise _damaged(address)
    released = fields.get("released", False)
    if not isinstance(released, bool):
        raise _damaged(address)
    return Holder(**{name: str(text) for name, text in texts.items()}, released=released)


def _damaged(address: str) -> ConflictError:
    hint = f"Make sure that nobody works on the site, then remove it: aws s3 rm {shlex.quote(address)}"
    return ConflictError(address, "is not a lock that this tool wrote", safe="Nothing was written.", hint=hint)


def _since_boot() -> float:
    """Seconds that pass while this host is suspended too, as they do in S3: time.monotonic would stand still."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """A lock that we hold, for as long as it is renewed."""

    def __init__(self, store: StateStore, holder: Holder, *, clock: Callable[[], float] = _since_boot) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._once = Once()
        self._beats = 0
        self._version = ""
        self._renewed = clock()

    def take(self, *, known: Collection[str] = (), break_id: str | None) -> None:
        """Take the lock.

        Args:
            known: ids under which earlier processes of this very state folder held it; they have died.
            break_id: id of an expired lease to take over.

        Raises:
            LockedError: somebody else holds it.
            ConflictError: what stands there is no lock.
        """
        started = self._clock()
        there = self._store.get(LOCK_NAME)
        if there is not None:
            self._refuse(there, known, break_id)
        try:
            self._version = self._swap(there.version if there is not None else None)
        except StaleStateError as error:
            winner = self._store.get(LOCK_NAME)
            if winner is not None and not self._holder_of(winner).released:
                raise _locked(self._holder_of(winner), winner.age_s) from error
            self.take(known=known, break_id=break_id)  # the winner has given it back already
            return
        self._renewed = started

    def _refuse(self, there: StoredState, known: Collection[str], break_id: str | None) -> None:
        holder = self._holder_of(there)
        if holder.released or holder.id in known:
            return
        if holder.id != break_id or there.age_s < LEASE_S:
            raise _locked(holder, there.age_s)

    def _holder_of(self, there: StoredState) -> Holder:
        return parse_holder(there.content, address=self._store.address(LOCK_NAME))

    def renew(self) -> None:
        """Show that we live.

        Raises:
            LockLostError: the lock is not ours any more.
            NetworkError, AccessError: S3 does not answer, or not to us; the lease runs on.
        """
        with self._once:
            self._beats += 1
            started = self._clock()
            try:
                self._version = self._swap(self._version)
            except StaleStateError as error:
                cause = "was removed or taken over by somebody else"
                raise LockLostError(self._store.address(LOCK_NAME), cause) from error
            self._renewed = started

    def check(self) -> None:
        """Do nothing while the lock is surely ours; renew it where that is long ago.

        Raises:
            LockLostError, NetworkError, AccessError: as `renew`.
        """
        if self._clock() - self._renewed > LEASE_S / 2:
            self.renew()

    def release(self) -> Release:
        """Give the lock back: remove it, or write so where it may not be removed; one that is lost is left alone."""
        with self._once:
            try:
                self._give_back()
            except StaleStateError:
                return Release.DONE
            except NetworkError:
                return Release.LATER
            except (AccessError, RejectedError):
                return Release.DENIED
        return Release.DONE

    def _give_back(self) -> None:
        try:
            self._in_place(lambda there: self._store.delete(LOCK_NAME, version=there), self._version)
        except (AccessError, RejectedError):
            self._swap(self._version, released=True)

    @contextmanager
    def beating(self) -> Iterator[Beat]:
        """Renew in the background; `failure` of what this yields says when the lock was lost."""
        with Beat(self._beat, every_s=BEAT_S) as beat:
            yield beat

    def _beat(self) -> None:
        with suppress(NetworkError, AccessError):  # the next beat tries again; `check` decides before a write
            self.renew()

    def _swap(self, replaces: str | None, *, released: bool = False) -> str:
        fields = {**asdict(self._holder), "beats": self._beats, "released": released}
        content = (json.dumps(fields, sort_keys=True) + "\n").encode()
        return self._in_place(lambda there: self._store.put(LOCK_NAME, content, replaces=there), replaces)

    def _in_place(self, write: Callable[[Version], Result], version: Version) -> Result:
        """Write in place of a version, or of one that we wrote ourselves and whose answer was lost."""
        try:
            return write(version)
        except StaleStateError:
            there = self._store.get(LOCK_NAME)
            if there is None or not self._is_ours(there):
                raise
            return write(there.version)

    def _is_ours(self, there: StoredState) -> bool:
        try:
            return self._holder_of(there).id == self._holder.id
        except ConflictError:
            return False


def _locked(holder: Holder, age_s: float) -> LockedError:
    expired = age_s >= LEASE_S
    state = "gave no sign of life" if expired else "was alive"
    cause = f"is locked by {holder.owner} since {holder.since}, who {state} {age_s:.0f} s ago (lock {holder.id})"
    if expired:
        hint = f"Make sure that it is dead, then run the same command with --break-lock {holder.id}"
    else:
        hint = f"Wait for it, or stop it there; a lock without a sign of life for {LEASE_S:.0f} s can be broken."
    return LockedError("site", cause, safe=LockedError.safe, hint=hint)
