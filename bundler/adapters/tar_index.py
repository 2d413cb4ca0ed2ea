"""Where the files of a tar archive from outside stand. Nothing is extracted, and no name is ever used as a path.

Only what image archives consist of is understood: regular files, folders and links inside the archive, with the
long-name extensions of GNU and POSIX, all within limits.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bundler.errors import FormatError, LimitError, LocalResourceError, NotFoundUpstreamError
from bundler.transfer import check_stopped

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 512
MAX_MEMBERS = 100_000
MAX_LINKS = 8
MAX_NAME_BYTES = 4096
MAX_EXTENSION_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Member:
    """Place of one regular file: offset and size in bytes."""

    offset: int
    size: int


class IndexedTar:
    """A tar archive whose regular files can be read by name. Opening reads all headers."""

    def __init__(self, file: BinaryIO, *, subject: str) -> None:
        self._file = file
        self._subject = subject
        self._members: dict[str, Member] = {}
        self._links: dict[str, str] = {}

    def index(self) -> IndexedTar:
        """Read the headers; return this archive.

        Raises:
            FormatError: not a tar archive, cut off, or with a name that stands twice.
            LimitError: more or longer entries than any honest archive has.
        """
        try:
            _Scan(self._file, self._subject, self._members, self._links).run()
        except OSError as error:
            raise LocalResourceError(self._subject, f"cannot be read: {error.strerror}") from error
        return self

    def find(self, name: str) -> Member | None:
        """Return the place of a regular file; links inside the archive are followed."""
        name = _plain(name)
        for _ in range(MAX_LINKS):
            if name in self._members:
                return self._members[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a small file whole.

        Raises:
            NotFoundUpstreamError: it is not there.
            LimitError: it is longer than `limit` bytes.
        """
        member = self._required(name)
        if member.size > limit:
            raise LimitError(self._subject, f"{name[:100]!r} has {member.size} bytes; at most {limit} are read")
        return b"".join(self._pieces(member))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file in chunks of at most 1 MiB.

        Raises:
            NotFoundUpstreamError: it is not there.
        """
        return self._pieces(self._required(name))

    def close(self) -> None:
        """Close the archive."""
        self._file.close()

    def _required(self, name: str) -> Member:
        member = self.find(name)
        if member is None:
            raise NotFoundUpstreamError(self._subject, f"holds no file {name[:200]!r}")
        return member

    def _pieces(self, member: Member) -> Iterator[bytes]:
        place, end = member.offset, member.offset + member.size
        while place < end:
            check_stopped()
            try:
                piece = os.pread(self._file.fileno(), min(CHUNK_BYTES, end - place), place)
            except OSError as error:
                raise LocalResourceError(self._subject, f"cannot be read: {error.strerror}") from error
            if not piece:
                raise FormatError(self._subject, "was cut off while it was read")
            place += len(piece)
            yield piece


def open_tar(path: Path) -> IndexedTar:
    """Return the archive in a file, indexed.

    Raises:
        NotFoundUpstreamError: no such file.
        FormatError: not a tar archive.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundUpstreamError(str(path), "is not a file here") from error
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
    archive = IndexedTar(file, subject=str(path))
    try:
        return archive.index()
    except BaseException:
        archive.close()
        raise


class _Scan:
    """One walk over the headers."""

    def __init__(self, file: BinaryIO, subject: str, members: dict[str, Member], links: dict[str, str]) -> None:
        self._handle = file.fileno()
        self._end = os.fstat(self._handle).st_size
        self._subject = subject
        self._members = members
        self._links = links
        self._place = 0
        self._extension: dict[str, str] = {}

    def run(self) -> None:
        for _ in range(MAX_MEMBERS):
            block = self._take(BLOCK_BYTES)
            if not block.strip(b"\0"):
                return
            self._entry(block)
        raise LimitError(self._subject, f"has more than {MAX_MEMBERS} entries")

    def _take(self, size: int) -> bytes:
        content = os.pread(self._handle, size, self._place)
        if len(content) != size:
            raise FormatError(self._subject, "is cut off")
        self._place += size
        return content

    def _entry(self, block: bytes) -> None:
        if sum(block) - sum(block[148:156]) + 8 * 32 != _number(block[148:156]):
            what = "is compressed; gunzip it first" if block[:2] == b"\x1f\x8b" else "is not a tar archive"
            raise FormatError(self._subject, f"{what} (checksum of the header at byte {self._place - BLOCK_BYTES})")
        size, kind = self._size(block), block[156:157]
        start = self._place
        if start + size > self._end:
            raise FormatError(self._subject, "is cut off")
        if kind in b"LKxg" and kind:
            self._extend(kind, size)
        else:
            self._record(block, kind, Member(start, size if kind in (b"0", b"\0", b"7") else 0))
        self._place = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES

    def _size(self, block: bytes) -> int:
        text = self._extension.get("size")
        size = int(text) if text is not None and text.isascii() and text.isdigit() else _number(block[124:136])
        if size is None or (size and block[156:157] in b"12345"):
            raise FormatError(self._subject, "has an entry with an impossible size")
        return size

    def _extend(self, kind: bytes, size: int) -> None:
        """Take a record that only tells more about the next entry."""
        if size > MAX_EXTENSION_BYTES:
            raise LimitError(self._subject, f"has an extension header of {size} bytes")
        content = self._take(size)
        if kind == b"L":
            self._extension["path"] = _text(content.rstrip(b"\0"))
        elif kind == b"K":
            self._extension["linkpath"] = _text(content.rstrip(b"\0"))
        elif kind == b"x":
            self._extension.update(_pax(content, self._subject))

    def _record(self, block: bytes, kind: bytes, member: Member) -> None:
        extension, self._extension = self._extension, {}
        name = _plain(extension.get("path") or _ustar_name(block))
        if len(name) > MAX_NAME_BYTES:
            raise LimitError(self._subject, f"has a name of {len(name)} characters")
        if kind == b"5":
            return
        if name in self._members or name in self._links:
            raise FormatError(self._subject, f"holds {name[:100]!r} twice")
        if kind in (b"0", b"\0", b"7"):
            self._members[name] = member
        elif kind in (b"1", b"2"):
            target = extension.get("linkpath") or _text(block[157:257].partition(b"\0")[0])
            base = posixpath.dirname(name) if kind == b"2" else ""
            self._links[name] = _plain(posixpath.normpath(posixpath.join(base, target)))
        else:
            raise FormatError(self._subject, f"holds {name[:100]!r}, which is neither file, folder nor link")


def _number(field: bytes) -> int | None:
    """Octal text, or a positive base-256 number."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(48 <= digit < 56 for digit in digits) else None


def _ustar_name(block: bytes) -> str:
    name, prefix = block[:100].partition(b"\0")[0], b""
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
    return _text(prefix + b"/" + name if prefix else name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _pax(content: bytes, subject: str) -> dict[str, str]:
    """Return the records (length, blank, key=value, line feed) of a POSIX extension header."""
    found, place = {}, 0
    while place < len(content):
        length, blank, _ = content[place : place + 12].partition(b" ")
        end = place + int(length) if blank and length.isdigit() else 0
        record = content[place + len(length) + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        is_whole = place < end <= len(content) and content[end - 1 : end] == b"\n"
        if not is_whole or not equals or key.startswith(b"GNU.sparse"):
            raise FormatError(subject, "has an extension header that is malformed or not for image archives")
        found[_text(key)] = _text(value)
        place = end
    return found
