"""The .tgz of charts: hostile ones are refused (reliability H01-H04), ours never differ."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.adapters import chart_tar
from bundler.adapters.chart_tar import pack, unpack
from bundler.errors import BundleError, FormatError, LimitError

FILES = {"Chart.yaml": b"name: web\n", "templates/a.yaml": b"x" * 1000, "empty": b""}


def tgz(fill: Callable[[tarfile.TarFile], None], *, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        fill(archive)
    return gzip.compress(buffer.getvalue())


def member(name: str, content: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def fill(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(content))

    return fill


def test_what_is_packed_comes_back() -> None:
    assert unpack(pack("web", FILES), subject="x") == ("web", FILES)


def test_packed_bytes_never_change() -> None:
    packed = pack("web", FILES)
    assert packed == pack("web", dict(reversed(FILES.items())))
    assert hashlib.sha256(packed).hexdigest() == "d491fce831af08fb951b1aa80cb66b92c44d149f1b8645c479431464bce5bdfa"


def test_python_and_gzip_read_it_too() -> None:
    content = gzip.decompress(pack("web", FILES))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == ["web/Chart.yaml", "web/empty", "web/templates/a.yaml"]
    assert {(info.mode, info.mtime, info.uid, info.type) for info in infos} == {(0o644, 0, 0, b"0")}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9_.-]{1,30}(/[a-zé0-9_-]{1,60}){0,3}", fullmatch=True), st.binary(max_size=2000)
    )
)
def test_any_files_make_a_round_trip(files: dict[str, bytes]) -> None:
    files = {name: content for name, content in files.items() if not {".", ".."} & set(name.split("/"))}
    if files:
        assert unpack(pack("web", files), subject="x") == ("web", files)


def test_content_larger_than_one_stored_block() -> None:
    files = {"big": bytes(range(256)) * 1000}
    assert unpack(pack("web", files), subject="x")[1] == files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_kind_of_tar_are_read(form: int) -> None:
    name = "web/" + "a" * 90 + "/" + "b" * 90
    assert unpack(tgz(member(name, b"x"), form=form), subject="x") == ("web", {name[4:]: b"x"})


def test_folders_and_a_comment_of_git_are_passed_over() -> None:
    def fill(archive: tarfile.TarFile) -> None:
        member("pax_global_header", b"52 comment=0123456789012345678901234567890123456789\n", type=b"g")(archive)
        member("web/", type=tarfile.DIRTYPE)(archive)
        member("web/a", b"1")(archive)

    assert unpack(tgz(fill), subject="x") == ("web", {"a": b"1"})


@pytest.mark.parametrize(
    ("packed", "error"),
    [
        (b"not gzip", FormatError),
        (pack("web", FILES)[:-20], FormatError),
        (pack("web", FILES) + b"more", FormatError),
        (pack("web", FILES) + pack("web", FILES), FormatError),
        (gzip.compress(gzip.decompress(pack("web", FILES))[:-512]), None),
        (gzip.compress(gzip.decompress(pack("web", FILES))[:-1024]), FormatError),
        (gzip.compress(gzip.decompress(pack("web", FILES)) + b"x" * 512), FormatError),
        (gzip.compress(bytes(chart_tar.MAX_UNPACKED_BYTES + 1), 1), LimitError),
        (tgz(member("web/a", b"x" * (chart_tar.MAX_FILE_BYTES + 1))), LimitError),
        (tgz(member("web/a", type=tarfile.SYMTYPE, linkname="/etc/passwd")), FormatError),
        (tgz(member("web/Chart.lock", type=tarfile.LNKTYPE, linkname="web/a")), FormatError),
        (tgz(member("web/a", type=tarfile.FIFOTYPE)), FormatError),
        (tgz(member("web/../../a", b"x")), FormatError),
        (tgz(member("/web/a", b"x")), FormatError),
        (tgz(member("./web/a", b"x")), FormatError),
        (tgz(member("web//a", b"x")), FormatError),
        (tgz(member("web/a\\b", b"x")), FormatError),
        (tgz(member("web/a\x1b[2J", b"x")), FormatError),
        (tgz(member("a", b"x")), FormatError),
        (tgz(lambda t: [member("web/a", b"x")(t), member("web/a", b"y")(t)]), FormatError),  # type: ignore[func-returns-value]
        (tgz(lambda t: [member("web/a", b"x")(t), member("other/b", b"y")(t)]), FormatError),  # type: ignore[func-returns-value]
        (tgz(member("web/a", b"x", pax_headers={"linkpath": "/etc"}), form=tarfile.PAX_FORMAT), FormatError),
        (tgz(member("web/a", b"x", pax_headers={"GNU.sparse.major": "1"}), form=tarfile.PAX_FORMAT), FormatError),
        (tgz(lambda t: None), FormatError),
    ],
    ids=["no gzip", "cut", "more", "two members", "one end block", "no end", "after end", "bomb", "large file",
         "symlink", "hardlink", "fifo", "climbs", "absolute", "dot", "double slash", "backslash", "escape", "no folder",
         "twice", "two folders", "pax link", "pax sparse", "empty"],
)  # fmt: skip
def test_anything_but_clean_files_in_one_folder_is_refused(packed: bytes, error: type[BundleError] | None) -> None:
    if error is None:
        unpack(packed, subject="chart x")
        return
    with pytest.raises(error, match="chart x"):
        unpack(packed, subject="chart x")


def test_a_header_with_a_wrong_sum_is_refused() -> None:
    content = bytearray(gzip.decompress(pack("web", FILES)))
    content[3] ^= 1
    with pytest.raises(FormatError, match="checksum"):
        unpack(gzip.compress(bytes(content)), subject="x")


@given(st.data())
def test_a_damaged_chart_is_read_right_or_refused_with_a_typed_error(data: st.DataObject) -> None:
    content = bytearray(gzip.decompress(pack("web", FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BundleError):
        unpack(zlib.compress(bytes(content), wbits=31), subject="x")
