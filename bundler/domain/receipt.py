"""The receipt: what a site's registry and its AMIs hold, by digest, small enough to carry out (docs/formats.md)."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from bundler.domain.canonical import canonical_json, parse_canonical_json
from bundler.domain.delta import Against, Held
from bundler.domain.digest import Digest
from bundler.domain.oci import MAX_BLOB_BYTES
from bundler.domain.reference import is_repository
from bundler.domain.schema import Account, Architecture, Built, Line, Name, Region, Sha256
from bundler.errors import FormatError, LimitError

MAX_RECEIPT_BYTES = 64 << 20
_KIND = re.compile(rb'"kind"\s*:\s*"Receipt"')
_HINT = "Make it again at the site: bundle receipt"
_Path = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_TAG = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
_Tag = Annotated[str, StringConstraints(pattern=_TAG)]
_Size = Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES, strict=True)]


def is_tag(text: str) -> bool:
    """Whether a receipt may name this tag."""
    return re.fullmatch(_TAG, text) is not None


class HeldBlob(Built):
    """A config or layer; `size` in bytes."""

    digest: Sha256
    size: _Size


class HeldTag(Built):
    """A tag and the digest that it names."""

    tag: _Tag
    digest: Sha256


class HeldRepository(Built):
    """What one repository holds.

    Attributes:
        name: below the site's prefix.
        tags: sorted by tag.
        blobs: what its manifests name, each once, by digest.
    """

    name: _Path
    tags: tuple[HeldTag, ...] = ()
    blobs: tuple[HeldBlob, ...] = ()

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        if not is_repository(self.name):
            raise ValueError("name: is no repository")
        _require_sorted([tag.tag for tag in self.tags], "tags")
        _require_sorted([blob.digest for blob in self.blobs], "blobs")
        return self


class HeldAmi(Built):
    """An AMI of ours: its block index, by digest, says what its volumes hold."""

    name: Name
    architecture: Architecture
    index: Sha256


class Receipt(Built):
    """What a site holds. The same world gives the same bytes: no time and no host stands in it.

    Attributes:
        cluster: name of the site's cluster.
        repositories: those below the prefix that hold something, by name.
        amis: by name, architecture and index.
    """

    api_version: Literal["eks-bundler/v1"] = "eks-bundler/v1"
    kind: Literal["Receipt"] = "Receipt"
    account: Account
    region: Region
    cluster: Line
    prefix: str = Field(max_length=256)
    repositories: tuple[HeldRepository, ...] = ()
    amis: tuple[HeldAmi, ...] = ()

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        _require_sorted([one.name for one in self.repositories], "repositories")
        _require_sorted([(one.name, one.architecture, one.index) for one in self.amis], "amis")
        sizes: dict[Digest, int] = {}
        for blob in (blob for one in self.repositories for blob in one.blobs):
            if sizes.setdefault(blob.digest, blob.size) != blob.size:
                raise ValueError(f"two sizes for {blob.digest}")
        return self

    @property
    def digest(self) -> Digest:
        """What names it in a delta that is made against it."""
        return Digest.of(receipt_bytes(self))

    @property
    def content(self) -> dict[Digest, Held]:
        """Every blob, with the first repository that has it."""
        found: dict[Digest, Held] = {}
        for one in self.repositories:
            for blob in one.blobs:
                found.setdefault(blob.digest, Held(size=blob.size, repository=one.name))
        return found


def _require_sorted(keys: list[object], what: str) -> None:
    if keys != sorted(set(keys)):  # type: ignore[type-var]
        raise ValueError(f"{what}: each once, sorted")


def receipt_bytes(receipt: Receipt) -> bytes:
    """Return the one spelling of a receipt."""
    return canonical_json(receipt.model_dump(mode="json", by_alias=True)) + b"\n"


def is_receipt(raw: bytes) -> bool:
    """Whether JSON says of itself that it is a receipt."""
    return _KIND.search(raw) is not None


def parse_receipt(raw: bytes, *, source: str) -> Receipt:
    """Return the receipt in `raw`.

    Raises:
        FormatError: not a receipt, or not in its one spelling: somebody wrote in it.
        LimitError: larger than 64 MiB.
    """
    if len(raw) > MAX_RECEIPT_BYTES:
        raise LimitError(source, f"is larger than {MAX_RECEIPT_BYTES} bytes")
    try:
        receipt = Receipt.model_validate(parse_canonical_json(raw.removesuffix(b"\n"), subject=source))
    except FormatError as error:
        raise FormatError(source, error.cause, hint=_HINT) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise FormatError(source, f"is not a receipt: {place}: {first['msg']}", hint=_HINT) from None
    if receipt_bytes(receipt) != raw:
        raise FormatError(source, "is not written in the one spelling the format has", hint=_HINT)
    return receipt


def against_receipt(receipt: Receipt) -> Against:
    """Return what a later archive may leave out."""
    indexes: dict[tuple[str, str], tuple[Digest, ...]] = {}
    for ami in receipt.amis:
        key = ami.name, ami.architecture
        indexes[key] = (*indexes.get(key, ()), ami.index)
    return Against(
        name=f"the receipt of {receipt.cluster} in {receipt.account}, {receipt.region}",
        sequence=None,
        digest=receipt.digest,
        content=receipt.content,
        indexes=indexes,
    )
