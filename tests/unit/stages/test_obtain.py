"""Pinned files: what the definition pins comes into the cache, and nothing else."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.cache import Cache
from bundler.domain.definition import PinnedFile
from bundler.domain.digest import Digest
from bundler.domain.lock import Blob
from bundler.errors import BundleError, DefinitionError, DigestError, FormatError
from bundler.stages.obtain import obtain_one

PROGRAM = bytes(range(256)) * 9000


class Urls:
    """Files by URL; counts how often each is fetched."""

    def __init__(self, **content: bytes) -> None:
        self.content = {f"https://files.example/{name}": raw for name, raw in content.items()}
        self.fetched: list[str] = []

    def stream(self, url: str) -> Iterator[bytes]:
        self.fetched.append(url)
        yield self.content[url]


def packed(mode: str = "w:gz") -> bytes:
    """A tar as helm publishes it, with what must not be taken for the program beside it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:  # type: ignore[call-overload]
        for name, kind in (
            ("linux", tarfile.DIRTYPE),
            ("linux/link", tarfile.SYMTYPE),
            ("linux/pipe", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../../etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("linux/helm")
        info.size = len(PROGRAM)
        archive.addfile(info, io.BytesIO(PROGRAM))
    return raw.getvalue()


def pin(raw: bytes, **where: str) -> PinnedFile:
    return PinnedFile.model_validate({"sha256": Digest.of(raw).hex, **(where or {"path": "file"})})


def take(raw: bytes, tmp_path: Path, **where: str) -> tuple[Blob, bytes]:
    """Obtain a file whose content is pinned; return the blob and its bytes."""
    (tmp_path / "file").write_bytes(raw)
    cache = Cache(tmp_path / "cache")
    blob = obtain_one(pin(raw, **where), folder=tmp_path, cache=cache, urls=Urls(file=raw))
    return blob, b"".join(cache.read(blob.digest))


@pytest.mark.parametrize("where", [{"path": "file"}, {"url": "https://files.example/file"}], ids=["path", "url"])
def test_a_pinned_file_comes_into_the_cache(where: dict[str, str], tmp_path: Path) -> None:
    blob, content = take(PROGRAM, tmp_path, **where)
    assert (blob.digest, blob.size, content) == (Digest.of(PROGRAM), len(PROGRAM), PROGRAM)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_one_member_of_a_tar_is_taken_out(mode: str, tmp_path: Path) -> None:
    blob, content = take(packed(mode), tmp_path, path="file", member="linux/helm")
    assert (blob.digest, blob.size, content) == (Digest.of(PROGRAM), len(PROGRAM), PROGRAM)


@pytest.mark.parametrize("member", ["linux", "linux/link", "linux/pipe"])
def test_what_is_no_regular_file_is_refused(member: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not a regular file"):
        take(packed(), tmp_path, path="file", member=member)


def test_a_member_that_is_not_there_is_an_error_of_the_definition(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="has no such member") as caught:
        take(packed(), tmp_path, path="file", member="linux/hlem")
    assert caught.value.subject == "file (linux/hlem)"


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_tar_that_is_cut_gives_the_whole_member_or_an_error(mode: str, tmp_path: Path) -> None:
    whole, refused = packed(mode), 0
    for length in range(0, len(whole), max(1, len(whole) // 23)):
        try:
            _, content = take(whole[:length], tmp_path, path="file", member="linux/helm")
        except BundleError:
            refused += 1
        else:
            assert content == PROGRAM
    assert refused > 15


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"another")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(DigestError, match="is not the file that the definition pins") as caught:
        obtain_one(pin(PROGRAM), folder=tmp_path, cache=cache, urls=Urls())
    assert str(Digest.of(b"another")) in caught.value.cause
    assert not cache.has(Digest.of(PROGRAM))
    assert not cache.has(Digest.of(b"another"))


def test_a_path_that_is_not_there_is_an_error_of_the_definition(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="does not exist"):
        obtain_one(pin(PROGRAM), folder=tmp_path, cache=Cache(tmp_path / "cache"), urls=Urls())


def test_what_the_cache_holds_is_not_fetched_again_unless_it_was_damaged(tmp_path: Path) -> None:
    cache, urls = Cache(tmp_path / "cache"), Urls(file=PROGRAM)
    pinned = pin(PROGRAM, url="https://files.example/file")
    for _ in range(2):
        obtain_one(pinned, folder=tmp_path, cache=cache, urls=urls)
    assert len(urls.fetched) == 1
    cache.path(Digest.of(PROGRAM)).write_bytes(b"damaged")
    blob = obtain_one(pinned, folder=tmp_path, cache=cache, urls=urls)
    assert len(urls.fetched) == 2
    assert b"".join(cache.read(blob.digest)) == PROGRAM
