"""What docs/performance.md gets of a run, and what is right of a result."""

from __future__ import annotations

import json
import tarfile
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from tests.bench import corpus as corpora
from tests.bench.corpus import Corpus, ensure_images, ensure_small
from tests.bench.images import (
    OUT,
    PACKAGE,
    Program,
    crane_push,
    find_program,
    pulled,
    script,
    skopeo_pull,
    write_layouts,
)
from tests.bench.measure import HEAD, Place, Row, cells
from tests.bench.report import BEGIN, END, markdown, plot, write_report
from tests.bench.right import package_is_right, tar_is_right
from tests.bench.servers import Server

ROW = Row(
    scenario="build-local", peer="a<b", peer_version="1 | 2", ratio=2.5, limit_ratio=0.5, our_peak_rss_mib=80.0,
    verified=True, n=5, spread=(2.0, 3.0), must=3.0, machine={"cpus": 2, "cpu": "made", "load": 0.5},
    tree="0123456789abcdef", date="2026-11-28T01:00:00+00:00",
)  # fmt: skip
MISSING = replace(ROW, peer="zarf", ratio=None, spread=None, n=0, date="2026-11-27T23:00:00+00:00")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(corpora, "HOME", tmp_path / "home")
    return ensure_small(300)


def test_a_report_keeps_what_people_wrote_and_forgets_the_table_before(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_report([ROW, MISSING], page)
    text = page.read_text()
    assert "Measured 2026-11-27 to 2026-11-28 on bundler/ 0123456789ab " in text
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "![build-local](performance/build-local.svg)" in text
    assert (tmp_path / "performance" / "build-local.svg").is_file()


def test_a_table_has_a_cell_for_each_column_and_no_other_bars() -> None:
    lines = markdown([ROW, MISSING]).replace("\\|", "").splitlines()
    assert {line.count("|") for line in lines} == {len(HEAD) + 1}
    assert len(cells(ROW)) == len(HEAD)


def test_a_plot_is_xml_with_a_bar_for_each_peer_and_a_line_where_it_must_reach() -> None:
    root = ET.fromstring(plot("a & b", [ROW, replace(ROW, must=None)]))  # noqa: S314 - our own
    first, second = root.findall("{http://www.w3.org/2000/svg}rect")
    assert first.get("width") == second.get("width")
    assert len([line for line in root.iter() if line.get("class") == "must"]) == 1


def test_small_blobs_are_as_many_as_asked_and_the_same_each_time(
    small: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "HOME", tmp_path / "again")
    again = ensure_small(300)
    assert again.folder != small.folder
    assert again.images == small.images
    assert len(small.layers) == 300
    assert len(small.blobs) == 300 + len(small.images)


def test_images_are_the_same_each_time_and_the_next_release_shares_what_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for number in range(2500):
        (files / f"{number:04d}").write_bytes(number.to_bytes(2, "big") * 300 * (1 + number % 7))
    monkeypatch.setattr(corpora, "ROOT", files)
    made = []
    for home in ("one", "two"):
        monkeypatch.setattr(corpora, "HOME", tmp_path / home)
        made.append(ensure_images(scale=0.001))
    assert made[0].images == made[1].images
    assert len(made[0].images) == 20
    following = ensure_images(scale=0.001, version=2)
    same = [old["digest"] == new["digest"] for old, new in zip(made[1].images, following.images, strict=True)]
    assert same == [number % 5 in (0, 3) for number in range(20)]
    assert made[1].layers & following.layers
    assert following.layers - made[1].layers


def test_files_that_changed_since_the_first_version_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "HOME", tmp_path)
    home = tmp_path / "corpus" / f"{corpora.EDITION}-scale-0.001"
    home.mkdir(parents=True)
    (home / "files.json").write_text(json.dumps([["/nonexistent", 3]]))
    with pytest.raises(SystemExit, match="/nonexistent changed"):
        ensure_images(scale=0.001)


@pytest.mark.parametrize("damage", ["none", "bytes", "absent"])
def test_a_tar_is_right_when_each_blob_is_there_with_its_bytes(small: Corpus, tmp_path: Path, damage: str) -> None:
    configs = {small.document(image["digest"])["config"]["digest"] for image in small.images}
    hurt = min(small.layers - configs)
    (tmp_path / "other").write_bytes(bytes(2048))
    with tarfile.open(tmp_path / OUT, "w") as tar:
        for digest in small.layers:
            if digest != hurt or damage != "absent":
                path = tmp_path / "other" if digest == hurt and damage == "bytes" else small.path(digest)
                tar.add(path, f"blobs/sha256/{digest[7:]}")
    packed = zstandard.ZstdCompressor().compress((tmp_path / OUT).read_bytes())
    (tmp_path / PACKAGE).write_bytes(packed)
    place = Place(stub={}, prepared=tmp_path, folder=tmp_path)
    assert tar_is_right(small, OUT, place, "") is (damage == "none")
    assert package_is_right(small, place, "") is (damage == "none")


def test_who_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("ZARF", raising=False)
    found = find_program("zarf")
    assert found.path is None
    assert "ZARF" in found.version


def test_a_script_names_every_image_once_and_ends_where_a_line_fails(small: Corpus, tmp_path: Path) -> None:
    program = Program(name="x", path="/bin/x y", version="1")
    lines = list(pulled(skopeo_pull)(program, small, Server(address="127.0.0.1:1")))
    assert len(lines) == len(small.images) + 1
    assert all("'/bin/x y'" in line for line in lines[:-1])
    assert script(lines)[:2] == ["/bin/sh", "-euc"]
    assert all("--insecure" not in line for line in crane_push(program, small, Server(address="a", tls=True)))
    layouts = write_layouts(small, tmp_path / "layouts")
    assert all((layout / "blobs" / "sha256").is_dir() for layout in layouts.iterdir())
