"""A delta of images at registries that hold the first bundle: what is absent comes from there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bundler import wiring
from bundler.adapters.documents import read_document
from bundler.adapters.oci_registry import RegistryClient
from bundler.archive.reader import Archive
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.receipt import against_receipt, parse_receipt
from bundler.domain.reference import Reference
from bundler.domain.site import parse_site
from bundler.errors import AbsentContentError
from bundler.lab.lab import LabFacts
from bundler.lab.request_log import mutations
from bundler.transfer import Pace
from bundler.workflows.placed_blobs import SiteRegistry
from bundler.workflows.push import observe_push, push_archive
from tests.fakes.archives import Sample
from tests.fakes.image_deltas import Layers, against, built, bundle, layout_of, opened
from tests.journey import Workspace, small_definition, workspace
from tests.peers import StartRegistry, boto_client

pytestmark = pytest.mark.loopback
SIZE = 2 << 20
FIRST: Layers = {f"quay.io/app{number}:1": [f"{number}.{layer}" for layer in range(10)] for number in range(4)}
SECOND: Layers = {
    **{name.replace(":1", ":2"): [*layers[:9], f"new {name}"] for name, layers in FIRST.items()},
    "quay.io/other:1": FIRST["quay.io/app0:1"][:3],
}
"""One layer of ten is new; one image is new, and all its layers are in another repository."""
NEW_BYTES = 4 * SIZE


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Two bundles, and the second as a delta against the first."""

    old: Sample
    new: Sample
    first: Archive
    whole: Archive
    delta: Archive


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    old, new = (bundle(layers, sequence=number, size=SIZE) for number, layers in ((1, FIRST), (2, SECOND)))
    folder = tmp_path_factory.mktemp("bundles")
    first, whole = (opened(built(made, None, folder / "whole")) for made in (old, new))
    delta = opened(built(new, against(old.lock), folder / "delta"))
    return Bundles(old=old, new=new, first=first, whole=whole, delta=delta)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A registry, asked as bundles are pushed to it."""

    client: RegistryClient
    host: str
    facts: LabFacts | None = None

    def below(self, prefix: str, bundles: Bundles) -> PrivateRegistry:
        """A prefix, with the repositories of the bundles where somebody has to make them."""
        target = PrivateRegistry(host=self.host, prefix=prefix)
        if self.facts is not None:
            ecr, names = boto_client(self.facts, "ecr"), set[str]()
            for made in (bundles.old, bundles.new):
                names |= {target.image(image.reference).repository for image in made.lock.images}
                names |= {target.chart(chart.reference).repository for chart in made.lock.charts}
            for name in sorted(names):
                ecr.create_repository(repositoryName=name)
        return target

    def push(self, archive: Archive, target: PrivateRegistry) -> Mapping[str, Reference]:
        return push_archive(archive, target=target, registry=self.client, pace=Pace())

    def content(self, archive: Archive, references: Mapping[str, Reference]) -> dict[str, object]:
        """What the registry serves of each image and chart of a bundle: digest of the tag, and every blob whole."""
        manifests = {str(image.reference): image.manifests for image in archive.lock.images}
        manifests |= {chart.reference: (chart.manifest,) for chart in archive.lock.charts}
        return {
            name: (
                str(self.client.manifest_digest(Reference.parse(reference.tagged))),
                [self._blob(reference, blob) for one in manifests[name] for blob in one.blobs],
            )
            for name, reference in references.items()
        }

    def _blob(self, reference: Reference, blob: Blob) -> Digest:
        pieces: list[bytes] = []

        def keep(piece: memoryview) -> None:
            pieces.append(bytes(piece))

        self.client.read_blob(reference, blob.descriptor, keep, restart=pieces.clear)
        return Digest.of(b"".join(pieces))


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A prefix of the test's own."""
    return f"d{Digest.of(str(tmp_path).encode()).short}"


