"""Lock -> layout: every offset of the archive, before the first byte of content exists (ADR 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from bundler.archive.generated import Generated, Made, measured
from bundler.archive.header import BLOCK_BYTES, END_BYTES
from bundler.archive.image_layout import INDEX_PATH, OCI_LAYOUT, OCI_LAYOUT_PATH, index_json
from bundler.archive.members import (
    MAX_MEMBERS_BYTES,
    Entry,
    Member,
    Required,
    member_line,
    place_members,
    required_line,
)
from bundler.archive.root import (
    ABSENT_BLOBS,
    AMI_BASE,
    MEMBERS_PATH,
    TRUST_PATH,
    MadeAgainst,
    Root,
    Table,
    Totals,
    root_payload,
    slot_bytes,
)
from bundler.domain.blob import Blob
from bundler.domain.delta import Against, Held, left_out
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, blob_sizes, lock_pieces
from bundler.errors import FormatError, LimitError

LOCK_PATH = "lock.json"
CLOSURE_PATH = "closure.json"
SBOM_PATH = "sbom.cdx.json"
PROVENANCE_PATH = "provenance.json"
METADATA = {
    LOCK_PATH: "lock",
    CLOSURE_PATH: "closure",
    SBOM_PATH: "sbom",
    PROVENANCE_PATH: "provenance",
    OCI_LAYOUT_PATH: "oci-layout",
    INDEX_PATH: "index",
}
"""Path -> role of the members between members.jsonl and the blobs, in order."""
_GROUPS = {"manifest": 0, "config": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A planned archive.

    Attributes:
        root: what will be signed.
        slot_bytes: size of member 0, the root's envelope padded with spaces.
        members: members 1…N in order, each in its place.
        generated: path -> content of every one of them that is not a blob.
        total_bytes: size of the archive.
        requires: what is not carried and the site must hold.
    """

    root: Root
    slot_bytes: int
    members: tuple[Member, ...]
    generated: Generated
    total_bytes: int
    requires: tuple[Required, ...] = ()

    @property
    def blobs(self) -> tuple[Member, ...]:
        """The members that are content-addressed blobs."""
        return tuple(member for member in self.members if member.is_blob)

    @property
    def absent(self) -> tuple[Required, ...]:
        """The blobs of images that are not carried."""
        return tuple(one for one in self.requires if one.role != AMI_BASE)


def plan_layout(lock: Lock, *, generated: Mapping[str, bytes], against: Against | None = None) -> Layout:
    """Return where every byte of the archive of `lock` goes.

    Args:
        lock: what the archive holds.
        generated: the content of trust.json, closure.json, sbom.cdx.json and provenance.json.
        against: what the site holds; images' configs and layers of it are not carried.

    Raises:
        FormatError: the lock gives two sizes for one digest, or `against` another one than the lock.
        LimitError: more members than an archive may list.
    """
    whole = {**generated, OCI_LAYOUT_PATH: OCI_LAYOUT, INDEX_PATH: index_json(lock)}
    makers: dict[str, Made] = {path: partial(_whole, content) for path, content in whole.items()}
    makers[LOCK_PATH] = partial(lock_pieces, lock)
    blobs = blob_entries(lock, source=LOCK_PATH)
    absent = {} if against is None else left_out(lock, against.content, source=against.label)
    later = [
        *(_entry(path, role, makers[path]) for path, role in METADATA.items()),
        *(entry for entry in blobs if entry.digest not in absent),
    ]
    required = (*base_requirements(lock), *blob_requirements(blobs, absent))
    table = _table(MEMBERS_PATH, partial(_lines, later, required))
    if table.size > MAX_MEMBERS_BYTES:
        raise LimitError(f"{lock.name}-{lock.sequence}", f"has {len(later)} members, more than one archive may list")
    root = Root(
        features=features(required),
        name=lock.name,
        sequence=lock.sequence,
        created=lock.created,
        previous=lock.previous,
        trust=_table(TRUST_PATH, makers[TRUST_PATH]),
        members=table,
        totals=Totals(members=len(later), content_bytes=sum(entry.size for entry in later)),
        against=MadeAgainst(name=against.label, digest=against.digest) if against is not None and absent else None,
    )
    slot = slot_bytes(root_payload(root))
    members = place_members(chain(head_entries(root), later), start=BLOCK_BYTES + slot)
    makers[MEMBERS_PATH] = partial(_lines, members[2:], required)
    return Layout(
        root=root,
        slot_bytes=slot,
        members=members,
        generated=Generated(makers),
        total_bytes=members[-1].end + END_BYTES,
        requires=required,
    )


