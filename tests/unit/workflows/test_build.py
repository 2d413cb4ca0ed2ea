"""A build's bakes, beside the proof that its closure is whole; charts, registries and Packer are never reached."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.domain.chart import FetchedChart
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock
from bundler.domain.packer_job import PackerJob
from bundler.errors import ClosureError, PackerError, StoppedError
from bundler.transfer import Pace
from bundler.workflows.build import BuildRequest, build
from bundler.workflows.lock import Connected
from tests.fakes.archives import signer
from tests.unit.stages.test_pin import definition
from tests.unit.workflows.test_bakes import Packers, World, wait_to_be_called_off

DEFINITION = definition("  - {name: workers}", more="addons: [{name: own, manifest: own.yaml}]")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def absent(*_: object) -> Any:
    raise AssertionError("nobody asks for it")


def run(world: World, *, closure: Callable[[], None], bake: Callable[[PackerJob], None]) -> None:
    """Build; `closure` and `bake` are called where each of the two is at work."""

    def wrap(name: str, path: str) -> FetchedChart:
        closure()
        raise AssertionError((name, path))

    world.at_work = Packers(world.ec2, before=bake)
    outside = Connected(
        folder=world.folder,
        cache=world.cache,
        registry=absent,
        local=absent,
        urls=absent,
        find_chart=absent,
        wrap_manifest=wrap,
        built_in_chart=absent,
        renderer=absent,
        foundry=world.foundry,
        pace=Pace(emit=world.heard.append),
    )
    recorded = list[Lock]()
    request = BuildRequest(
        definition=DEFINITION,
        lock=world.lock.model_copy(update={"definition": DEFINITION.digest}),
        out=world.folder / "out",
        trust=b"",
        signer=signer(),
        reopen=lambda path: Digest.of(str(path).encode()),
        record=recorded.append,
    )
    try:
        build(request, outside=outside)
    finally:
        assert recorded == [], "neither was whole"
        assert not (world.folder / "out").exists()


def test_a_closure_that_is_not_whole_ends_the_bake_that_runs_beside_it(world: World) -> None:
    barrier, ended = threading.Barrier(2), list[BaseException]()

    def closure() -> None:
        barrier.wait(timeout=10)
        raise ClosureError("1 image not in the lock", "- registry.k8s.io/cni:v1")

    def bake(job: PackerJob) -> None:
        barrier.wait(timeout=10)
        wait_to_be_called_off(ended)

    with pytest.raises(ClosureError, match="1 image not in the lock") as caught:
        run(world, closure=closure, bake=bake)
    assert [type(error) for error in ended] == [StoppedError]
    assert caught.value.safe == "Nothing was built."


def test_a_bake_that_fails_ends_the_proof_of_the_closure_beside_it(world: World) -> None:
    barrier, ended = threading.Barrier(2), list[BaseException]()

    def closure() -> None:
        barrier.wait(timeout=10)
        wait_to_be_called_off(ended)

    def bake(job: PackerJob) -> None:
        barrier.wait(timeout=10)
        raise PackerError(job.name, "no such instance type")

    with pytest.raises(PackerError, match="no such instance type"):
        run(world, closure=closure, bake=bake)
    assert [type(error) for error in ended] == [StoppedError]
