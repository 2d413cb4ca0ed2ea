"""What two archives, locks or receipts hold, by name: what is added, removed, changed, and what has to be carried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bundler.domain.delta import Held, held_content, left_out
from bundler.domain.digest import Digest
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.lock import Lock, blob_sizes
from bundler.domain.receipt import Receipt

Kind = Literal["image", "chart", "tool", "file", "ami"]
KINDS: tuple[Kind, ...] = ("image", "chart", "tool", "file", "ami")
_BELOW_PREFIX = PrivateRegistry(host="", prefix="")
_CHARTS = "charts/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What one of them holds.

    Attributes:
        label: what people call it.
        items: kind and name -> digest; images as they are named below a prefix.
        kinds: those that it can hold: tools and files are in no receipt.
        blobs: sizes in bytes, of all but the manifests of a receipt.
        held: what a delta against it may leave out.
        lock: None for a receipt.
    """

    label: str
    items: Mapping[tuple[Kind, str], Digest]
    kinds: frozenset[Kind]
    blobs: Mapping[Digest, int]
    held: Mapping[Digest, Held]
    lock: Lock | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not the same in both; `was` and `now` are None where it is not there."""

    kind: Kind
    name: str
    was: Digest | None
    now: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What the second has that the first lacks; no blob is counted twice.

    Attributes:
        blobs: how many, `size_bytes` of them.
        of_blobs: all of the second's, `of_bytes` of them.
        delta_bytes: what `build --against` carries of them: manifests, charts, tools and files besides.
    """

    blobs: int
    size_bytes: int
    of_blobs: int
    of_bytes: int
    delta_bytes: int


def lock_contents(lock: Lock) -> Contents:
    """Return what the archive of a lock holds."""
    items: dict[tuple[Kind, str], Digest] = {}
    for image in lock.images:
        items["image", _BELOW_PREFIX.image(image.reference).tagged.removeprefix("/")] = image.target.digest
    items.update({("chart", chart.reference): chart.manifest.digest for chart in lock.charts})
    for tool in lock.tools:
        items["tool", f"{tool.name} {tool.version} {tool.platform}"] = tool.content.digest
    items.update({("file", one.name): one.content.digest for one in lock.files})
    items.update({("ami", f"{ami.name} {ami.architecture}"): ami.index.digest for ami in lock.bake})
    label = f"{lock.name}-{lock.sequence}"
    return Contents(
        label=label,
        items=items,
        kinds=frozenset(KINDS),
        blobs=blob_sizes(lock, source=label),
        held=held_content(lock),
        lock=lock,
    )


def receipt_contents(receipt: Receipt) -> Contents:
    """Return what a site holds: images, charts and AMIs; of AMIs with one name, the last."""
    items: dict[tuple[Kind, str], Digest] = {}
    for one in receipt.repositories:
        kind: Kind = "chart" if one.name.startswith(_CHARTS) else "image"
        items.update({(kind, f"{one.name}:{tag.tag}"): tag.digest for tag in one.tags})
    items.update({("ami", f"{ami.name} {ami.architecture}"): ami.index for ami in receipt.amis})
    kinds: frozenset[Kind] = frozenset({"image", "chart", "ami"})
    held = receipt.content
    blobs = {digest: one.size for digest, one in held.items()}
    return Contents(label=f"receipt of {receipt.cluster}", items=items, kinds=kinds, blobs=blobs, held=held)


def differences(before: Contents, after: Contents) -> tuple[Difference, ...]:
    """Return what is not the same in both, by kind and name; only kinds that both can hold."""
    both = before.kinds & after.kinds
    keys = {key for key in {*before.items, *after.items} if key[0] in both}
    return tuple(
        Difference(kind=kind, name=name, was=before.items.get((kind, name)), now=after.items.get((kind, name)))
        for kind, name in sorted(keys, key=lambda key: (KINDS.index(key[0]), key[1]))
        if before.items.get((kind, name)) != after.items.get((kind, name))
    )


def needed(before: Contents, after: Contents) -> Needed:
    """Return what `after` holds and `before` lacks, in blobs and bytes.

    Raises:
        FormatError: the two give different sizes for one digest.
    """
    there = {*before.blobs, *before.items.values()}
    new = [size for digest, size in after.blobs.items() if digest not in there]
    absent = {} if after.lock is None else left_out(after.lock, before.held, source=before.label)
    total = sum(after.blobs.values())
    return Needed(
        blobs=len(new),
        size_bytes=sum(new),
        of_blobs=len(after.blobs),
        of_bytes=total,
        delta_bytes=total - sum(one.size for one in absent.values()),
    )
