"""The AMIs of a build: baked or found, read out block by block, and recorded in the lock, once.

What a bake gave is kept in the cache by the digest of its inputs, so that the same inputs never bake twice; where the
packs are lost they are read again from the AMI, which is found by the same digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bundler.archive.packs import no_packs
from bundler.cache import Cache
from bundler.domain.ami import AmiBase, BakedAmi, LockedAmi
from bundler.domain.bake import with_bakes
from bundler.domain.blob import Blob
from bundler.domain.blocks import BlockIndex, parse_block_index
from bundler.domain.definition import Definition
from bundler.domain.delta import Against, Base, difference
from bundler.domain.digest import Digest
from bundler.domain.events import Noted, PhaseDone, PhaseStarted, counted
from bundler.domain.lock import Lock
from bundler.domain.partition import partition_of
from bundler.errors import LockChangedError
from bundler.stages.bake import Baked, BakeRequest, Bakery, bake
from bundler.stages.export import Exported, ExportPlace, SnapshotReader, export
from bundler.stages.pin import Sights
from bundler.transfer import Once, Pace, parallel_map
from bundler.workflows.bake_requests import BakeRequests, FetchBlobs, Workshop
from bundler.workflows.kept_bakes import KeptBakes, suffix

INDEX_TYPE = "application/vnd.eks-bundler.ami.index.v1"
TABLE_TYPE = "application/vnd.eks-bundler.ami.packs.v1"
PACK_TYPE = "application/vnd.eks-bundler.ami.pack.v1+zstd"


class Place(ExportPlace, Protocol):
    """Where an export keeps its packs."""

    def done(self) -> None:
        """Forget how far it was: all of it is in packs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundry:
    """Where AMIs are found, baked and read out; each part is made when it is first needed.

    Attributes:
        sights: where AMIs are looked for when they are pinned, given the folder of the definition.
        account: 12 digits, of the credentials.
        region: where bakes are made.
        bakery: EC2 and Packer.
        reader: EBS direct.
        place: of an export, by a key.
        template: folder of our own template.
    """

    sights: Callable[[Path], Sights]
    account: Callable[[], str]
    region: str
    bakery: Callable[[], Bakery]
    reader: Callable[[], SnapshotReader]
    place: Callable[[str], Place]
    template: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeRun:
    """The bakes of one build.

    Attributes:
        folder: relative paths of the definition start here.
        fetch: brings what is preloaded into the cache.
        again: bake although everything is there (--rebake).
        against: carry only blocks that AMIs of that archive do not hold (--against).
        whole: carry every block, whatever the lock records (--whole).
        reading: held while an AMI is read out: one has as many readers as EBS direct keeps busy.
    """

    definition: Definition
    lock: Lock
    folder: Path
    cache: Cache
    foundry: Foundry
    fetch: FetchBlobs
    again: bool = False
    against: Against | None = None
    whole: bool = False
    pace: Pace = field(default_factory=Pace)
    reading: Once = field(default_factory=Once)

    def complete(self) -> Lock:
        """Return the lock with every bake recorded; those that it holds already, as they are asked for, stay."""
        wanted = [ami for ami in self.lock.amis if self._is_wanted(ami)]
        if not wanted:
            return self.lock
        self.pace.emit(PhaseStarted(phase="bake", detail=", ".join(f"{a.name} {a.architecture}" for a in wanted)))
        made = parallel_map(self._made, wanted, workers=len(wanted))
        self.pace.emit(PhaseDone(phase="bake", detail=f"{counted(len(made), 'AMI')} baked and read out"))
        return with_bakes(self.lock, made)

    def recorded(self, lock: Lock) -> None:
        """Note that a lock with these bakes is written down."""
        for baked in lock.bake:
            self._keeping.recorded(baked.inputs)

    @property
    def _keeping(self) -> KeptBakes:
        return KeptBakes(cache=self.cache, again=self.again)

    @property
    def _requests(self) -> BakeRequests:
        foundry = self.foundry
        return BakeRequests(
            definition=self.definition,
            lock=self.lock,
            folder=self.folder,
            cache=self.cache,
            workshop=Workshop(account=foundry.account, region=foundry.region, template=foundry.template),
            work=self._keeping.folder,
            fetch=self.fetch,
        )

    def _recorded(self, ami: LockedAmi) -> BakedAmi | None:
        """What the lock records of an AMI, None where that is to be made (again)."""
        found = self.lock.baked(ami.name, ami.architecture)
        if found is None or self.again or self._keeping.is_superseded(found):
            return None
        self._requests.check(ami, found)
        return found

    def _made(self, ami: LockedAmi) -> BakedAmi:
        """Return what became of an AMI: from the cache, else baked or found, and read out."""
        recorded, base = self._recorded(ami), self._base(ami)
        inputs = self._requests.inputs(ami) if recorded is None else recorded.inputs
        self._keeping.begin(inputs, self.lock.baked(ami.name, ami.architecture))
        if self.against is not None and base is None:
            self._say(ami, f"{self.against.label} gives no such AMI: all of it is carried")
        known = recorded or self._keeping.find(inputs, None)
        if base is not None and known is not None and known.index.digest == base.blob.digest:
            self._requests.check(ami, known)
            self._say(ami, f"holds what it held in {base.bundle}: no block of it is carried")
            return self._unchanged(known, base)
        kept = self._keeping.find(inputs, base)
        if kept is not None:
            self._requests.check(ami, kept)
            self._say(ami, "was baked and read out before; its packs are in the cache")
            return kept
        return self._read_out(ami, self._requests.request(ami, inputs, recorded=recorded, again=self.again), base)

    def mend(self, baked: BakedAmi) -> None:
        """Bring the packs of a recorded bake back into the cache, from the AMI that it made.

        Raises:
            LockChangedError: they come out as other packs, or the AMI holds something else now; or what it was compared
                with is lost, too.
        """
        base = self._recorded_base(baked)
        ami = next(one for one in self.lock.amis if (one.name, one.architecture) == (baked.name, baked.architecture))
        self._say(ami, "its packs are lost: reading them from the AMI again")
        found = self._read_out(ami, self._requests.request(ami, baked.inputs, recorded=baked), base)
        if found.table.digest != baked.table.digest:
            raise LockChangedError(
                f"AMI {baked.name} {baked.architecture}",
                f"its packs are lost; they were made with {_zstandard(baked)}, and this host's {_zstandard(found)}"
                " makes others of the same blocks",
                hint="Build where that zstandard is installed, or record the new packs: bundle build --whole, or with"
                " --against where they were a delta",
            )

    def _is_wanted(self, ami: LockedAmi) -> bool:
        recorded = self._recorded(ami)
        if recorded is None:
            return True
        base = self._base(ami)
        if self.whole or self.against is not None:
            is_lost = not all(self.cache.has(blob.digest) for blob in recorded.blobs)
            if is_lost or recorded.base_index != (None if base is None else base.blob.digest):
                return True
        if recorded.inputs != self._requests.inputs(ami):
            self._say(ami, "recorded as baked with another builder.kmsKey, or by another version: --rebake bakes anew")
        if recorded.base is not None:
            self._say(ami, f"carried as what differs from {recorded.base.bundle}, as the lock records it")
        return False

    def _base(self, ami: LockedAmi) -> Base | None:
        """What an AMI is to be compared with, None where it is carried whole."""
        if self.against is None:
            return None
        return self.against.amis.get((ami.name, ami.architecture)) or self._held_base(self.against, ami)

    def _held_base(self, against: Against, ami: LockedAmi) -> Base | None:
        """What a site holds of an AMI, where only digests say so, and this host still knows what one of them means."""
        recorded = self.lock.baked(ami.name, ami.architecture)
        same = None if recorded is None else recorded.index.digest
        for digest in sorted(against.indexes.get((ami.name, ami.architecture), ()), key=lambda one: (one != same, one)):
            raw = self.cache.get(digest)
            if raw is not None:
                index = parse_block_index(raw, subject=f"block index {digest.short} of {against.label}")
                blob = Blob(media_type=INDEX_TYPE, digest=digest, size=len(raw))
                return Base(bundle=against.label, root=against.digest, blob=blob, index=index)
        return None

    def _recorded_base(self, baked: BakedAmi) -> Base | None:
        """What a recorded bake was compared with: it is in the archive that was given, or still in the cache."""
        if baked.base is None:
            return None
        given = None if self.against is None else self.against.amis.get((baked.name, baked.architecture))
        if given is not None and given.blob.digest == baked.base.index.digest:
            return given
        raw = self.cache.get(baked.base.index.digest)
        if raw is None:
            raise LockChangedError(
                f"AMI {baked.name} {baked.architecture}",
                f"its packs are lost, and so is the block index of {baked.base.bundle}, which they were made against",
                hint=f"Give that archive: bundle build --against {baked.base.bundle}.tar",
            )
        index = parse_block_index(raw, subject=f"block index of {baked.base.bundle}")
        return Base(bundle=baked.base.bundle, root=baked.base.root, blob=baked.base.index, index=index)

    def _read_out(self, ami: LockedAmi, request: BakeRequest, base: Base | None) -> BakedAmi:
        inputs = request.inputs
        try:
            baked = bake(request, bakery=self.foundry.bakery())
        finally:
            shutil.rmtree(self._keeping.folder(inputs) / "payload", ignore_errors=True)
        self._say(ami, f"reading {baked.image.subject}")
        place = self.foundry.place(f"{inputs.hex}-{baked.image.id}{suffix(base)}")
        known = () if base is None else base.index.distinct()
        with self.reading:
            read = export(baked.image.snapshots, reader=self.foundry.reader(), place=place, base=known, pace=self.pace)
        record = self._record(ami, inputs, baked, read)
        if request.recorded is not None and record.index.digest != request.recorded.index.digest:
            raise LockChangedError(
                f"AMI {ami.name} {ami.architecture}",
                f"{record.ami} holds other blocks than those of {request.recorded.ami} that the lock records",
                hint="Record it as it is now: bundle build --rebake",
            )
        if base is not None:
            record = record.model_copy(update={"base": self._compared(read.index, base)})
            self._say(ami, f"{counted(len(read.table), 'block')} of {record.blocks} are not in {base.bundle}")
        self._keeping.put(record, base)
        place.done()
        return record

    def _compared(self, index: BlockIndex, base: Base) -> AmiBase:
        """Keep how an AMI differs from its base; the base's own index stays in the cache, should packs be lost."""
        self.cache.put(base.index.raw)
        found = self._keep(INDEX_TYPE, difference(index, base=base.index).raw)
        return AmiBase(bundle=base.bundle, root=base.root, index=base.blob, difference=found)

    def _unchanged(self, recorded: BakedAmi, base: Base) -> BakedAmi:
        """The delta of an AMI that holds what its base holds: nothing is read for it."""
        table = no_packs()
        update = {
            "index": self._keep(INDEX_TYPE, base.index.raw),
            "table": self._keep(TABLE_TYPE, table.raw),
            "packs": (),
            "packed_with": table.made_with,
            "base": self._compared(base.index, base),
        }
        return recorded.model_copy(update=update)

    def _record(self, ami: LockedAmi, inputs: Digest, baked: Baked, read: Exported) -> BakedAmi:
        return BakedAmi(
            name=ami.name,
            architecture=ami.architecture,
            inputs=inputs,
            ami=baked.image.id,
            account=self.foundry.account(),
            region=self.foundry.region,
            partition=partition_of(self.foundry.region),
            attributes=baked.attributes,
            facts=baked.facts,
            index=self._keep(INDEX_TYPE, read.index.raw),
            blocks=sum(map(len, read.index.volumes)),
            table=self._keep(TABLE_TYPE, read.table.raw),
            packs=tuple(self._pack(pack) for pack in read.table.packs),
            packed_with=read.table.made_with or None,
        )

    def _keep(self, media_type: str, content: bytes) -> Blob:
        return Blob(media_type=media_type, digest=self.cache.put(content), size=len(content))

    def _pack(self, digest: Digest) -> Blob:
        return Blob(media_type=PACK_TYPE, digest=digest, size=self.cache.path(digest).stat().st_size)

    def _say(self, ami: LockedAmi, text: str) -> None:
        self.pace.emit(Noted(text=f"{ami.name} {ami.architecture}: {text}"))


def _zstandard(baked: BakedAmi) -> str:
    return f"zstandard {baked.packed_with or '(nobody knows which)'}"