def head_entries(root: Root) -> tuple[Entry, Entry]:
    """Return members 1 and 2, which the root itself names."""
    trust, members = root.trust, root.members
    return (
        Entry(name=trust.path, role="trust", size=trust.size, digest=trust.digest),
        Entry(name=members.path, role="members", size=members.size, digest=members.digest),
    )


def base_requirements(lock: Lock) -> tuple[Required, ...]:
    """Return the block indexes of AMIs that the archive of `lock` does not carry and its site must hold, by digest.

    Raises:
        FormatError: the lock gives two sizes for one digest.
    """
    sizes: dict[Digest, int] = {}
    for base in (ami.base for ami in lock.bake if ami.base is not None):
        if sizes.setdefault(base.index.digest, base.index.size) != base.index.size:
            raise FormatError(LOCK_PATH, f"gives two sizes for {base.index.digest}", hint="Make it again: bundle lock")
    return tuple(Required(role=AMI_BASE, size=sizes[digest], digest=digest) for digest in sorted(sizes))


def blob_requirements(blobs: Sequence[Entry], absent: Mapping[Digest, Held]) -> tuple[Required, ...]:
    """Return what else is not carried, in the order that it would have in the archive."""
    return tuple(
        Required(role=entry.role, size=entry.size, digest=entry.digest, repository=absent[entry.digest].repository)
        for entry in blobs
        if entry.digest in absent
    )


def features(requires: Sequence[Required]) -> tuple[str, ...]:
    """Return the additions to format 1 that a reader of an archive has to know, given what it requires; sorted."""
    return tuple(sorted({AMI_BASE if one.role == AMI_BASE else ABSENT_BLOBS for one in requires}))


def blob_entries(lock: Lock, *, source: str) -> list[Entry]:
    """Return the blobs of `lock` in the order of the archive: manifests and indexes, configs, the rest; by digest.

    Args:
        lock: names them.
        source: what errors name.

    Raises:
        FormatError: the lock gives two sizes for one digest.
    """
    sizes, roles = blob_sizes(lock, source=source), _roles(lock)
    ordered = sorted(sizes, key=lambda digest: (_GROUPS.get(roles[digest], 2), digest.text))
    return [Entry(role=roles[digest], size=sizes[digest], digest=digest) for digest in ordered]


def _roles(lock: Lock) -> dict[Digest, str]:
    """The role of each blob; content with two uses has the first of them in this order."""
    manifests = [manifest for image in lock.images for manifest in image.manifests]
    charts = [chart.manifest for chart in lock.charts]
    uses: list[tuple[str, Iterable[Blob]]] = [
        ("manifest", lock.manifests()),
        ("config", [blob for manifest in (*manifests, *charts) for blob in manifest.blobs[:1]]),
        ("layer", (blob for manifest in manifests for blob in manifest.blobs[1:])),
        ("chart", [blob for manifest in charts for blob in manifest.blobs[1:]]),
        ("tool", [tool.content for tool in lock.tools]),
        ("file", [file.content for file in lock.files]),
        ("ami-index", [ami.index for ami in lock.bake]),
        ("ami-difference", [ami.base.difference for ami in lock.bake if ami.base is not None]),
        ("ami-table", [ami.table for ami in lock.bake]),
        ("ami-pack", [pack for ami in lock.bake for pack in ami.packs]),
    ]
    roles: dict[Digest, str] = {}
    for role, blobs in uses:
        for blob in blobs:
            roles.setdefault(blob.digest, role)
    return roles


def _whole(content: bytes) -> Iterable[bytes]:
    return (content,)


def _lines(members: Sequence[Entry], required: Sequence[Required]) -> Iterable[bytes]:
    """Return the lines of members.jsonl."""
    return chain(map(member_line, members), map(required_line, required))


def _entry(path: str, role: str, made: Made) -> Entry:
    size, digest = measured(made)
    return Entry(name=path, role=role, size=size, digest=digest)


def _table(path: str, made: Made) -> Table:
    size, digest = measured(made)
    return Table(path=path, size=size, sha256=digest.hex)
