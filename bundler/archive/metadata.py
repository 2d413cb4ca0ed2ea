"""What the archive says about itself: closure report, SBOM, provenance. No host name, path or clock in any of them.

The SBOM is written without the library of CycloneDX, whose objects take 20 KiB an image; tests compare the two.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from bundler.archive.layout import LOCK_PATH
from bundler.domain.ami import BakedAmi
from bundler.domain.blob import Blob
from bundler.domain.canonical import indented
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock, LockedChart, LockedFile, LockedImage, LockedTool, lock_digest
from bundler.errors import FormatError

_PREFIX = "eks-bundler"


def closure_report(lock: Lock) -> bytes:
    """Return which images the bundle holds and why: who asks for each, and where."""
    return _document(
        {
            "bundle": {"name": lock.name, "sequence": lock.sequence},
            "discovery": ["podspec-walk", "declared"],
            "images": (_closure_entry(image) for image in lock.images),
            "kubernetesVersion": lock.kubernetes_version,
            "lock": str(lock_digest(lock)),
            "platforms": [str(platform) for platform in lock.platforms],
            "releases": [release.name for release in lock.releases],
        }
    )


def _closure_entry(image: LockedImage) -> dict[str, object]:
    return {
        "digest": str(image.target.digest),
        "evidence": [{"by": item.by, "where": item.where} for item in image.evidence],
        "platforms": [str(platform) for platform in image.platforms],
        "reference": str(image.reference),
    }


def sbom(lock: Lock) -> bytes:
    """Return the CycloneDX 1.6 bill of materials: images, charts, tools and files with their digests.

    Serial number and time follow the lock, so that the same lock gives the same bytes.

    Raises:
        FormatError: the lock's `created` is not an ISO 8601 time.
    """
    bundle = {
        "bom-ref": f"bundle:{lock.name}@{lock.sequence}",
        "name": lock.name,
        "type": "application",
        "version": str(lock.sequence),
    }
    parts = sorted(_parts(lock), key=lambda part: part.rank)
    refs = sorted({part.ref for part in parts})
    return _document(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            **({"components": (part.document for part in parts)} if parts else {}),
            "dependencies": (
                {"ref": ref, "dependsOn": refs} if refs and ref == bundle["bom-ref"] else {"ref": ref}
                for ref in sorted({bundle["bom-ref"], *refs})
            ),
            "metadata": {"component": bundle, "timestamp": _time(lock.created).isoformat()},
            "serialNumber": uuid5(NAMESPACE_URL, str(lock_digest(lock))).urn,
            "specVersion": "1.6",
            "version": 1,
        }
    )


def _time(created: str) -> datetime:
    try:
        time = datetime.fromisoformat(created)
    except ValueError as error:
        raise FormatError(LOCK_PATH, f"created {created!r} is not a time") from error
    if time.tzinfo is None:
        raise FormatError(LOCK_PATH, f"created {created!r} names no time zone")
    return time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A component of the bundle: what it is, and the lock's entry that says more of it when it is written."""

    type: str
    ref: str
    name: str
    version: str | None
    content: Blob
    facts: Callable[[], Iterable[tuple[str, str]]]

    @property
    def rank(self) -> tuple[str, str, bool, str, str]:
        """Its place among the others; what has no version comes after what has one."""
        return self.type, self.name, self.version is None, self.version or "", self.ref

    @property
    def document(self) -> dict[str, object]:
        """What CycloneDX says of it."""
        facts = sorted({(f"{_PREFIX}:{key}", value) for key, value in self.facts()})
        return {
            "bom-ref": self.ref,
            "hashes": [{"alg": "SHA-256", "content": self.content.digest.hex}],
            "name": self.name,
            "properties": [{"name": name, "value": value} for name, value in facts],
            "type": self.type,
            **({} if self.version is None else {"version": self.version}),
        }


def _parts(lock: Lock) -> Iterator[_Part]:
    yield from map(_image, lock.images)
    yield from map(_chart, lock.charts)
    yield from map(_tool, lock.tools)
    yield from map(_file, lock.files)
    yield from map(_ami, lock.bake)


def _image(image: LockedImage) -> _Part:
    reference = image.reference

    def facts() -> Iterator[tuple[str, str]]:
        yield from (("origin", image.origin), ("form", image.form), ("media-type", image.target.media_type))
        yield from ((f"manifest:{child.platform or 'attestation'}", str(child.digest)) for child in image.manifests)
        if image.upstream is not None:
            yield "upstream-index", str(image.upstream.digest)

    return _Part(
        type="container",
        ref=f"image:{reference}",
        name=reference.name,
        version=reference.tag,
        content=image.target,
        facts=facts,
    )


