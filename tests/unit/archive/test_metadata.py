"""Closure report, SBOM and provenance."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.domain.digest import Digest
from bundler.domain.lock import lock_bytes
from bundler.errors import FormatError
from tests.fakes.archives import sample

LOCK = sample().lock


def test_the_closure_report_names_each_image_with_its_evidence() -> None:
    document = json.loads(closure_report(LOCK))
    assert [entry["reference"] for entry in document["images"]] == [str(image.reference) for image in LOCK.images]
    assert document["images"][0]["evidence"] == [{"by": "chart core", "where": "Deployment/x"}]
    assert document["images"][0]["digest"] == str(LOCK.images[0].target.digest)
    assert document["lock"] == str(Digest.of(lock_bytes(LOCK)))


def test_the_sbom_names_images_charts_tools_and_files_with_their_digests() -> None:
    document = json.loads(sbom(LOCK))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    hashes = {part["name"]: part["hashes"][0]["content"] for part in document["components"]}
    assert hashes == {
        "public.ecr.aws/eks/coredns": LOCK.images[0].target.digest.hex,
        "registry.k8s.io/metrics-server/metrics-server": LOCK.images[1].target.digest.hex,
        "registry.k8s.io/pause": LOCK.images[2].target.digest.hex,
        "charts/core": LOCK.charts[0].manifest.digest.hex,
        "helm": LOCK.tools[0].content.digest.hex,
        "empty": LOCK.files[0].content.digest.hex,
    }
    assert document["metadata"]["timestamp"].startswith("2026-01-02T03:04:05")
    derived = next(part for part in document["components"] if part["name"].endswith("coredns"))
    facts = {fact["name"]: fact["value"] for fact in derived["properties"]}
    upstream = LOCK.images[0].upstream
    assert upstream is not None
    assert facts["eks-bundler:upstream-index"] == str(upstream.digest)


def test_the_provenance_names_definition_lock_and_tool_version() -> None:
    document = json.loads(provenance(LOCK, definition=LOCK.definition, tool_version="1.2.3"))
    assert document["subject"] == [{"digest": {"sha256": Digest.of(lock_bytes(LOCK)).hex}, "name": "lock.json"}]
    dependencies = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"digest": {"sha256": LOCK.definition.hex}, "name": "definition"} in dependencies
    assert document["predicate"]["runDetails"]["builder"]["version"] == {"eks-bundler": "1.2.3"}


def test_metadata_depends_on_the_lock_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> tuple[bytes, ...]:
        return closure_report(LOCK), sbom(LOCK), provenance(LOCK, definition=LOCK.definition, tool_version="1")

    before = made()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert made() == before
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_another_lock_has_another_serial_number() -> None:
    other = LOCK.model_copy(update={"sequence": 8})
    assert json.loads(sbom(LOCK))["serialNumber"] != json.loads(sbom(other))["serialNumber"]
    assert json.loads(sbom(LOCK))["serialNumber"] == json.loads(sbom(LOCK))["serialNumber"]


@pytest.mark.parametrize("created", ["yesterday", "2026-01-02T03:04:05"])
def test_a_lock_without_a_time_has_no_sbom(created: str) -> None:
    with pytest.raises(FormatError):
        sbom(LOCK.model_copy(update={"created": created}))