@pytest.fixture
def ecr(lab: LabFacts, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    site = parse_site(read_document(lab.site_file))
    client = wiring.registry_client(wiring.Surroundings(ca_file=lab.ca_file), site)
    return Place(client=client, host=site.registry_host, facts=lab)


@pytest.fixture
def mounting_ecr(ecr: Place) -> Iterator[Place]:
    assert ecr.facts is not None
    account = boto_client(ecr.facts, "ecr")
    account.put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
    yield ecr
    account.put_account_setting(name="BLOB_MOUNTING", value="DISABLED")


@pytest.fixture
def docker(docker_registry: StartRegistry) -> Place:
    return Place(client=wiring.any_registry(wiring.Surroundings(environ={})), host=docker_registry())


@pytest.mark.parametrize("where", ["docker", "ecr", "mounting_ecr"])
def test_a_delta_is_as_large_as_its_new_layers_and_gives_the_registry_what_the_whole_gives(
    where: str, request: pytest.FixtureRequest, bundles: Bundles, prefix: str
) -> None:
    place: Place = request.getfixturevalue(where)
    ratio = bundles.delta.source.size / NEW_BYTES
    print(f"{bundles.delta.source.size} bytes for {NEW_BYTES} of new layers: {ratio:.4f}")  # noqa: T201
    assert ratio <= 1.02
    one, two = (place.below(f"{prefix}/{name}", bundles) for name in ("one", "two"))
    place.push(bundles.first, one)
    found = place.content(bundles.delta, place.push(bundles.delta, one))
    place.push(bundles.first, two)
    assert found == place.content(bundles.whole, place.push(bundles.whole, two))
    assert place.push(bundles.delta, one).keys() == found.keys(), "pushed again, it is there"


def test_without_the_first_a_delta_is_refused_with_all_that_is_missing_and_nothing_is_written(
    ecr: Place, bundles: Bundles, prefix: str
) -> None:
    assert ecr.facts is not None
    target = ecr.below(prefix, bundles)
    before = mutations(ecr.facts.requests_file)
    with pytest.raises(AbsentContentError) as caught:
        ecr.push(bundles.delta, target)
    assert mutations(ecr.facts.requests_file) == before
    for one in bundles.delta.requires:
        assert f"- {one.digest} ({SIZE} bytes), for quay.io/" in caught.value.cause
    assert f"sample-1 ({against(bundles.old.lock).digest}): install that first" in caught.value.hint


def test_a_blob_that_is_gone_from_the_site_is_named_with_the_images_that_need_it(
    ecr: Place, bundles: Bundles, prefix: str
) -> None:
    assert ecr.facts is not None
    target = ecr.below(prefix, bundles)
    ecr.push(bundles.first, target)
    boto_client(ecr.facts, "ecr").delete_repository(repositoryName=f"{prefix}/quay.io/app1", force=True)
    before = mutations(ecr.facts.requests_file)
    with pytest.raises(AbsentContentError, match="lacks 9 blobs that it does not carry, of 1 image") as caught:
        observe_push(bundles.delta, target=target, registry=ecr.client, immutable=True, pace=Pace())
    assert "quay.io/app1:2" in caught.value.cause
    assert "quay.io/app2:2" not in caught.value.cause
    assert mutations(ecr.facts.requests_file) == before


def test_a_receipt_of_the_site_does_what_the_first_archive_does(
    ecr: Place, bundles: Bundles, prefix: str, tmp_path: Path
) -> None:
    assert ecr.facts is not None
    document = yaml.safe_load(ecr.facts.site_file.read_text())
    document["registry"]["prefix"] = prefix
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(document, sort_keys=False, width=4096))
    ecr.push(bundles.first, ecr.below(prefix, bundles))
    before = mutations(ecr.facts.requests_file)
    place = Workspace(folder=tmp_path, environment=ecr.facts.environment())
    told = place.bundle("receipt", "--site", "site.yaml", "--out", "r.json", "-o", "json")
    receipt = parse_receipt((tmp_path / "r.json").read_bytes(), source="r.json")
    assert json.loads(told.stdout)["digest"] == str(receipt.digest)
    place.bundle("receipt", "--site", "site.yaml", "--out", "again.json")
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "again.json").read_bytes(), "the same site, the same bytes"
    assert mutations(ecr.facts.requests_file) == before, "nothing is written"
    names = {one.name for one in receipt.repositories}
    assert names == {*(f"quay.io/app{number}" for number in range(4)), "charts/core"}
    by_lock, by_receipt = against(bundles.old.lock).content, receipt.content
    assert {digest: by_receipt.get(digest) for digest in by_lock} == by_lock
    delta = layout_of(bundles.new, against_receipt(receipt))
    assert delta.requires == bundles.delta.requires
    shown = place.bundle("diff", "r.json", "r.json")
    assert shown.stdout.startswith("needs 0 blobs, 0 B, of ")


