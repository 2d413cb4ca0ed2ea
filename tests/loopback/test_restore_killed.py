"""Restore and export killed (SIGKILL) before and after every kind of call, and run again: the same, once, and whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from bundler.lab.lab import LabFacts
from tests.restores import RestoreSite, read_blocks

pytestmark = [pytest.mark.loopback, pytest.mark.slow]
KILLED = -9
MOMENTS = (
    *(f"start:{number}:{when}" for number in (1, 2) for when in ("before", "after")),
    "snapshots:1:after",  # begun and not looked for
    "put:1:before", "put:1:after", "put:17:before", "put:33:after", "put:50:after", "put:63:before", "put:63:after",
    *(f"record:{number}:{when}" for number in (1, 2, 5) for when in ("before", "after")),
    *(f"complete:{number}:{when}" for number in (1, 2) for when in ("before", "after")),
    "register:1:before", "register:1:after",
    "image:1:before", "image:1:after",
)  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_restore_killed_there_leaves_one_ami_of_one_snapshot_for_each_device(
    lab: LabFacts, tmp_path: Path, moment: str
) -> None:
    site = RestoreSite.of(lab, tmp_path)
    assert site.run(die=moment, expect=None).returncode == KILLED, "each moment comes"
    site.run()
    site.assert_whole()
    writes = site.writes()
    assert site.run().stdout == "Nothing to do.\n"
    assert site.writes() == writes


def test_restore_killed_again_and_again_comes_to_its_end(lab: LabFacts, tmp_path: Path) -> None:
    """Each run gets a little further: what the journal holds of whole packs is not sent again."""
    site = RestoreSite.of(lab, tmp_path)
    before, runs = site.calls("PutSnapshotBlock"), 0
    while site.run(die="put:20:after", expect=None).returncode == KILLED:
        runs += 1
        assert runs < 60
    site.assert_whole()
    assert runs > 2
    assert site.calls("PutSnapshotBlock") - before < 63 * runs


@pytest.mark.parametrize("moment", ["start:2:after", "put:30:after", "complete:1:after", "register:1:after"])
def test_a_second_cluster_goes_on_with_what_a_killed_one_left_and_both_have_one_ami(
    lab: LabFacts, tmp_path: Path, moment: str
) -> None:
    site = RestoreSite.of(lab, tmp_path / "a")
    cluster = {**site.document["cluster"], "name": "second"}
    other = replace(RestoreSite.of(lab, tmp_path / "b", site.ami, cluster=cluster), content=site.content)
    assert site.run(die=moment, expect=None).returncode == KILLED, "each moment comes"
    other.run()
    other.assert_whole()
    writes = site.writes()
    assert "Nothing to do." in site.run().stdout
    assert site.writes() == writes


def test_an_ami_that_lost_its_tags_to_a_kill_is_found_by_its_name_and_tagged(lab: LabFacts, tmp_path: Path) -> None:
    site = RestoreSite.of(lab, tmp_path)
    site.run()
    (image,) = site.images()
    site.aws("ec2").delete_tags(Resources=[image["ImageId"]])
    site.run()
    assert [one["ImageId"] for one in site.images()] == [image["ImageId"]]
    site.assert_whole()


def test_a_journal_that_is_lost_with_its_host_costs_time_only(lab: LabFacts, tmp_path: Path) -> None:
    """Another host goes on: its tokens are the same. The lock of the first one runs out, or is broken."""
    site = RestoreSite.of(lab, tmp_path)
    document = (tmp_path / "site.yaml").read_text()
    (tmp_path / "site.yaml").write_text(
        "\n".join(x for x in document.splitlines() if "s3://" not in x and x != "state:")
    )
    assert site.run(die="put:40:after", expect=None).returncode == KILLED
    site.environment["XDG_STATE_HOME"] = str(tmp_path / "other-host")
    site.run()
    site.assert_whole()


@pytest.mark.parametrize(
    "moment",
    [
        "blocks:1:before", "blocks:1:after", "read:1:before", "read:30:after", "read:60:after", "begin:1:before",
        "begin:1:after", "begin:2:after", "save:1:before", "save:1:after", "save:2:before", "save:2:after",
    ],
)  # fmt: skip
def test_export_killed_there_makes_the_same_index_and_the_same_packs(
    lab: LabFacts, tmp_path: Path, moment: str
) -> None:
    site = exportable(lab, tmp_path / "a")
    assert site.export(source(site), die=moment).returncode == KILLED, "each moment comes"
    assert_only_whole_blobs(site)
    made = site.export(source(site))
    assert made.returncode == 0, made.stderr
    assert made.stdout == fresh_export(site, tmp_path / "b")
    assert_only_whole_blobs(site)
    unfinished = site.folder / "cache" / "blobs" / "sha256" / ".new"
    assert [path.name for path in unfinished.iterdir()] == [".lock"]


@pytest.mark.parametrize("tear", ["cut", "empty", "flipped", "of another snapshot", "a pack is gone"])
def test_export_whose_state_is_torn_begins_again_and_makes_the_same(lab: LabFacts, tmp_path: Path, tear: str) -> None:
    site = exportable(lab, tmp_path / "a")
    assert site.export(source(site), die="save:2:after").returncode == KILLED
    (state,) = (site.folder / "cache" / "exports").iterdir()
    raw = state.read_bytes()
    if tear == "a pack is gone":
        next(path for path in blobs(site) if path.is_file()).unlink()
    elif tear == "of another snapshot":
        content = raw.partition(b"\n")[2].replace(source(site).encode(), b"snap-00000000000000000")
        state.write_bytes(f"{Digest.of(content).hex}\n".encode() + content)
    else:
        torn = {"cut": raw[: len(raw) // 2], "empty": b"", "flipped": raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]}
        state.write_bytes(torn[tear])
    made = site.export(source(site))
    assert made.returncode == 0, made.stderr
    assert made.stdout == fresh_export(site, tmp_path / "b")
    assert_only_whole_blobs(site)


def exportable(lab: LabFacts, folder: Path) -> RestoreSite:
    site = RestoreSite.of(lab, folder)
    site.run()
    return site


def source(site: RestoreSite) -> str:
    """The snapshot of the root device."""
    (image,) = site.images()
    return str(image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def fresh_export(site: RestoreSite, folder: Path) -> str:
    """What an export that nobody disturbs prints."""
    folder.mkdir()
    (folder / "cache").mkdir()
    other = RestoreSite(
        facts=site.facts, folder=folder, ami=site.ami, content=site.content, environment=site.environment
    )
    made = other.export(source(site))
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.split()) > 3, "several packs"
    assert len(read_blocks(site.aws("ebs"), source(site))) == 60
    return made.stdout


def blobs(site: RestoreSite) -> list[Path]:
    """What stands in the cache under a final name."""
    return [path for path in (site.folder / "cache").glob("blobs/sha256/*") if not path.name.startswith(".")]


def assert_only_whole_blobs(site: RestoreSite) -> None:
    for path in blobs(site):
        assert Digest.of(path.read_bytes()).hex == path.name
