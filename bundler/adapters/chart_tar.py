"""The .tgz of a chart: read without believing it, written so that equal files give equal bytes everywhere.

Reading is strict where Helm's own loader is lenient, so that what we see is all that Helm can see. Writing stores
instead of compressing: deflate's output depends on the version of zlib.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bundler.errors import FormatError, LimitError

MAX_PACKED_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 100 << 20
"""Helm's own limit (CVE-2025-32386)."""
MAX_FILE_BYTES = 5 << 20
"""Helm's own limit for one file."""
MAX_FILES = 20_000
_MAX_NAME_BYTES = 4096
_MAX_EXTENDED_BYTES = 64 << 10
_BLOCK = 512
_STORED_BYTES = 0xFFFF
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no time, no name, system unknown


def pack(top: str, files: Mapping[str, bytes]) -> bytes:
    """Return the .tgz of `files` below the folder `top`: ustar, sorted, no times, in stored gzip blocks."""
    return _gzip_stored(b"".join(_tar(top, files)))


def unpack(packed: bytes, *, subject: str, max_bytes: int = MAX_UNPACKED_BYTES) -> tuple[str, dict[str, bytes]]:
    """Return the one top folder of a .tgz, and its regular files by their path below it.

    Raises:
        LimitError: larger than Helm takes.
        FormatError: links, devices, names that leave the folder or stand twice, anything that is not clean tar.
    """
    if len(packed) > MAX_PACKED_BYTES:
        raise LimitError(subject, f"is larger than {MAX_PACKED_BYTES} bytes")
    files: dict[str, bytes] = {}
    tops: set[str] = set()
    for name, content in _Members(_gunzip(packed, subject, max_bytes), subject):
        top, _, rest = name.partition("/")
        if not rest:
            raise FormatError(subject, f"holds the file {name!r:.200} outside of a chart's folder")
        if rest in files:
            raise FormatError(subject, f"holds {name!r:.200} twice")
        files[rest] = content
        tops.add(top)
        if len(files) > MAX_FILES:
            raise LimitError(subject, f"holds more than {MAX_FILES} files")
    if len(tops) != 1:
        raise FormatError(subject, f"has {len(tops)} top folders; a chart has one")
    return tops.pop(), files


def _gunzip(packed: bytes, subject: str, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        content = inflater.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise FormatError(subject, f"is not gzip ({error})") from error
    if len(content) > max_bytes:
        raise LimitError(subject, f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise FormatError(subject, "is cut, or goes on after its end")
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    name: str
    size: int
    kind: bytes


class _Members:
    """Yields name and content of each regular file of a tar."""

    def __init__(self, tar: bytes, subject: str) -> None:
        self._tar = tar
        self._subject = subject
        self._at = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        given_name: str | None = None
        while (header := self._header()) is not None:
            content = self._content(header)
            if header.kind == b"x":
                given_name = self._extended_name(content) or given_name
            elif header.kind == b"L":
                given_name = self._text(content.rstrip(b"\0"))
            elif header.kind == b"g":
                self._extended_name(content)
            else:
                name, given_name = given_name or header.name, None
                if header.kind != b"5":
                    yield self._clean(name), content

    def _header(self) -> _Header | None:
        block = self._tar[self._at : self._at + _BLOCK]
        if len(block) < _BLOCK:
            raise self._error("ends without its end mark")
        if not any(block):
            if any(self._tar[self._at :]):
                raise self._error("goes on after its end mark")
            return None
        self._at += _BLOCK
        if self._octal(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 32:
            raise self._error("has a header with a wrong checksum")
        return self._parsed(block)

    def _parsed(self, block: bytes) -> _Header:
        kind = block[156:157]
        if kind not in (b"0", b"\0", b"5", b"x", b"g", b"L"):
            raise self._error(f"holds an entry of type {kind!r}: only files and folders are allowed, no links")
        name = self._text(block[:100].split(b"\0")[0])
        if block[257:263] == b"ustar\0" and block[345]:
            name = f"{self._text(block[345:500].split(bytes(1))[0])}/{name}"
        return _Header(name=name, size=self._octal(block[124:136]), kind=kind)

    def _content(self, header: _Header) -> bytes:
        limit = MAX_FILE_BYTES if header.kind in (b"0", b"\0") else _MAX_EXTENDED_BYTES
        if header.size > limit:
            raise LimitError(
                self._subject, f"{header.name!r:.200} has {header.size} bytes; at most {limit} are allowed"
            )
        content = self._tar[self._at : self._at + header.size]
        if len(content) < header.size:
            raise self._error(f"ends inside {header.name!r:.200}")
        self._at += -(-header.size // _BLOCK) * _BLOCK
        return content

    def _extended_name(self, content: bytes) -> str | None:
        """The path in a pax header (POSIX.1-2001); a size or a link there is refused, all else does not matter."""
        name: str | None = None
        while content:
            length, _, _ = content.partition(b" ")
            if not length.isdigit() or len(length) > 6 or not 5 <= int(length) <= len(content):
                raise self._error("has an extended header that is none")
            record, content = content[len(length) + 1 : int(length)], content[int(length) :]
            key, _, value = record.partition(b"=")
            if key in (b"size", b"linkpath") or key.startswith(b"GNU.sparse"):
                raise self._error(f"has an extended header with {key.decode('ascii')}")
            if key == b"path":
                name = self._text(value.removesuffix(b"\n"))
        return name

    def _octal(self, field: bytes) -> int:
        digits = field.strip(b" \0")
        if not digits or digits.strip(b"01234567"):
            raise self._error("has a header with a number that is none")
        return int(digits, 8)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("has a file name that is not UTF-8") from None

    def _clean(self, name: str) -> str:
        parts = name.split("/")
        if len(name) > _MAX_NAME_BYTES or not name.isprintable() or "\\" in name or {"", ".", ".."} & set(parts):
            raise self._error(f"has the file name {name!r:.200}, which is not a plain relative path")
        return name

    def _error(self, cause: str) -> FormatError:
        return FormatError(self._subject, f"as a tar archive {cause}")


def _tar(top: str, files: Mapping[str, bytes]) -> Iterator[bytes]:
    for name in sorted(files):
        yield _ustar_header(f"{top}/{name}", len(files[name]))
        yield files[name]
        yield bytes(-len(files[name]) % _BLOCK)
    yield bytes(2 * _BLOCK)


def _ustar_header(path: str, size: int) -> bytes:
    prefix, name = _split(path)
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        b"%011o\0" % size + b"00000000000\0",
        b" " * 8,
        b"0".ljust(101, b"\0"),
        b"ustar\x0000".ljust(88, b"\0"),
        prefix.ljust(167, b"\0"),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split(path: str) -> tuple[bytes, bytes]:
    """Return prefix (at most 155 bytes) and name (at most 100 bytes) of a path (POSIX ustar)."""
    raw = path.encode("utf-8")
    if len(raw) <= 100:
        return b"", raw
    for at, char in enumerate(raw):
        if char == 0x2F and at <= 155 and 0 < len(raw) - at - 1 <= 100:
            return raw[:at], raw[at + 1 :]
    raise LimitError(path, "is too long a path for a chart; at most about 250 characters fit")


def _gzip_stored(content: bytes) -> bytes:
    parts = [_GZIP_HEADER]
    for at in range(0, max(len(content), 1), _STORED_BYTES):
        piece = content[at : at + _STORED_BYTES]
        is_last = at + _STORED_BYTES >= len(content)
        parts += [struct.pack("<BHH", is_last, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join([*parts, struct.pack("<II", zlib.crc32(content), len(content))])