def test_the_program_builds_foretells_shows_and_pushes_a_delta(tmp_path: Path, docker_registry: StartRegistry) -> None:
    made = workspace(tmp_path, None, small_definition(tmp_path, images=2))
    first = made.build()
    (tmp_path / "first.lock.json").write_bytes((tmp_path / "bundle.lock.json").read_bytes())
    shutil.rmtree(tmp_path / "layout")
    (tmp_path / "bundle.yaml").write_text(small_definition(tmp_path, images=3))
    made.bundle("lock")

    shown = made.bundle("diff", "small-1.tar", "bundle.lock.json")
    assert re.search(r"\+ registry.example/team/app-2:1.0.2 +image ", shown.stdout)
    counts = json.loads(made.bundle("diff", "first.lock.json", "bundle.lock.json", "-o", "json").stdout)
    assert [one["name"] for one in counts["differences"]] == ["registry.example/team/app-2:1.0.2"]
    assert counts["needed"]["bytes"] < counts["deltaBytes"] < counts["of"]["bytes"] / 2

    options = ("build", "--key", "keys/bundle.key", "-o", "json", "--progress", "plain")
    done = made.bundle(*options, "--out", "by-lock", "--against", "first.lock.json")
    told = json.loads(done.stdout)
    assert told["absent"] == {"blobs": 9, "bytes": counts["of"]["bytes"] - counts["deltaBytes"]}
    assert "against small-1: carries 14 blobs, " in done.stderr
    made.bundle(*options, "--out", "by-archive", "--against", str(first))
    second = "by-archive/small-2.tar"
    assert made.bundle("diff", "by-lock/small-2.tar", second).stdout.startswith("needs 0 blobs, 0 B, of ")
    needed = "needs on site: 9 blobs of images, "
    assert needed in made.bundle("inspect", second, "--trust", "trust").stdout
    assert needed in made.bundle("verify", second, "--trust", "trust").stdout

    target = f"{docker_registry()}/team"
    refused = made.bundle("push", second, target, "--trust", "trust", expect=7)
    assert "lacks 1 blob that it does not carry" not in refused.stderr
    assert "It was made against small-1 (sha256:" in " ".join(refused.stderr.split())
    assert made.bundle("push", "small-1.tar", target, "--trust", "trust").returncode == 0
    assert "app-2" in made.bundle("push", second, target, "--trust", "trust").stdout


def test_what_is_no_base_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    made = workspace(tmp_path, None, small_definition(tmp_path, images=1))
    made.bundle("lock")
    same = made.bundle("build", "--key", "keys/bundle.key", "--against", "bundle.lock.json", expect=2)
    assert "small-1 is not older than small-1" in same.stderr
    for name, content in (("noise", b"{"), ("receipt", b'{"kind":"Receipt"}\n'), ("other", b"other")):
        (tmp_path / name).write_bytes(content)
        made.bundle("build", "--key", "keys/bundle.key", "--against", name, expect=3)
        made.bundle("diff", name, "bundle.lock.json", expect=3)
    assert not (tmp_path / "small-1.tar").exists()


def protocols(client: RegistryClient) -> SiteRegistry:
    """The real client is what a delta needs of a registry, says mypy."""
    return client
