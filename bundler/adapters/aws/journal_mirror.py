"""State of a site in S3: small objects, each write conditional on what stands there (a StateStore)."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from email.utils import parsedate_to_datetime

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.shipment import S3Address, move_away
from bundler.errors import ConflictError, RejectedError, StaleStateError
from bundler.ports import StoredState

MAX_STATE_BYTES = 64 << 20
_ABSENT = frozenset({"404", "NoSuchKey"})
_RACED = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict", "404", "NoSuchKey"})


class S3State:
    """The objects below one prefix."""

    def __init__(self, service: Service, prefix: S3Address) -> None:
        self._service = service
        self._prefix = prefix

    def address(self, name: str) -> str:
        """Return what people and their programs call an object: `s3://bucket/key`."""
        return str(self._prefix.below(name))

    def get(self, name: str) -> StoredState | None:
        """Return an object, None where there is none.

        Raises:
            ConflictError: larger than 64 MiB, which no state of ours is.
        """
        place = self._prefix.below(name)
        try:
            answer = self._service.call("GetObject", about=str(place), Bucket=place.bucket, Key=place.key)
        except RejectedError as error:
            if error.code in _ABSENT:
                return None
            raise
        with self._service.reading("GetObject", str(place)), answer["Body"] as raw:
            return _state(answer, raw.read(MAX_STATE_BYTES + 1), str(place))

    def put(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """Write an object in place of version `replaces` (None: of nothing); return its new version.

        Raises:
            StaleStateError: something else stands there.
        """
        place = self._prefix.below(name)
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        try:
            return self._service.ask(
                "PutObject",
                lambda answer: str(answer["ETag"]),
                about=str(place),
                Bucket=place.bucket,
                Key=place.key,
                Body=content,
                ChecksumSHA256=base64.b64encode(hashlib.sha256(content).digest()).decode(),
                **condition,
            )
        except RejectedError as error:
            if error.code in _RACED:
                raise _stale(place) from error
            raise

    def delete(self, name: str, *, version: str) -> None:
        """Remove that version of an object.

        Raises:
            StaleStateError: something else stands there.
        """
        place = self._prefix.below(name)
        there = self.get(name)
        if there is None or there.version != version:
            raise StaleStateError(str(place), "is not the version any more that was to be removed")
        try:
            self._service.call("DeleteObject", about=str(place), Bucket=place.bucket, Key=place.key, IfMatch=version)
        except RejectedError as error:
            if error.code in _RACED:
                raise _stale(place) from error
            raise


def _stale(place: S3Address) -> StaleStateError:
    return StaleStateError(str(place), "was written by somebody else meanwhile")


def _state(answer: Answer, content: bytes, name: str) -> StoredState:
    if len(content) > MAX_STATE_BYTES:
        hint = f"This tool did not write it: look at it, and move it away: {move_away(name)}"
        raise ConflictError(name, f"is larger than {MAX_STATE_BYTES} bytes", hint=hint)
    if len(content) != answer["ContentLength"]:
        raise ValueError("the body is shorter than its Content-Length")
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    written: dt.datetime = answer["LastModified"]
    return StoredState(content=content, version=str(answer["ETag"]), age_s=max(0.0, (now - written).total_seconds()))
