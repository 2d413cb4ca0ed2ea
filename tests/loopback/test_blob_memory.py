"""Peak memory of build, verify and push as the blobs grow in number: 100,000 of them stay below 200 MiB.

`BUNDLE_TEST_BLOBS` says how many there are in the larger bundle, 10,000 without it; with 100,000 nothing is reckoned.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.corpus import ensure_small
from tests.bench.ours import UPSTREAM, definition
from tests.bench.servers import own_registry
from tests.journey import workspace

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(1200)]
FEW, MANY = 1_000, int(os.environ.get("BUNDLE_TEST_BLOBS", "10000"))
FORETOLD, MOST_MIB = 100_000, 200


def peaks(folder: Path, blobs: int) -> dict[str, float]:
    """The peak of each step with so many small blobs in a hundred images, in MiB."""
    corpus = ensure_small(blobs)
    folder.mkdir()
    with own_registry("-layout", str(corpus.folder)) as source, own_registry() as sink:
        (folder / "tool").write_bytes(b"#!/bin/sh\nexit 1\n")
        place = workspace(folder, None, definition(corpus))
        lines = [f"'{UPSTREAM}': {{url: '{source.url}'}}\n", f"'{sink.address}': {{url: '{sink.url}'}}\n"]
        (folder / "registries.yaml").write_text("".join(lines))
        own = {"BUNDLE_REGISTRIES": str(folder / "registries.yaml"), "XDG_STATE_HOME": str(folder / "state")}
        place.environment = {**place.environment, **own}
        place.bundle("lock")
        trust = ("--trust", "trust")
        found = {
            "build": place.peak_mib("build", "--locked", "--key", "keys/bundle.key"),
            "verify": place.peak_mib("verify", "bench-1.tar", *trust),
            "push": place.peak_mib("push", "bench-1.tar", f"{sink.address}/team", *trust),
        }
        held, _ = sink.held()
        assert len(held) >= blobs - 2
    return found


def test_a_hundred_thousand_blobs_are_built_verified_and_pushed_below_200_mib(tmp_path: Path) -> None:
    few, many = peaks(tmp_path / "few", FEW), peaks(tmp_path / "many", MANY)
    grown = {step: (many[step] - few[step]) / (MANY - FEW) for step in few}
    foretold = {step: many[step] + grown[step] * max(0, FORETOLD - MANY) for step in few}
    assert max(foretold.values()) <= MOST_MIB, f"MiB with {FEW}: {few}, with {MANY}: {many}, foretold: {foretold}"
