"""`bundle ship`: an archive and its installer into S3, and the slip that travels by another channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import publish
from bundler.domain.digest import Digest
from bundler.domain.events import PhaseDone, PhaseStarted, counted
from bundler.domain.parts import ARCHIVE_SUFFIX, TABLE_SUFFIX
from bundler.domain.shipment import S3Address, Shipment, slip_bytes
from bundler.errors import keeping
from bundler.stages.ship import LocalFile, ObjectStore, leftovers, observe, ship
from bundler.transfer import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What names an archive: digest of its root, digest of its newest trust root."""

    root: Digest
    trust: Digest


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
        destination: prefix below which files get their own names.
        clean: throw unfinished uploads to the same names away when done.
    """

    archive: Path
    destination: S3Address
    clean: bool = False
    parts: tuple[LocalPart, ...] = ()


def ship_archive(request: ShipRequest, *, store: ObjectStore, identify: Identify, pace: Pace) -> Path:
    """Send the archive, and before it `STEM.installer.zip` where that stands beside it; return the slip's path.

    Of an archive in parts the table goes last: where it is, the parts are.

    Raises:
        RefusedError: the file is no archive, or a part is damaged.
        ConflictError: it changed meanwhile, or somebody else wrote the object.
    """
    identity = identify(request.archive)
    stem = request.archive.name.removesuffix(TABLE_SUFFIX).removesuffix(ARCHIVE_SUFFIX)
    installer = request.archive.with_name(f"{stem}.installer.zip")
    with keeping("What was sent stays; the same command sends only what is missing."):
        sent_installer = _send(installer, request, store=store, pace=pace) if installer.exists() else None
        parts = [_send(one.path, request, store=store, pace=pace, expect=one.digest) for one in request.parts]
        sent = _send(request.archive, request, store=store, pace=pace)
    slip = request.archive.with_name(f"{stem}.slip.json")
    content = slip_bytes(
        archive=sent,
        address=request.destination,
        root=identity.root,
        trust=identity.trust,
        installer=sent_installer,
        parts=parts,
    )
    if not slip.exists() or slip.read_bytes() != content:
        publish(slip, content)
    return slip


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
