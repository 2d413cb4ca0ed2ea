"""moto's S3 corrected for large objects: parts are joined and ranges are read in files, never in memory.

moto builds the whole object for each ranged GET, which a bundle of gigabytes does not survive; it also takes wrong
checksums.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zlib
from collections.abc import Iterator
from typing import Any

from moto.core.common_types import TYPE_RESPONSE
from moto.s3 import responses
from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML, S3ClientError
from moto.s3.models import FakeKey, FakeMultipart
from moto.s3.responses import S3Response

from bundler.lab.moto_patch import put_in_place

_CHUNK_BYTES = 1 << 20
_MIN_PART_BYTES = 5 << 20
_WRITING = threading.Lock()


class StoredBytes:
    """The content of an object or part, read from its file only where it is asked for."""

    def __init__(self, key: Any) -> None:
        self._file = key._value_buffer
        self._lock = key.lock
        self._size = int(key.contentsize)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        first, last, _ = part.indices(len(self))
        with self._lock:
            self._file.seek(first)
            return bytes(self._file.read(max(0, last - first)))

    def __iter__(self) -> Iterator[bytes]:
        for first in range(0, len(self), _CHUNK_BYTES):
            yield self[first : first + _CHUNK_BYTES]


class JoinedParts:
    """The parts of a finished multipart upload, one after the other; their files are taken, for moto closes parts."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = [StoredBytes(part) for part in parts]
        for part in parts:
            part._value_buffer = io.BytesIO()

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield from part


def correct_s3() -> None:
    """Put the corrected responses and the corrected multipart upload in moto's place."""
    put_in_place(FakeKey, "value", property(_get_value, _set_value))
    put_in_place(FakeMultipart, "complete", _complete)
    put_in_place(responses, "S3Response", LabS3Response)  # moto loads its S3 paths anew each time it needs them


def _get_value(self: Any) -> bytes:
    return StoredBytes(self)[:]


def _set_value(self: Any, value: bytes | JoinedParts) -> None:
    self._value_buffer.seek(0)
    self._value_buffer.truncate()
    for chunk in value if isinstance(value, JoinedParts) else [value]:
        self._value_buffer.write(chunk)
    self.contentsize = len(value)


def _complete(self: FakeMultipart, body: Iterator[tuple[int, str]]) -> tuple[Any, str, tuple[str, str, int] | None]:
    """Return content, ETag and checksum of the finished object.

    S3 API Reference, CompleteMultipartUpload: InvalidPart, EntityTooSmall; the ETag is the MD5 of the MD5s.
    """
    parts: list[FakeKey] = []
    md5s = b""
    for number, etag in body:
        part = self.parts.get(number)
        if part is None or part.etag.strip('"') != etag.strip('"'):
            raise InvalidPart
        if parts and parts[-1].contentsize < _MIN_PART_BYTES:
            raise EntityTooSmall
        parts.append(part)
        md5s += bytes.fromhex(part.etag.strip('"'))
    if not parts:
        raise MalformedXML
    etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"
    joined = JoinedParts(parts)
    return joined, etag, _checksum(joined, self.metadata)


def _checksum(joined: JoinedParts, metadata: Any) -> tuple[str, str, int] | None:
    """Return type, value and number of parts of the object's checksum; None when none was asked for."""
    algorithm = metadata.get("x-amz-checksum-algorithm")
    if algorithm not in ("SHA256", "CRC32"):
        return None
    if algorithm == "CRC32" and metadata.get("x-amz-checksum-type") == "FULL_OBJECT":
        return "FULL_OBJECT", base64.b64encode(_crc32(joined)).decode(), 1
    digests = [_sha256(part) if algorithm == "SHA256" else _crc32(part) for part in joined.parts]
    whole = _sha256([b"".join(digests)]) if algorithm == "SHA256" else _crc32([b"".join(digests)])
    return "COMPOSITE", base64.b64encode(whole).decode(), len(digests)


def _sha256(chunks: Any) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _crc32(chunks: Any) -> bytes:
    value = 0
    for chunk in chunks:
        value = zlib.crc32(chunk, value)
    return value.to_bytes(4, "big")


class LabS3Response(S3Response):
    """Reading without copying."""

    def get_object(self) -> TYPE_RESPONSE:
        """One object, its content read when it is sent."""
        key, not_modified = self._get_key()
        headers: dict[str, Any] = {**self._get_cors_headers_other(), **key.response_dict}
        if key.version_id != "null":
            headers["x-amz-version-id"] = key.version_id
        if not_modified:
            kept = {name: value for name, value in headers.items() if not name.startswith("content-")}
            return 304, kept, "Not Modified"
        if self.headers.get("x-amz-checksum-mode") == "ENABLED" and key.checksum_value is not None:
            headers.update(_checksum_headers(key))
        headers.update(key.metadata)
        headers["Accept-Ranges"] = "bytes"
        content: Any = StoredBytes(key)
        return 200, headers, content

    def upload_part(self) -> TYPE_RESPONSE:
        """A part whose checksum header is true."""
        self._check_body()
        return super().upload_part()

    def put_object(self) -> TYPE_RESPONSE:
        """An object whose checksum header is true; If-Match and the write are one step."""
        self._check_body()
        with _WRITING:
            return super().put_object()

    def _check_body(self) -> None:
        stated = self.headers.get("x-amz-checksum-sha256")
        if stated is not None and base64.b64encode(_sha256([self.body])).decode() != stated:
            message = "The SHA256 you specified did not match the calculated checksum."
            raise S3ClientError("BadDigest", message)


def _checksum_headers(key: Any) -> dict[str, str]:
    composite = key.checksum_type == "COMPOSITE"
    value = f"{key.checksum_value}-{key.checksum_parts}" if composite else key.checksum_value
    headers = {f"x-amz-checksum-{key.checksum_algorithm.lower()}": value}
    return {**headers, "x-amz-checksum-type": key.checksum_type} if key.checksum_type else headers
