from __future__ import annotations

from pathlib import Path

import pytest

from bundler.cache import Cache
from bundler.domain.digest import Digest
from bundler.errors import LocalResourceError


def test_a_blob_that_the_disk_does_not_give_is_named_with_what_to_do(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.path(cache.put(b"blob"))
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading its beginning is EIO, as on a bad disk
    digest = Digest.parse(f"sha256:{path.name}")
    with pytest.raises(LocalResourceError) as caught:
        list(cache.read(digest))
    assert caught.value.subject == str(path)
    assert "remove it" in caught.value.hint


def test_a_blob_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(Cache(tmp_path).read(Digest.of(b"blob")))
