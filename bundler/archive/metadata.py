"""What the archive says about itself: closure report, SBOM, provenance. No host name, path or clock in any of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion

from bundler.archive.layout import LOCK_PATH
from bundler.domain.ami import BakedAmi
from bundler.domain.blob import Blob
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
            "images": [_closure_entry(image) for image in lock.images],
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
    bundle = Component(
        type=ComponentType.APPLICATION,
        name=lock.name,
        version=str(lock.sequence),
        bom_ref=f"bundle:{lock.name}@{lock.sequence}",
    )
    components = [
        *map(_image_component, lock.images),
        *map(_chart_component, lock.charts),
        *map(_tool_component, lock.tools),
        *map(_file_component, lock.files),
        *map(_ami_component, lock.bake),
    ]
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, str(lock_digest(lock))),
        metadata=BomMetaData(timestamp=_time(lock.created), component=bundle),
        components=components,
    )
    bom.register_dependency(bundle, components)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    return _document(json.loads(text))


def _time(created: str) -> datetime:
    try:
        time = datetime.fromisoformat(created)
    except ValueError as error:
        raise FormatError(LOCK_PATH, f"created {created!r} is not a time") from error
    if time.tzinfo is None:
        raise FormatError(LOCK_PATH, f"created {created!r} names no time zone")
    return time


def _image_component(image: LockedImage) -> Component:
    reference = image.reference
    facts = [("origin", image.origin), ("form", image.form), ("media-type", image.target.media_type)]
    facts += [(f"manifest:{child.platform or 'attestation'}", str(child.digest)) for child in image.manifests]
    if image.upstream is not None:
        facts.append(("upstream-index", str(image.upstream.digest)))
    component = Component(
        type=ComponentType.CONTAINER, bom_ref=f"image:{reference}", name=reference.name, version=reference.tag
    )
    return _described(component, image.target, facts)


def _chart_component(chart: LockedChart) -> Component:
    component = Component(
        type=ComponentType.APPLICATION,
        bom_ref=f"chart:{chart.reference}",
        name=f"charts/{chart.name}",
        version=chart.version,
    )
    facts = [("origin", chart.origin), ("chart-digest", str(chart.content.digest))]
    return _described(component, chart.manifest.blob, facts)


def _tool_component(tool: LockedTool) -> Component:
    component = Component(
        type=ComponentType.APPLICATION,
        bom_ref=f"tool:{tool.name}@{tool.version}:{tool.platform}",
        name=tool.name,
        version=tool.version,
    )
    return _described(component, tool.content, [("platform", str(tool.platform))])


def _file_component(file: LockedFile) -> Component:
    component = Component(type=ComponentType.FILE, bom_ref=f"file:{file.name}", name=file.name)
    return _described(component, file.content, [("purpose", file.purpose)])


def _ami_component(ami: BakedAmi) -> Component:
    component = Component(
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"ami:{ami.name}:{ami.architecture}",
        name=ami.name,
        version=ami.facts.os if ami.facts is not None else None,
    )
    facts = [("architecture", ami.architecture), ("source-ami", ami.ami), ("bake-inputs", str(ami.inputs))]
    if ami.base is not None:
        facts += [("base-bundle", f"{ami.base.bundle} {ami.base.root}"), ("base-index", str(ami.base.index.digest))]
    if ami.facts is not None:
        facts += [(key, getattr(ami.facts, key)) for key in ("kernel", "containerd", "runc", "kubelet", "nodeadm")]
        facts += [(f"preloaded:{image.name}", str(image.digest)) for image in ami.facts.images]
    return _described(component, ami.index, facts)


def _described(component: Component, content: Blob, facts: Iterable[tuple[str, str]]) -> Component:
    component.hashes = [HashType(alg=HashAlgorithm.SHA_256, content=content.digest.hex)]
    component.properties = [Property(name=f"{_PREFIX}:{key}", value=value) for key, value in facts]
    return component


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


def _document(value: object) -> bytes:
    """People read these: sorted keys, one value a line."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
