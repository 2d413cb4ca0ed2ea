from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundler.adapters.kept_uploads import KEPT_S, MAX_KEPT_BYTES, KeptUploads

NAME, PLACE = "https://ecr.example/app@sha256:00", "https://ecr.example/v2/app/blobs/uploads/1?_state=x"


def test_a_place_is_found_again_until_it_is_forgotten_and_only_we_may_read_it(tmp_path: Path) -> None:
    kept = KeptUploads(tmp_path / "state" / "uploads")
    assert kept.recall(NAME) is None
    kept.keep(NAME, PLACE)
    (file,) = (tmp_path / "state" / "uploads").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert KeptUploads(file.parent).recall(NAME) == PLACE
    assert kept.recall(NAME + "1") is None
    kept.forget(NAME)
    kept.forget(NAME)
    assert list(file.parent.iterdir()) == []


def test_old_places_are_not_used_and_go_when_another_is_kept(tmp_path: Path) -> None:
    kept = KeptUploads(tmp_path)
    kept.keep(NAME, PLACE)
    later = KeptUploads(tmp_path, now=lambda: next(tmp_path.iterdir()).stat().st_mtime + KEPT_S + 1)
    assert later.recall(NAME) is None
    later.keep("other", PLACE)
    assert kept.recall(NAME) is None


def test_a_place_under_the_name_of_another_upload_is_not_used(tmp_path: Path) -> None:
    kept = KeptUploads(tmp_path)
    kept.keep("other", PLACE)
    (other,) = tmp_path.iterdir()
    kept.keep(NAME, PLACE)
    (ours,) = set(tmp_path.iterdir()) - {other}
    other.replace(ours)
    assert kept.recall(NAME) is None


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_cannot_be_used_stops_nothing(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = KeptUploads(tmp_path / "file" / "below" if folder == "file" else tmp_path / "missing")
    kept.forget(NAME)
    assert kept.recall(NAME) is None
    if folder == "file":
        kept.keep(NAME, PLACE)
        assert kept.recall(NAME) is None


def test_a_place_longer_than_any_honest_one_is_not_kept(tmp_path: Path) -> None:
    kept = KeptUploads(tmp_path)
    kept.keep(NAME, PLACE)
    kept.keep(NAME, "x" * MAX_KEPT_BYTES)
    assert kept.recall(NAME) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=200), st.sampled_from([b"[]", b'{"upload":1}', b'{"location":1}', b"\xff"]))
)
def test_a_damaged_file_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    kept = KeptUploads(tmp_path)
    kept.keep(NAME, PLACE)
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(content)
    assert kept.recall(NAME) is None