def _chart(chart: LockedChart) -> _Part:
    return _Part(
        type="application",
        ref=f"chart:{chart.reference}",
        name=f"charts/{chart.name}",
        version=chart.version,
        content=chart.manifest.blob,
        facts=lambda: [("origin", chart.origin), ("chart-digest", str(chart.content.digest))],
    )


def _tool(tool: LockedTool) -> _Part:
    return _Part(
        type="application",
        ref=f"tool:{tool.name}@{tool.version}:{tool.platform}",
        name=tool.name,
        version=tool.version,
        content=tool.content,
        facts=lambda: [("platform", str(tool.platform))],
    )


def _file(file: LockedFile) -> _Part:
    return _Part(
        type="file",
        ref=f"file:{file.name}",
        name=file.name,
        version=None,
        content=file.content,
        facts=lambda: [("purpose", file.purpose)],
    )


def _ami(ami: BakedAmi) -> _Part:
    def facts() -> Iterator[tuple[str, str]]:
        yield from (("architecture", ami.architecture), ("source-ami", ami.ami), ("bake-inputs", str(ami.inputs)))
        if ami.base is not None:
            yield "base-bundle", f"{ami.base.bundle} {ami.base.root}"
            yield "base-index", str(ami.base.index.digest)
        if ami.facts is not None:
            for key in ("kernel", "containerd", "runc", "kubelet", "nodeadm"):
                yield key, getattr(ami.facts, key)
            yield from ((f"preloaded:{image.name}", str(image.digest)) for image in ami.facts.images)

    return _Part(
        type="operating-system",
        ref=f"ami:{ami.name}:{ami.architecture}",
        name=ami.name,
        version=ami.facts.os if ami.facts is not None else None,
        content=ami.index,
        facts=facts,
    )


def provenance(lock: Lock, *, definition: Digest, tool_version: str) -> bytes:
    """Return an in-toto statement of SLSA provenance v1: from which definition and lock, by which version of this tool.

    Its subject is the lock, which names all content: the archive's own digest cannot stand inside the archive.
    """
    return _document(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": "urn:eks-bundler:archive:1",
                    "externalParameters": {"name": lock.name, "sequence": lock.sequence},
                    "resolvedDependencies": [
                        _resource("definition", definition),
                        *(_resource(str(image.reference), image.upstream_digest) for image in lock.images),
                        *(_resource(chart.reference, chart.content.digest) for chart in lock.charts),
                        *(
                            _resource(f"{tool.name} {tool.version} {tool.platform}", tool.content.digest)
                            for tool in lock.tools
                        ),
                        *(_resource(file.name, file.content.digest) for file in lock.files),
                        *(_resource(f"AMI {ami.name} {ami.architecture}", ami.index.digest) for ami in lock.bake),
                        *(_resource(f"bundle {bundle}", root) for bundle, root in _bases(lock)),
                    ],
                },
                "runDetails": {"builder": {"id": "urn:eks-bundler", "version": {"eks-bundler": tool_version}}},
            },
            "predicateType": "https://slsa.dev/provenance/v1",
            "subject": [_resource(LOCK_PATH, lock_digest(lock))],
        }
    )


def _bases(lock: Lock) -> list[tuple[str, Digest]]:
    """The bundles that AMIs were compared with."""
    return sorted({(ami.base.bundle, ami.base.root) for ami in lock.bake if ami.base is not None})


def _resource(name: str, digest: Digest) -> dict[str, object]:
    return {"digest": {"sha256": digest.hex}, "name": name}


def _document(value: Mapping[str, object]) -> bytes:
    """People read these: sorted keys, one value a line. A list may be a generator, of which no two items are there."""
    spelled = io.BytesIO()
    before = "{"
    for key in sorted(value):
        spelled.write(f'{before}\n  "{key}": '.encode())
        item = value[key]
        spelled.writelines(_listed(item) if isinstance(item, Iterator) else (indented(item, 2).encode(),))
        before = ","
    spelled.write(b"\n}\n")
    return spelled.getvalue()


def _listed(items: Iterator[object]) -> Iterator[bytes]:
    before = "["
    for item in items:
        yield f"{before}\n    {indented(item, 4)}".encode()
        before = ","
    yield b"[]" if before == "[" else b"\n  ]"
