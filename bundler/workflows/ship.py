"""`bundle ship`: an archive and its installer into S3, and the slip that travels by another channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import publish, refuse_unwritable
from bundler.domain.digest import Digest
from bundler.domain.events import PhaseDone, PhaseStarted, counted
from bundler.domain.parts import ARCHIVE_SUFFIX, TABLE_SUFFIX
from bundler.domain.shipment import S3Address, Shipment, slip_bytes
from bundler.errors import LocalResourceError, UsageError, keeping
from bundler.stages.ship import LocalFile, ObjectStore, leftovers, observe, ship
from bundler.transfer import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What names an archive: digest of its root, digest of its newest trust root."""

    root: Digest
    trust: Digest


_KEPT = "What was sent stays; the same command sends only what is missing."
Identify = Callable[[Path], Identity]
"""Reads the identity of an archive (member 0 and 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPart:
    """A part of an archive, wherever it stands here, and the digest that it must have."""

    path: Path
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipRequest:
    """What to send where.

    Attributes:
        archive: STEM.tar, or STEM.parts.json.
        parts: what the latter lists.
        slip: where the slip goes; None for STEM.slip.json beside the archive.
        destination: prefix below which files get their own names.
        clean: throw unfinished uploads to the same names away when done.
    """

    archive: Path
    destination: S3Address
    clean: bool = False
    parts: tuple[LocalPart, ...] = ()
    slip: Path | None = None


def ship_archive(request: ShipRequest, *, store: ObjectStore, identify: Identify, pace: Pace) -> Path:
    """Send the archive, and before it `STEM.installer.zip` where that stands beside it; return the slip's path.

    Of an archive in parts the table goes last: where it is, the parts are.

    Raises:
        RefusedError: the file is no archive, or a part is damaged.
        ConflictError: it changed meanwhile, or somebody else wrote the object.
        LocalResourceError: the slip cannot be written; known before anything is sent, as far as it can be.
        UsageError: the slip would take the place of a file that is sent.
    """
    identity = identify(request.archive)
    stem = request.archive.name.removesuffix(TABLE_SUFFIX).removesuffix(ARCHIVE_SUFFIX)
    installer = request.archive.with_name(f"{stem}.installer.zip")
    slip = request.slip or request.archive.with_name(f"{stem}.slip.json")
    _refuse_slip(slip, sent=[request.archive, installer, *(one.path for one in request.parts)])
    with keeping(_KEPT):
        sent_installer = _send(installer, request, store=store, pace=pace) if installer.exists() else None
        parts = [_send(one.path, request, store=store, pace=pace, expect=one.digest) for one in request.parts]
        sent = _send(request.archive, request, store=store, pace=pace)
    content = slip_bytes(
        archive=sent,
        address=request.destination,
        root=identity.root,
        trust=identity.trust,
        installer=sent_installer,
        parts=parts,
    )
    with keeping(_KEPT), _naming_elsewhere():
        if not _holds(slip, content):
            publish(slip, content)
    return slip


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.is_file() and path.read_bytes() == content
    except OSError:
        return False


def _refuse_slip(slip: Path, *, sent: Sequence[Path]) -> None:
    """Do nothing, unless the slip cannot be written there, or must not."""
    if slip.resolve() in {path.resolve() for path in sent}:
        raise UsageError("--slip", f"names a file that is sent: {slip}")
    with keeping("Nothing was sent."), _naming_elsewhere():
        try:
            refuse_unwritable(slip)
        except LocalResourceError:
            if not slip.is_file():  # the one that is there may be right already
                raise


@contextmanager
def _naming_elsewhere() -> Iterator[None]:
    """Say how the slip gets another place."""
    try:
        yield
    except LocalResourceError as error:
        hint = "Make room, mend what is named, or write the slip elsewhere: bundle ship --slip FILE"
        raise LocalResourceError(error.subject, error.cause, hint=hint) from error


def _send(
    path: Path, request: ShipRequest, *, store: ObjectStore, pace: Pace, expect: Digest | None = None
) -> Shipment:
    address = request.destination.below(path.name)
    pace.emit(PhaseStarted(phase="ship", detail=f"{path.name} → {address}"))
    hint = f"Mend it, then send: bundle repair {request.archive} --from COPY"
    with LocalFile.open(path, expect=expect, hint=hint) as local:
        plan = observe(local, address, store=store, pace=pace)
        done = ship(plan, local, address, store=store, pace=pace)
    leftovers(address, store=store, clean=request.clean, emit=pace.emit)
    sent = "was there already" if plan.is_done else f"sent {counted(done.sent, 'part')}"
    pace.emit(PhaseDone(phase="ship", detail=sent))
    return done.shipment
