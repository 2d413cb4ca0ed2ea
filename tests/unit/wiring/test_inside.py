"""What status reads of the journal where S3 is not to be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.domain.digest import Digest
from bundler.domain.events import Event, Noted
from bundler.errors import AccessError, BundleError, ConflictError, NetworkError, RejectedError
from bundler.journal import Place, Session, hold
from bundler.ports import StoredState
from bundler.wiring.inside import known_records
from tests.fakes.state_store import MemoryState


class Failing(MemoryState):
    """A mirror that cannot be read."""

    error: BundleError

    def get(self, name: str) -> StoredState | None:
        raise self.error


def failing(folder: Path, error: BundleError) -> Place:
    here = Place(folder=folder / "state", site="a/b/c")
    with hold(here, Session(id="a", owner="a@host", bundle=Digest.of(b"x"))) as journal:
        journal.record("push", journal.key("push"))
    mirror = Failing()
    mirror.error = error
    return Place(folder=here.folder, site=here.site, mirror=mirror)


@pytest.mark.parametrize("kind", [AccessError, NetworkError, RejectedError])
def test_who_cannot_read_the_mirror_sees_what_is_recorded_here_and_is_told(
    tmp_path: Path, kind: type[BundleError]
) -> None:
    events: list[Event] = []
    records = known_records(failing(tmp_path, kind("s3:GetObject", "was denied")), events.append)
    assert [record.step for record in records] == ["push"]
    assert events == [Noted(text="the journal in S3 cannot be read: s3:GetObject: was denied", warning=True)]


def test_a_journal_of_another_site_in_s3_is_told_and_hides_nothing(tmp_path: Path) -> None:
    events: list[Event] = []
    error = ConflictError("s3://b/journal.jsonl", "is of another site", hint="Correct state.s3.")
    records = known_records(failing(tmp_path, error), events.append)
    assert [record.step for record in records] == ["push"]
    assert events == [Noted(text="s3://b/journal.jsonl: is of another site. Correct state.s3.", warning=True)]
