"""Files into S3, part by part, so that a second try sends only what the first did not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

from bundler.adapters.aws.clients import Answer, Service
from bundler.adapters.aws.direct import Plain
from bundler.adapters.aws.patience import later
from bundler.domain.shipment import Part, S3Address, StoredObject, StoredPart, Upload
from bundler.errors import ConflictError, RejectedError, TransientError, UsageError
from bundler.retry import RetryPolicy, retry
from bundler.transfer import pause

CHUNK_BYTES = 1 << 20
_DAMAGED = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody"})
_ABSENT = frozenset({"404", "NoSuchKey"})
_THROWN_AWAY = "NoSuchUpload"
_RACED = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})


class S3Store:
    """The S3 API as far as shipping needs it."""

    def __init__(self, service: Service, *, policy: RetryPolicy | None = None) -> None:
        self._service = service
        self._policy = policy or RetryPolicy(sleep=pause)
        self._moved = _Moved()

    def find(self, address: S3Address) -> StoredObject | None:
        """Return what stands at the address, None where nothing does.

        Raises:
            AccessError: also where s3:ListBucket is missing and the object too: S3 does not tell them apart.
        """
        try:
            return self._service.ask(
                "HeadObject",
                _stored_object,
                about=str(address),
                Bucket=address.bucket,
                Key=address.key,
                ChecksumMode="ENABLED",
            )
        except RejectedError as error:
            if error.code in _ABSENT:
                return None
            raise

    def uploads(self, address: S3Address) -> list[str]:
        """Return the ids of the unfinished uploads for exactly this key, the newest first.

        Raises:
            UsageError: there is no such bucket.
        """
        try:
            found = self._service.list(
                "ListMultipartUploads",
                "Uploads",
                _upload,
                about=str(address),
                Bucket=address.bucket,
                Prefix=address.key,
            )
        except RejectedError as error:
            if error.code == "NoSuchBucket":
                hint = "Correct its name, or create it; then run the same command again."
                raise UsageError(f"s3://{address.bucket}", "there is no such bucket", hint=hint) from error
            raise
        ours = [upload for upload in found if upload[0] == address.key and upload[2] in (None, "SHA256")]
        return [upload_id for _, _, _, upload_id in sorted(ours, key=lambda upload: upload[1], reverse=True)]

    def upload(self, address: S3Address, upload_id: str) -> Upload | None:
        """Return what an unfinished upload holds, None where it is not there any more."""
        try:
            parts = self._service.list(
                "ListParts",
                "Parts",
                _stored_part,
                about=str(address),
                Bucket=address.bucket,
                Key=address.key,
                UploadId=upload_id,
            )
        except RejectedError as error:
            if error.code == _THROWN_AWAY:
                return None
            raise
        return Upload(id=upload_id, parts=tuple(parts))

    def begin(self, address: S3Address) -> Upload:
        """Begin an upload whose parts carry SHA-256."""
        upload_id = self._service.ask(
            "CreateMultipartUpload",
            lambda answer: str(answer["UploadId"]),
            about=str(address),
            Bucket=address.bucket,
            Key=address.key,
            ChecksumAlgorithm="SHA256",
            ContentType="application/octet-stream",
        )
        return Upload(id=upload_id)

    def send(self, address: S3Address, upload: Upload, part: Part, content: Callable[[], BinaryIO]) -> StoredPart:
        """Send one part; S3 refuses it where the bytes are not what the part's digest names.

        Args:
            address: where the object will be.
            upload: the upload that the part belongs to.
            part: which one.
            content: gives the part's bytes from their start, for each try anew.

        Raises:
            ConflictError: somebody threw the upload away.
            TransientError: it arrives damaged however often it is sent, or S3 has no time.
        """
        about = f"{address} part {part.number}"

        def once() -> StoredPart:
            with later():
                stored = self._send(address, upload, part, content)
            self._moved.count += 1
            return stored

        return retry(once, subject=about, policy=self._policy, progress=lambda: self._moved.count)

    def _send(self, address: S3Address, upload: Upload, part: Part, content: Callable[[], BinaryIO]) -> StoredPart:
        about = f"{address} part {part.number}"

        def call() -> Answer:
            return self._service.call(
                "UploadPart",
                about=about,
                Bucket=address.bucket,
                Key=address.key,
                UploadId=upload.id,
                PartNumber=part.number,
                ContentLength=part.size,
                ChecksumSHA256=part.checksum,
                Body=content(),
            )

        plain = Plain(
            operation="UploadPart",
            method="PUT",
            target=f"/{quoted_key(address.key)}?partNumber={part.number}&uploadId={quote(upload.id, safe='-._~')}",
            headers={
                "Content-Length": str(part.size),
                "x-amz-checksum-sha256": part.checksum,
                "x-amz-sdk-checksum-algorithm": "SHA256",
            },
            body=_pieces(content()),
            place={"Bucket": address.bucket},
        )
        try:
            etag = str(self._service.call_plainly(plain, _etag, call)["ETag"])
        except RejectedError as error:
            if error.code in _DAMAGED:
                raise TransientError(about, f"arrived damaged: {error.cause}") from error
            if error.code == _THROWN_AWAY:
                hint = "See who else ships to this address, then run the same command again."
                raise ConflictError(about, "somebody threw the unfinished upload away", hint=hint) from error
            raise
        return StoredPart(number=part.number, size=part.size, etag=_bare(etag), checksum=part.checksum)

    def complete(
        self, address: S3Address, upload: Upload, parts: Sequence[StoredPart], *, replaces: StoredObject | None
    ) -> None:
        """Make the object of its parts, provided that nothing but `replaces` stands there.

        Raises:
            ConflictError: somebody else wrote the object meanwhile.
        """
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": f'"{replaces.etag}"'}
        try:
            self._service.call(
                "CompleteMultipartUpload",
                about=str(address),
                Bucket=address.bucket,
                Key=address.key,
                UploadId=upload.id,
                MultipartUpload={"Parts": [_completed(part) for part in parts]},
                **condition,
            )
        except RejectedError as error:
            if error.code in _RACED:
                hint = "See who else ships to this address, then run the same command again."
                raise ConflictError(str(address), "somebody else wrote it meanwhile", hint=hint) from error
            if error.code != _THROWN_AWAY:  # a try whose answer was lost may have completed it: the next look tells
                raise

    def abort(self, address: S3Address, upload_id: str) -> None:
        """Throw an unfinished upload away."""
        self._service.call(
            "AbortMultipartUpload", about=str(address), Bucket=address.bucket, Key=address.key, UploadId=upload_id
        )


@dataclass(slots=True)
class _Moved:
    """How many parts went through, of all threads: a sign that something moves."""

    count: int = 0


def quoted_key(key: str) -> str:
    """Return a key quoted as botocore does it, and as it is signed."""
    return quote(key, safe="/-._~")


def _pieces(content: BinaryIO) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while count := content.readinto(buffer):  # type: ignore[attr-defined]
        yield buffer[:count]


def _etag(headers: Mapping[str, str], _: Any) -> Answer:
    return {"ETag": headers["ETag"]}


def _bare(etag: str) -> str:
    return etag.strip('"')


def _stored_object(answer: Answer) -> StoredObject:
    return StoredObject(
        size=int(answer["ContentLength"]), etag=_bare(answer["ETag"]), checksum=answer.get("ChecksumSHA256")
    )


def _upload(item: Answer) -> tuple[str, dt.datetime, str | None, str]:
    return item["Key"], item["Initiated"], item.get("ChecksumAlgorithm"), item["UploadId"]


def _stored_part(item: Answer) -> StoredPart:
    return StoredPart(
        number=int(item["PartNumber"]),
        size=int(item["Size"]),
        etag=_bare(item["ETag"]),
        checksum=item.get("ChecksumSHA256"),
    )


def _completed(part: StoredPart) -> dict[str, object]:
    fields: dict[str, object] = {"PartNumber": part.number, "ETag": f'"{part.etag}"'}
    return fields if part.checksum is None else {**fields, "ChecksumSHA256": part.checksum}
