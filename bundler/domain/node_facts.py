"""What packer/al2023/facts.sh writes on a baked instance, and whether it is what a bundle needs of a node."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from bundler.domain.ami import LockedAmi, NodeFacts, Preloaded
from bundler.domain.digest import Digest
from bundler.domain.finding import Finding, raise_findings
from bundler.errors import FormatError, LimitError, PolicyError

MAX_FACTS_BYTES = 4 << 20
FACTS_TAG = "bundle:facts"
_TAG_CHARACTERS = 256
_MAX_TAGS = 40
"""Room is left for the tags of the template and of other people."""
ABSENT = "absent"
ABSENT_VERSION = "0.0"
ABSENT_SHA256 = "0" * 64
OLDEST_KUBELET_SKEW = 3
"""Minors that a kubelet may be older than the control plane (kubernetes.io, "Version Skew Policy")."""
_PLAIN = ("os", "kernel", "nodeadm", "sandbox_image")
_VERSIONS = ("containerd", "runc", "kubelet")
_DIGESTS = ("kubelet_sha256", "credential_provider_sha256")
_KEYS = frozenset((*_PLAIN, *_VERSIONS, *_DIGESTS, "architecture"))
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_PINNED = {"pinned": True, "unpinned": False}


def parse_node_facts(raw: bytes, *, subject: str) -> NodeFacts:
    """Return what the lines of `raw` say; a program that the node lacks has ABSENT_VERSION and ABSENT_SHA256.

    Raises:
        FormatError: anything but each key once and well-formed lines of images.
        LimitError: larger than 4 MiB.
    """
    if len(raw) > MAX_FACTS_BYTES:
        raise LimitError(subject, f"is larger than {MAX_FACTS_BYTES} bytes")
    values: dict[str, str] = {}
    images: dict[str, Preloaded] = {}
    for number, line in enumerate(_lines(raw, subject), 1):
        where = f"{subject}:{number}"
        if line.startswith("image\t"):
            image = _image(line, where)
            if image.name in images:
                raise FormatError(where, f"names the image {image.name} again")
            images[image.name] = image
        else:
            key, value = _pair(line, where)
            if key in values:
                raise FormatError(where, f"gives {key} again")
            values[key] = value
    return _facts(values, tuple(images.values()), subject)


def _lines(raw: bytes, subject: str) -> list[str]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(subject, "is not UTF-8") from error
    if not text.endswith("\n"):
        raise FormatError(subject, "does not end with a line end: it is cut off")
    lines = text[:-1].split("\n")
    odd = next((number for number, line in enumerate(lines, 1) if not line.replace("\t", "").isprintable()), None)
    if odd is not None:
        raise FormatError(f"{subject}:{odd}", "holds control characters")
    return lines


def _image(line: str, where: str) -> Preloaded:
    _, *fields = line.split("\t")
    if len(fields) != 3 or fields[2] not in _PINNED:
        raise FormatError(where, "is not image, name, digest, and pinned or unpinned")
    try:
        return Preloaded(name=fields[0], digest=Digest.parse(fields[1]), pinned=_PINNED[fields[2]])
    except ValidationError as error:
        raise FormatError(where, "is not the line of an image") from error


def _pair(line: str, where: str) -> tuple[str, str]:
    key, separator, value = line.partition("=")
    if not separator or key not in _KEYS:
        raise FormatError(where, f"is no known KEY=VALUE: {line[:60]!r}")
    if "\t" in value:
        raise FormatError(where, f"gives {key} with a tab in it")
    return key, value


def _facts(values: Mapping[str, str], images: tuple[Preloaded, ...], subject: str) -> NodeFacts:
    missing = sorted(_KEYS - values.keys())
    if missing:
        raise FormatError(subject, f"lacks {', '.join(missing)}")
    told: dict[str, object] = {key: values[key] for key in _PLAIN}
    told |= {key: _present(values[key], ABSENT_VERSION) for key in _VERSIONS}
    told |= {key: _present(values[key], ABSENT_SHA256) for key in _DIGESTS}
    told["architecture"] = _ARCHITECTURES.get(values["architecture"], values["architecture"])
    try:
        return NodeFacts.model_validate({**told, "images": images})
    except ValidationError as error:
        first = error.errors()[0]
        raise FormatError(subject, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _present(value: str, absent: str) -> str:
    return absent if value == ABSENT else value


def facts_tags(raw: bytes) -> dict[str, str]:
    """Return facts as tags of their AMI, so that other hosts find them; none where they are too many for tags.

    EC2: at most 50 tags, of at most 256 characters (EC2 user guide, "Tag restrictions").
    """
    text = base64.b64encode(zlib.compress(raw, 9)).decode()
    pieces = [text[start : start + _TAG_CHARACTERS] for start in range(0, len(text), _TAG_CHARACTERS)]
    if len(pieces) > _MAX_TAGS:
        return {}
    return {f"{FACTS_TAG}-{number}": piece for number, piece in enumerate(pieces)}


def facts_in_tags(tags: Mapping[str, str]) -> bytes | None:
    """Return the facts that an AMI bears, None where it bears none, or what are none; parsing tells the rest."""
    pieces: list[str] = []
    while (piece := tags.get(f"{FACTS_TAG}-{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode("".join(pieces), validate=True), MAX_FACTS_BYTES)
    except (ValueError, zlib.error):
        return None
    return raw if unpacker.eof else None


def check_facts(facts: NodeFacts, *, ami: LockedAmi, kubernetes_version: str, expected: Mapping[str, Digest]) -> None:
    """Check that nodes of an AMI can serve the bundle.

    Args:
        facts: what the AMI said of itself.
        ami: what was asked for.
        kubernetes_version: the bundle's, such as 1.36.
        expected: each preloaded name and its digest (preload.expected_names).

    Raises:
        FindingsError: with everything that is wrong (exit 3).
    """
    found = [
        *_architecture(facts, ami),
        *_programs(facts),
        *_kubelet(facts, kubernetes_version),
        *_floor("containerd", facts.containerd, ami.floors.containerd),
        *_floor("runc", facts.runc, ami.floors.runc),
        *_sandbox(facts),
        *_preloads(facts, expected),
    ]
    raise_findings(f"AMI {ami.name} ({ami.architecture})", [Finding.of("node image", error) for error in found])


def _architecture(facts: NodeFacts, ami: LockedAmi) -> Iterator[PolicyError]:
    if facts.architecture != ami.architecture:
        hint = "Give an instance type and a source of that architecture."
        yield PolicyError("architecture", f"is {facts.architecture}, not {ami.architecture}", hint=hint)


def _programs(facts: NodeFacts) -> Iterator[PolicyError]:
    hint = "Bake on an EKS-optimized AMI, or install it in your template."
    lacking = {
        "kubelet": facts.kubelet_sha256 == ABSENT_SHA256 or facts.kubelet == ABSENT_VERSION,
        "ecr-credential-provider": facts.credential_provider_sha256 == ABSENT_SHA256,
        "nodeadm": facts.nodeadm == ABSENT,
        "containerd": facts.containerd == ABSENT_VERSION,
        "runc": facts.runc == ABSENT_VERSION,
    }
    for name, is_absent in lacking.items():
        if is_absent:
            yield PolicyError(name, "is not on the AMI", hint=hint)


def _kubelet(facts: NodeFacts, kubernetes_version: str) -> Iterator[PolicyError]:
    if facts.kubelet == ABSENT_VERSION:
        return
    (major, minor), (cluster_major, cluster_minor) = _numbers(facts.kubelet)[:2], _numbers(kubernetes_version)[:2]
    if major != cluster_major or not 0 <= cluster_minor - minor <= OLDEST_KUBELET_SKEW:
        cause = f"is {facts.kubelet}, which does not fit Kubernetes {kubernetes_version}"
        hint = f"It may be up to {OLDEST_KUBELET_SKEW} minors older and never newer: take another source AMI."
        yield PolicyError("kubelet", cause, hint=hint)


def _floor(name: str, found: str, floor: str | None) -> Iterator[PolicyError]:
    if floor is not None and found != ABSENT_VERSION and _numbers(found) < _numbers(floor):
        hint = "Take a newer source AMI (release), or lower the floor."
        yield PolicyError(name, f"is {found}, below the floor {floor}", hint=hint)


def _sandbox(facts: NodeFacts) -> Iterator[PolicyError]:
    hint = "No pod starts without it: bake again on an EKS-optimized AMI."
    image = next((image for image in facts.images if image.name == facts.sandbox_image), None)
    if image is None:
        yield PolicyError(facts.sandbox_image, "is containerd's sandbox image and not on the AMI", hint=hint)
    elif not image.pinned:
        yield PolicyError(facts.sandbox_image, "is containerd's sandbox image and not pinned", hint=hint)


def _preloads(facts: NodeFacts, expected: Mapping[str, Digest]) -> Iterator[PolicyError]:
    images = {image.name: image for image in facts.images}
    hint = "Bake it again."
    for name, digest in expected.items():
        image = images.get(name)
        if image is None:
            yield PolicyError(name, "is not on the AMI", hint=hint)
        elif image.digest != digest:
            yield PolicyError(name, f"is {image.digest} on the AMI, not {digest}", hint=hint)
        elif not image.pinned:
            yield PolicyError(name, "is not pinned: the kubelet would remove it for room", hint=hint)


def _numbers(version: str) -> tuple[int, ...]:
    """1.7 is 1.7.0."""
    numbers = tuple(map(int, version.split(".")))
    return numbers + (0,) * (4 - len(numbers))
