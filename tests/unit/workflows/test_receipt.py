"""A receipt read from a registry, its API and EC2 in memory."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from bundler.domain.events import Event, ItemDone, Noted, TransferPlanned
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.machine_image import FoundDevice, FoundImage
from bundler.domain.oci import OCI_MANIFEST, Index, Manifest
from bundler.domain.parents import INDEX_TAG
from bundler.domain.receipt import Receipt, parse_receipt, receipt_bytes
from bundler.domain.reference import Reference
from bundler.domain.snapshot import FoundSnapshot
from bundler.errors import NotFoundUpstreamError
from bundler.transfer import Pace
from bundler.workflows.push import push_archive
from bundler.workflows.receipt import ReceiptSources, make_receipt
from tests.fakes.archives import sample
from tests.fakes.image_deltas import built, opened
from tests.fakes.images import image
from tests.fakes.memory_registry import MemoryRegistry
from tests.unit.workflows.test_restore import site_of

SITE = site_of("workers")
INDEX = Digest.of(b"index")


@dataclass
class Account:
    """A registry, its API, and AMIs."""

    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    images: tuple[FoundImage, ...] = ()
    states: dict[str, FoundSnapshot] = field(default_factory=dict)

    def below(self, prefix: str) -> tuple[str, ...]:
        names = [name.partition("/")[2] for name in self.registry.manifests]
        return tuple(sorted(name for name in names if name.startswith(f"{prefix}/")))

    def held(self, name: str) -> tuple[tuple[str, str], ...]:
        where = f"{SITE.registry_host}/{name}"
        tags = {digest: tag for tag, digest in self.registry.tags[where].items()}
        return tuple(sorted((str(digest), tags.get(digest, "")) for digest in self.registry.manifests[where]))

    def own_with_tag(self, key: str) -> tuple[FoundImage, ...]:
        assert key == "bundle:ami"
        return self.images

    def snapshots(self, ids: Collection[str]) -> dict[str, FoundSnapshot]:
        return {name: self.states[name] for name in ids if name in self.states}

    def receipt(self, pace: Pace = Pace()) -> Receipt:
        return make_receipt(
            SITE, sources=ReceiptSources(repositories=self, registry=self.registry, images=self), pace=pace
        )


@pytest.fixture
def account(tmp_path: Path) -> Account:
    """Where the sample of `archives` was pushed."""
    made = Account()
    target = PrivateRegistry(host=SITE.registry_host, prefix=SITE.registry.prefix)
    push_archive(opened(built(sample(), None, tmp_path)), target=target, registry=made.registry, pace=Pace())
    return made


def test_every_blob_of_every_platform_is_in_it_and_every_tag(account: Account) -> None:
    lock, found = sample().lock, account.receipt()
    wanted = {blob.digest: blob.size for image in lock.images for one in image.manifests for blob in one.blobs}
    wanted |= {blob.digest: blob.size for chart in lock.charts for blob in chart.manifest.blobs}
    assert {digest: held.size for digest, held in found.content.items()} == wanted
    tags = {f"{one.name}:{tag.tag}": tag.digest for one in found.repositories for tag in one.tags}
    assert tags["registry.k8s.io/pause:3.10"] == lock.images[-1].target.digest
    assert tags["charts/core:1.0.0_a"] == lock.charts[0].manifest.digest
    assert len(tags) == len(lock.images) + len(lock.charts)


class Vanishing(MemoryRegistry):
    """One manifest is gone between the list and the question."""

    gone: Digest | None = None

    def manifest(self, reference: Reference) -> Manifest | Index:
        if reference.digest == self.gone:
            raise NotFoundUpstreamError(str(reference), "is gone")
        return super().manifest(reference)


def test_what_goes_while_it_is_read_is_not_in_it(account: Account) -> None:
    gone = sample().lock.images[-1].target.digest
    old = account.registry
    account.registry = Vanishing(blobs=old.blobs, manifests=old.manifests, tags=old.tags)
    account.registry.gone = gone
    assert gone not in {tag.digest for one in account.receipt().repositories for tag in one.tags}


def foreign(account: Account, repository: str, tag: str, *sizes: int) -> None:
    """Somebody else's manifests, each of one and the same layer, whose size it states."""
    where = f"{SITE.registry_host}/{SITE.registry.prefix}/{repository}"
    for size in sizes:
        made = image(f"{repository} {tag}", layers=[SHARED])
        document = json.loads(made.raw)
        document["layers"][0]["size"] = size
        raw = json.dumps(document).encode()
        account.registry.manifests.setdefault(where, {})[Digest.of(raw)] = OCI_MANIFEST, raw
        account.registry.tags.setdefault(where, {})[tag] = Digest.of(raw)


