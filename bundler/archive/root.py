"""The root: the signed table of contents' own digest, in a few hundred bytes (docs/formats.md, Root)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.digest import Digest
from bundler.domain.schema import Built, HexSha256, Line, Name, Sha256
from bundler.envelope import unsigned_envelope
from bundler.errors import FormatError

ROOT_TYPE = "application/vnd.eks-bundler.root.v1+json"
ROOT_PATH = "root.dsse.json"
TRUST_PATH = "trust.json"
MEMBERS_PATH = "members.jsonl"
FORMAT: Literal[1] = 1
READER = 1
AMI_BASE = "ami-base"
"""AMIs are carried as what differs from others, which `absent` lines at the end of members.jsonl name."""
ABSENT_BLOBS = "absent-blobs"
"""Configs and layers of images that the site holds are not carried; the same lines name them."""
FEATURES: frozenset[str] = frozenset({AMI_BASE, ABSENT_BLOBS})
"""Additions to format 1 that this reader knows."""
SIGNATURE_BYTES = 16 << 10
SLOT_STEP_BYTES = 64 << 10
MAX_SLOT_BYTES = 4 << 20


class Table(Built):
    """One of the two members that the root names itself."""

    path: Line
    size: int = Field(ge=0)
    sha256: HexSha256

    @property
    def digest(self) -> Digest:
        """The SHA-256 as a digest."""
        return Digest("sha256:" + self.sha256)


class Totals(Built):
    """What follows `members.jsonl`: how many members, how many bytes they hold."""

    members: int = Field(ge=0)
    content_bytes: int = Field(ge=0)


class MadeAgainst(Built):
    """What a delta was made against: a bundle's name and root digest or that of its lock, or a receipt and its digest.

    It is for people: what a site must hold, `absent` lines say.
    """

    name: Line
    digest: Sha256


class Root(Built):
    """What is signed; everything else in the archive hangs on it by SHA-256.

    Attributes:
        against: where blobs are absent, what brought them to the site.
    """

    format: Literal[1] = FORMAT
    min_reader: int = Field(ge=1, default=READER)
    features: tuple[Line, ...] = ()
    name: Name
    sequence: int = Field(ge=1)
    created: Line
    previous: Sha256 | None
    trust: Table
    members: Table
    totals: Totals
    against: MadeAgainst | None = None

    @property
    def digest(self) -> Digest:
        """The bundle's identity: the SHA-256 of the signed payload."""
        return Digest.of(root_payload(self))


def root_payload(root: Root) -> bytes:
    """Return the bytes that are signed: keys sorted, no blanks."""
    document = root.model_dump(mode="json", by_alias=True)
    if root.against is None:  # archives without it keep their bytes
        del document["against"]
    return canonical_json(document)


def parse_root(payload: bytes, *, source: str) -> Root:
    """Return the root in `payload`, whose signatures have been verified.

    Raises:
        FormatError: not a root in its one spelling, or one of a later format.
    """
    document = parse_canonical_json(payload, subject=source)
    if not isinstance(document, dict):
        raise FormatError(source, "is signed, but its root is not an object")
    _refuse_later_format(document, source)
    try:
        root = Root.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(source, f"is signed, but its root is wrong at {place}: {first['msg']}") from None
    if root_payload(root) != payload:
        raise FormatError(source, "is signed, but its root is not in the one spelling the format has")
    if (root.trust.path, root.members.path) != (TRUST_PATH, MEMBERS_PATH):
        raise FormatError(source, "is signed, but its root names other members than trust.json and members.jsonl")
    return root


def _refuse_later_format(document: dict[str, object], source: str) -> None:
    hint = "Use the version of this tool that the bundle was made with, or a later one."
    found, reader, features = (document.get(key) for key in ("format", "minReader", "features"))
    if type(found) is int and found > FORMAT:
        raise FormatError(source, f"has format {found}; this tool reads format {FORMAT}", hint=hint)
    if type(reader) is int and reader > READER:
        raise FormatError(source, f"needs reader {reader}; this tool has reader {READER}", hint=hint)
    unknown = [str(item) for item in features if item not in FEATURES] if isinstance(features, list) else []
    if unknown:
        raise FormatError(source, f"uses {unknown[0]!r:.60}, which this tool does not know", hint=hint)


def slot_bytes(payload: bytes) -> int:
    """Return the size of member 0: the unsigned envelope and 16 KiB for signatures, rounded up to 64 KiB."""
    needed = len(unsigned_envelope(payload, ROOT_TYPE)) + SIGNATURE_BYTES
    return -(-needed // SLOT_STEP_BYTES) * SLOT_STEP_BYTES
