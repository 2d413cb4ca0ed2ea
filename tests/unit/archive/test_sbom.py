"""The bill of materials: the very document that CycloneDX's own library writes."""

from __future__ import annotations

import json
from datetime import datetime
from uuid import UUID

import pytest
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion

from bundler.archive.metadata import sbom
from bundler.domain.lock import Lock
from tests.fakes.archives import sample
from tests.fakes.bakes import FACTS
from tests.fakes.deltas import delta_sample

LOCK, DELTA = sample().lock, delta_sample().lock
LOCKS = {
    "one of everything": LOCK,
    "an AMI that is a delta": DELTA,
    "an AMI that is known": DELTA.model_copy(
        update={"bake": tuple(ami.model_copy(update={"facts": FACTS}) for ami in DELTA.bake)}
    ),
    "nothing": LOCK.model_copy(update={"images": (), "charts": (), "tools": (), "files": ()}),
    "images from the last to the first": LOCK.model_copy(update={"images": LOCK.images[::-1]}),
}


def by_the_library(document: dict[str, object]) -> object:
    """The document that the library writes of the same components: its order, its keys, what it leaves out."""
    said = json.loads(json.dumps(document))
    bundle = component(said["metadata"]["component"])
    parts = [component(part) for part in reversed(said.get("components", []))]
    bom = Bom(
        serial_number=UUID(said["serialNumber"]),
        metadata=BomMetaData(timestamp=datetime.fromisoformat(said["metadata"]["timestamp"]), component=bundle),
        components=parts,
    )
    bom.register_dependency(bundle, parts)
    return json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())


def component(said: dict[str, object]) -> Component:
    document = json.loads(json.dumps(said))
    made = Component(
        type=ComponentType(document["type"]),
        bom_ref=document["bom-ref"],
        name=document["name"],
        version=document.get("version"),
    )
    made.hashes = [
        HashType(alg=HashAlgorithm(one["alg"]), content=one["content"]) for one in document.get("hashes", [])
    ]
    made.properties = [Property(name=one["name"], value=one["value"]) for one in document.get("properties", [])]
    return made


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_the_sbom_is_what_the_library_of_cyclonedx_writes(lock: Lock) -> None:
    document = json.loads(sbom(lock))
    assert document == by_the_library(document)
    assert sbom(lock).decode() == json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    parts = [*lock.images, *lock.charts, *lock.tools, *lock.files, *lock.bake]
    assert len(document.get("components", [])) == len(parts)