SHARED = b"a layer that several manifests name"


@pytest.mark.parametrize("apart", [True, False], ids=["in two repositories", "in one"])
def test_a_blob_whose_sizes_disagree_is_not_in_it(account: Account, apart: bool) -> None:
    before = account.receipt().content
    foreign(account, "theirs/one", "1", 5)
    foreign(account, "theirs/two" if apart else "theirs/one", "2", 6)
    foreign(account, "theirs/three", "3", 5)
    found = account.receipt()
    assert Digest.of(SHARED) not in found.content
    assert before.items() < found.content.items()
    assert parse_receipt(receipt_bytes(found), source="x") == found


@pytest.mark.parametrize("tag", ["-x", "a b", "ü", "x" * 129, "a/b"])
def test_what_is_no_tag_is_not_in_it_and_its_blobs_are(account: Account, tag: str) -> None:
    foreign(account, "theirs", tag, len(SHARED))
    foreign(account, "theirs", "good", len(SHARED))
    found = account.receipt()
    assert [one.tag for repository in found.repositories for one in repository.tags if repository.name == "theirs"] == [
        "good"
    ]
    assert Digest.of(SHARED) in found.content
    assert parse_receipt(receipt_bytes(found), source="x") == found


def test_a_manifest_of_impossible_sizes_adds_no_blob(account: Account) -> None:
    before = account.receipt().content
    foreign(account, "theirs", "1", 1 << 41)
    assert account.receipt().content == before


def test_what_is_no_image_is_left_out_and_said(account: Account) -> None:
    where = f"{SITE.registry_host}/{SITE.registry.prefix}/theirs"
    raw, events = b"[]", list[Event]()
    account.registry.manifests[where] = {Digest.of(raw): (OCI_MANIFEST, raw)}
    account.registry.tags[where] = {"1": Digest.of(raw)}
    account.receipt(Pace(emit=events.append))
    (noted,) = (one for one in events if isinstance(one, Noted))
    assert noted.warning
    assert "/theirs left out" in noted.text


def test_what_ecr_lists_by_another_hash_is_not_in_it(account: Account) -> None:
    class Other(Account):
        def held(self, name: str) -> tuple[tuple[str, str], ...]:
            return (*super().held(name), ("sha512:" + "a" * 128, "other"))

    assert Other(registry=account.registry).receipt() == account.receipt()


def test_progress_counts_repositories(account: Account) -> None:
    events: list[Event] = []
    account.receipt(Pace(emit=events.append))
    (planned,) = (one for one in events if isinstance(one, TransferPlanned))
    done = [one for one in events if isinstance(one, ItemDone)]
    assert (planned.phase, planned.total_bytes, planned.items) == ("receipt", 0, len(done))
    assert {one.how for one in done} == {"read"}
    assert events.index(planned) < events.index(done[0])


AMI = FoundImage(
    id="ami-1",
    name="workers-amd64-0123456789ab",
    owner=SITE.account,
    state="available",
    architecture="amd64",
    devices=(FoundDevice(device="/dev/xvda", snapshot="snap-1", gib=1),),
)
SNAPSHOT = FoundSnapshot(id="snap-1", state="completed", tags={INDEX_TAG: str(INDEX)})


def test_an_ami_that_install_restored_is_in_it() -> None:
    (found,) = Account(images=(AMI,), states={"snap-1": SNAPSHOT}).receipt().amis
    assert (found.name, found.architecture, found.index) == ("workers", "amd64", INDEX)


@pytest.mark.parametrize(
    ("image", "snapshot"),
    [
        pytest.param(replace(AMI, state="pending"), SNAPSHOT, id="not available"),
        pytest.param(replace(AMI, name="theirs"), SNAPSHOT, id="a name that is not ours"),
        pytest.param(replace(AMI, name=f"{'x' * 60}-amd64-0123456789ab"), SNAPSHOT, id="a name longer than ours"),
        pytest.param(replace(AMI, name="x--amd64-0123456789ab"), SNAPSHOT, id="a name that ends otherwise"),
        pytest.param(AMI, None, id="no snapshot"),
        pytest.param(AMI, replace(SNAPSHOT, state="pending"), id="a snapshot that is not complete"),
        pytest.param(AMI, replace(SNAPSHOT, tags={}), id="no index"),
        pytest.param(AMI, replace(SNAPSHOT, tags={INDEX_TAG: "x"}), id="an index that is no digest"),
    ],
)
def test_one_that_nothing_can_begin_with_is_not(image: FoundImage, snapshot: FoundSnapshot | None) -> None:
    states = {} if snapshot is None else {"snap-1": snapshot}
    assert Account(images=(image,), states=states).receipt().amis == ()
