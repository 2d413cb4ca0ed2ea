"""What this tool did at a site: append-only lines, fsynced, mirrored to S3. It only saves time: the world is the truth.

One folder per site holds `journal.jsonl`, `lock` (this host's file lock) and `held.json` (the id of our lock in S3, so
that a killed process finds its own lock again). Nothing is written before `hold`, and `hold` is only entered once a
plan holds an action.
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import publish, sync_folder
from bundler.domain.digest import Digest
from bundler.domain.events import Emit, Noted, silent
from bundler.domain.names import step_key
from bundler.domain.record import Copy, Record, header, joined, line, parse_records, sound
from bundler.domain.shipment import move_away
from bundler.errors import (
    AccessError,
    ConflictError,
    LocalResourceError,
    LockedError,
    LockLostError,
    NetworkError,
    PolicyError,
    RejectedError,
    StaleStateError,
)
from bundler.held import Held, recall, remember
from bundler.lease import LEASE_S, LOCK_NAME, Holder, Lease, Release, shown
from bundler.ports import StateStore
from bundler.transfer import Beat

JOURNAL_NAME = "journal.jsonl"
HELD_NAME = "held.json"
LOCAL_LOCK_NAME = "lock"
MAX_JOURNAL_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a site's journal is.

    Attributes:
        folder: on this host.
        site: `account/region/cluster`, to notice a mix-up.
        mirror: S3, where the site says so.
    """

    folder: Path
    site: str
    mirror: StateStore | None = None

    @property
    def file(self) -> Path:
        """The journal."""
        return self.folder / JOURNAL_NAME

    @property
    def held(self) -> Path:
        """The ids of our lock in S3."""
        return self.folder / HELD_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who writes, and for which bundle.

    Attributes:
        id: new for each process that takes the lock.
        owner: user@host and process, for people.
        break_lock: id of an expired lock to take over.
        emit: hears of what could not be left in order.
    """

    id: str
    owner: str
    bundle: Digest
    break_lock: str | None = None
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    emit: Emit = silent


def read_journal(place: Place) -> tuple[Record, ...]:
    """Return what is recorded on this host and in the mirror, writing nothing; a torn last line does not count.

    Raises:
        ConflictError: the journal of another site, of a newer version, or damaged.
        LocalResourceError: it cannot be read.
    """
    return parse_records(joined(_theirs(place), _ours(place)), _here(place))


def look_into(place: Place) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Return what is recorded here and in the mirror as far as it can be read, and why not where it cannot."""
    problems: list[str] = []

    def read(copy: Callable[[Place], bytes]) -> bytes:
        try:
            return copy(place)
        except (AccessError, NetworkError, RejectedError) as error:
            problems.append(f"the journal in S3 cannot be read: {error}")
        except (ConflictError, LocalResourceError) as error:
            problems.append(f"{error}. {error.hint}")
        return b""

    return parse_records(joined(read(_theirs), read(_ours)), _here(place)), tuple(problems)


def was_cut_off(place: Place) -> bool:
    """Whether a session on this host did not end in order: its lock and its last record may be left to put right."""
    return bool(recall(place.held).working)


@contextmanager
def hold(place: Place, session: Session) -> Iterator[Journal]:
    """Lock the site, here and in S3, and give the journal to write to.

    Raises:
        LockedError: somebody else works on the site.
        PolicyError: others may write to the folder.
        ConflictError: as `read_journal`.
    """
    _prepare(place.folder)
    with _file_lock(place), _lease(place, session) as (lease, beat):
        journal = Journal(place, session, lease=lease, beat=beat)
        journal.open()
        yield journal


class Journal:
    """The journal of a site that we hold the lock of."""

    def __init__(self, place: Place, session: Session, *, lease: Lease | None, beat: Beat | None) -> None:
        self._place = place
        self._session = session
        self._lease = lease
        self._beat = beat
        self._lines = b""
        self._mirrored: str | None = None
        self._records: dict[str, Record] = {}

    def open(self) -> None:
        """Cut a torn tail off, and bring file and mirror to the same lines.

        Raises:
            ConflictError: as `read_journal`.
        """
        mirror = self._place.mirror
        there = mirror.get(JOURNAL_NAME) if mirror is not None else None
        here = _read(self._place)
        ours, theirs = sound(here, _here(self._place)), b""
        if mirror is not None and there is not None:
            theirs = sound(there.content, _there(self._place, mirror))
        self._lines = joined(theirs, ours) or header(self._place.site)
        self._mirrored = there.version if there is not None else None
        self._records = {record.key: record for record in parse_records(self._lines, _here(self._place))}
        if self._lines != here:
            publish(self._place.file, self._lines, mode=0o600)
        if there is None or self._lines != there.content:
            self._mirror()

    def key(self, step: str, **inputs: object) -> str:
        """Return the name of a step of this bundle with these inputs."""
        return step_key(step, inputs, self._session.bundle)

    def find(self, key: str) -> Record | None:
        """Return the record of a step, None where there is none: a hint, never a proof."""
        return self._records.get(key)

    def check(self) -> None:
        """Do nothing while the lock is ours; to be asked before each write to the world.

        Raises:
            LockLostError: it is not.
        """
        if self._beat is not None and self._beat.failure is not None:
            raise LockLostError("lock of the site", "it was lost while working") from self._beat.failure
        if self._lease is not None:
            self._lease.check()

    def record(self, step: str, key: str, **facts: str) -> None:
        """Append a step that was done; durable here and in S3 when this returns.

        Raises:
            LockLostError: the lock is not ours any more; the line stays on this host.
        """
        at = f"{self._session.now():%Y-%m-%dT%H:%M:%SZ}"
        record = Record(step=step, key=key, at=at, facts=facts)
        added = line({"step": step, "key": key, "at": at, "facts": facts, "bundle": str(self._session.bundle)})
        self._lines += added
        self._append(added)
        self._records[key] = record
        self.check()
        self._mirror()

    def _append(self, line: bytes) -> None:
        try:
            _append(self._place.file, line)
        except FileNotFoundError:  # removed while we work: a line alone would be no journal
            publish(self._place.file, self._lines, mode=0o600)

    def _mirror(self) -> None:
        mirror = self._place.mirror
        if mirror is None:
            return
        try:
            self._mirrored = mirror.put(JOURNAL_NAME, self._lines, replaces=self._mirrored)
        except StaleStateError as error:
            there = mirror.get(JOURNAL_NAME)
            if there is None:
                self._mirror_anew(mirror)
            elif there.content == self._lines:  # the answer to a first try was lost
                self._mirrored = there.version
            else:
                raise LockLostError(mirror.address(JOURNAL_NAME), "somebody else writes to it") from error

    def _mirror_anew(self, mirror: StateStore) -> None:
        """Write it again where it was removed: it only saves time, and the lock tells whether somebody else works."""
        if self._lease is not None:
            self._lease.renew()
        text = f"{mirror.address(JOURNAL_NAME)} was removed while this install works; it is written again"
        self._session.emit(Noted(text=text, warning=True))
        self._mirrored = None
        self._mirror()


