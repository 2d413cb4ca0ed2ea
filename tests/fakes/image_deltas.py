"""Two bundles of images that share layers, and the second as a delta against the first."""

from __future__ import annotations

from pathlib import Path

from bundler.archive.identity import self_consistent
from bundler.archive.layout import Layout, plan_layout
from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.archive.reader import Archive
from bundler.archive.writer import ArchiveWriter
from bundler.domain.blob import Blob
from bundler.domain.delta import Against, against_lock
from bundler.domain.digest import Digest
from bundler.domain.lock import Evidence, Lock, LockedImage, LockedManifest
from bundler.domain.oci import Manifest, Platform, parse_manifest
from bundler.domain.reference import Reference
from tests.fakes.archives import MemorySource, Sample, sample
from tests.fakes.images import image, layer_bytes

LAYER_BYTES = 40_000
Layers = dict[str, list[str]]
"""Name of an image -> seeds of its layers."""


def bundle(layers: Layers, *, sequence: int, size: int = LAYER_BYTES) -> Sample:
    """The sample of `archives` with these images in place of its own."""
    made = sample()
    blobs = dict(made.blobs)
    images = []
    for name, seeds in sorted(layers.items()):
        one = image(f"{name} {seeds}", layers=[layer_bytes(seed, size) for seed in seeds])
        (raw,) = (raw for _, raw in one.manifests.values())
        blobs |= {**one.blobs, one.digest: raw}
        found = parse_manifest(raw, subject=name)
        assert isinstance(found, Manifest)
        manifest = LockedManifest(
            media_type=found.media_type,
            digest=found.digest,
            size=len(raw),
            platform=Platform.parse("linux/amd64"),
            blobs=tuple(Blob.of(blob) for blob in found.blobs),
        )
        images.append(
            LockedImage(
                reference=Reference.parse(name),
                target=Blob(media_type=found.media_type, digest=found.digest, size=len(raw)),
                form="manifest",
                manifests=(manifest,),
                origin="registry",
                evidence=(Evidence(by="test", where="here"),),
            )
        )
    lock = made.lock.model_copy(update={"images": tuple(images), "sequence": sequence})
    return Sample(lock=lock, blobs=blobs)


def against(lock: Lock) -> Against:
    """What a site holds where that was installed."""
    return against_lock(lock, digest=Digest.of(b"root of the base"))


def layout_of(made: Sample, base: Against | None) -> Layout:
    """The layout of a delta."""
    generated = {
        "trust.json": made.trust_json,
        "closure.json": closure_report(made.lock),
        "sbom.cdx.json": sbom(made.lock),
        "provenance.json": provenance(made.lock, definition=made.lock.definition, tool_version="0.0.0"),
    }
    return plan_layout(made.lock, generated=generated, against=base)


def built(made: Sample, base: Against | None, folder: Path) -> bytes:
    """The archive of a delta, by our own writer."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made.lock.name}-{made.lock.sequence}.tar"
    with ArchiveWriter(path, layout_of(made, base)) as writer:
        for member in writer.missing():
            place = writer.write_at(member)
            place.write(made.blobs[member.digest])
            place.commit()
        writer.seal(made.signer)
    return path.read_bytes()


def opened(raw: bytes) -> Archive:
    """An archive in memory that is right in every byte."""
    archive = self_consistent(MemorySource(raw))
    archive.verify_all()
    return archive