def _here(place: Place) -> Copy:
    name = str(place.file)
    return Copy(
        name=name,
        site=place.site,
        away=f"mv {shlex.quote(name)} {shlex.quote(f'{name}.damaged')}",
        mixed_up="Check the site file, and XDG_STATE_HOME.",
    )


def _there(place: Place, mirror: StateStore) -> Copy:
    name = mirror.address(JOURNAL_NAME)
    return Copy(
        name=name,
        site=place.site,
        away=move_away(name),
        mixed_up="Give each site a prefix of its own: correct state.s3 in the site file.",
    )


def _ours(place: Place) -> bytes:
    return sound(_read(place), _here(place))


def _theirs(place: Place) -> bytes:
    there = None if place.mirror is None else place.mirror.get(JOURNAL_NAME)
    if place.mirror is None or there is None:
        return b""
    return sound(there.content, _there(place, place.mirror))


def _read(place: Place) -> bytes:
    path = place.file
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _unusable(path, "cannot be read", error) from error
    if len(content) > MAX_JOURNAL_BYTES:
        raise ConflictError(str(path), f"is larger than {MAX_JOURNAL_BYTES} bytes", hint=_here(place).lost)
    return content


def _append(path: Path, line: bytes) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unusable(path, "cannot be written", error) from error


def _unusable(path: Path, what: str, error: OSError) -> LocalResourceError:
    return LocalResourceError(str(path), f"{what}: {error.strerror}")


def _prepare(folder: Path) -> None:
    """Make the folder, and refuse one that others may write to: it decides what we take for our own lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync_folder(folder.parent)
        status = folder.stat()
    except OSError as error:
        raise _unusable(folder, "cannot be used", error) from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        hint = f"Check what is in it, then: chown $(id -u) {folder}; chmod 700 {folder}"
        raise PolicyError(str(folder), "belongs to somebody else, or others may write to it", hint=hint)


@contextmanager
def _file_lock(place: Place) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(place.folder / LOCAL_LOCK_NAME, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        hint = "Wait for it, or stop it."
        cause = "another process on this host works on it"
        raise LockedError(f"site {place.site}", cause, safe=LockedError.safe, hint=hint) from error
    except OSError as error:
        raise _unusable(place.folder / LOCAL_LOCK_NAME, "cannot be locked", error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _lease(place: Place, session: Session) -> Iterator[tuple[Lease | None, Beat | None]]:
    if place.mirror is None:
        remember(place.held, Held(working=(session.id,)))
        try:
            yield None, None
        finally:
            remember(place.held, Held())
        return
    before = recall(place.held)
    known = before.working + before.left
    holder = Holder(
        id=session.id,
        owner=shown(session.owner),
        bundle=str(session.bundle),
        since=f"{session.now():%Y-%m-%dT%H:%M:%SZ}",
    )
    lease = Lease(place.mirror, holder)
    # Written before the lock is taken: killed right after, the next process knows that the lock is its own. The old
    # id stays beside it until then, for the kill right before.
    remember(place.held, Held(working=(session.id, *known)))
    try:
        lease.take(known=known, break_id=session.break_lock)
    except (ConflictError, AccessError):  # after any other error it may be ours all the same
        remember(place.held, before)
        raise
    remember(place.held, Held(working=(session.id,)))
    try:
        with lease.beating() as beat:
            yield lease, beat
    finally:
        _give_back(lease, place, session)


def _give_back(lease: Lease, place: Place, session: Session) -> None:
    """End in order; a lock that has to stay is not an error of the install, and the next one from here knows it."""
    match lease.release():
        case Release.DONE:
            remember(place.held, Held())
        case Release.LATER:
            _warn(
                place, session, "is still there: S3 does not answer. The next bundle install from here gives it back."
            )
        case Release.DENIED:
            remember(place.held, Held(left=(session.id,)))
            elsewhere = f"others need bundle install --break-lock {session.id} after {LEASE_S:.0f} s."
            _warn(
                place, session, f"may be neither removed nor written, and stays. Installs from here go on; {elsewhere}"
            )


def _warn(place: Place, session: Session, text: str) -> None:
    address = place.mirror.address(LOCK_NAME) if place.mirror is not None else LOCK_NAME
    session.emit(Noted(text=f"{address} {text}", warning=True))
