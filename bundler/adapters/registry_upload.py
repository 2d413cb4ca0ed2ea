"""One blob on its way into a registry: mounted, or sent in one PUT; large ones go on in chunks after a cut.

Every byte is hashed as it leaves, and the last piece only leaves when the digest is right, so that no registry
ever completes an upload of damaged content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from bundler.adapters.content import Checked
from bundler.adapters.http import Answer
from bundler.adapters.kept_uploads import KeptUploads
from bundler.adapters.network import FIRST_BYTE_TIMEOUT_S
from bundler.adapters.registry_session import Call, Session, fault_codes, pull_scope, push_scope, refusal
from bundler.domain.digest import Digest
from bundler.domain.oci import Descriptor
from bundler.domain.url import Url
from bundler.errors import BundleError, DigestError, FormatError, MissingRepositoryError, TransientError
from bundler.ports import Reopen

SLOWEST_REGISTRY_BYTES_PER_S = 20_000_000
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """How blobs are sent.

    Attributes:
        chunk_bytes: size of a chunk, where chunks are used.
        resume_bytes: an upload of more than this goes on in chunks after a cut; a smaller one begins again.
        at_once_bytes: up to here a body leaves in one piece: a registry has all of it or nothing.
        kept: where uploads of more than `resume_bytes` are found again by the next process.
    """

    chunk_bytes: int = 16 << 20
    resume_bytes: int = 64 << 20
    at_once_bytes: int = 64 << 10
    kept: KeptUploads | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadTask:
    """What goes where: `repository` and `mount_from` are names at the endpoint."""

    repository: str
    blob: Descriptor
    content: Reopen
    mount_from: str | None = None


class Upload:
    """Brings one blob into one repository, over as many attempts as it takes.

    Attributes:
        furthest: the most bytes that the registry ever confirmed; grows with progress.
    """

    def __init__(self, session: Session, task: UploadTask, *, settings: UploadSettings, subject: str) -> None:
        self.furthest = 0
        self._session = session
        self._task = task
        self._blob = task.blob
        self._settings = settings
        self._subject = subject
        self._mount_from = task.mount_from
        self._is_worth_asking = task.mount_from is not None and task.blob.size > settings.at_once_bytes
        self._in_chunks = False
        self._location: Url | None = None
        self._confirmed = 0
        self._hashed = Checked(task.blob, subject=subject)
        self._is_untouched = False
        self._was_cut = False
        self._was_damaged = False
        self._repeats = False
        self._name = f"{session.endpoint.origin}/{task.repository}@{task.blob.digest}"
        self._kept = settings.kept if task.blob.size > settings.resume_bytes else None
        self._is_recalled = self._kept is None

    def attempt(self) -> bool:
        """Try once; return whether a mount, or that it was there, saved the bytes. Call again after a TransientError.

        Where a mount was wanted nobody has asked whether the blob is there: that is done before many bytes leave.

        Raises:
            DigestError: the content is not what its digest says; the upload was not completed.
            MissingRepositoryError: there is no such repository.
            TransientError: try again.
        """
        self._recall()
        if self._was_cut and not self._repeats:
            if self._is_there():
                self._go_on_at(None)
                return False
            if self._location is not None:
                self._find_place()
        if self._location is None and self._begin():
            return True
        if self._is_worth_asking:
            is_there = self._is_there()
            self._is_worth_asking = False
            if is_there:
                self._go_on_at(None)
                return True
        self._was_cut = True
        self._send()
        self._go_on_at(None)
        return False

    def _send(self) -> None:
        try:
            if self._in_chunks:
                self._send_chunks()
            self._close(self._confirmed)
        except TransientError:
            raise
        except BundleError:
            if self._is_untouched:  # who has nothing to send, as where only a mount was wanted, does not come back
                self._go_on_at(None)
            raise

    def _recall(self) -> None:
        """Take up, once, what an earlier process began; a place that is not this registry's own is ignored."""
        if self._is_recalled or self._kept is None:
            return
        self._is_recalled = True
        text = self._kept.recall(self._name)
        try:
            location = None if text is None else Url.parse(text)
        except FormatError:
            return
        if location is not None and location.origin == self._session.endpoint.origin:
            self._location, self._was_cut = location, True

    def _go_on_at(self, location: Url | None) -> None:
        """Remember where the upload is, None for nowhere; of a large one the next process knows it too."""
        if self._kept is not None and location is not None and location != self._location:
            self._kept.keep(self._name, str(location))
        if self._kept is not None and location is None and self._location is not None:
            self._kept.forget(self._name)
        self._location = location

    def _begin(self) -> bool:
        """Open an upload, or mount; a refused mount is an open upload. Return whether it was mounted."""
        query = ""
        scope = push_scope(self._task.repository)
        if self._mount_from is not None:
            query = f"?mount={_quoted(self._blob.digest)}&from={quote(self._mount_from, safe='')}"
            scope = f"{scope} {pull_scope(self._mount_from)}"
        target = f"/v2/{self._task.repository}/blobs/uploads/{query}"
        call = Call(target=target, scope=scope, subject=self._subject, method="POST", body=b"")
        with self._session.call(call) as answer:
            if answer.status == 201 and self._mount_from is not None:
                return True
            if answer.status == 202:
                self._go_on_at(self._session.location(answer, call))
                self._confirmed = 0
                self._is_untouched = True
                self._hashed = Checked(self._blob, subject=self._subject)
                return False
            if answer.status == 404:
                raise self._no_repository()
            if self._mount_from is None or answer.status in (401, 403):
                raise refusal(answer, call, origin=self._session.endpoint.origin)
        self._mount_from = None
        return self._begin()

    def _no_repository(self) -> MissingRepositoryError:
        host = self._session.endpoint.host
        return MissingRepositoryError(
            f"{host}/{self._task.repository}",
            "the repository does not exist, and this registry makes none on push",
            hint="Create the repository, or let the site create it; then run the same command again.",
        )

    def _is_there(self) -> bool:
        """Whether an attempt whose answer was lost has succeeded after all."""
        target = f"/v2/{self._task.repository}/blobs/{self._blob.digest}"
        call = Call(target=target, scope=push_scope(self._task.repository), subject=self._subject, method="HEAD")
        with self._session.call(call) as answer:
            return answer.status == 200

    def _find_place(self) -> None:
        """Ask how much of a cut upload has arrived; forget the upload when that is not clear or not worth it."""
        if self._blob.size <= self._settings.resume_bytes and not self._in_chunks:
            self._go_on_at(None)
            return
        scope = push_scope(self._task.repository)
        call = Call(target=self._open_location(), scope=scope, subject=self._subject)
        with self._session.call(call) as answer:
            last = _last(answer) if answer.status in (200, 202, 204) else None
            arrived = last + 1 if last else 0  # an empty upload is counted as 0-0 too; one byte is soon sent again
            if last is None or not self._confirmed <= arrived <= self._blob.size:
                self._go_on_at(None)
                return
            if answer.header("Location") is not None:
                self._go_on_at(self._session.location(answer, call))
        self._in_chunks = True
        self._confirm(arrived)

    def _confirm(self, arrived: int) -> None:
        self._confirmed = arrived
        self.furthest = max(self.furthest, arrived)

    def _send_chunks(self) -> None:
        while self._confirmed < self._blob.size:
            start = self._confirmed
            stop = min(start + self._settings.chunk_bytes, self._blob.size)
            call = self._sending("PATCH", start, stop)
            with self._session.call(call) as answer:
                if answer.status != 202:
                    raise self._failure(answer, call)
                self._go_on_at(self._session.location(answer, call))
                if answer.header("Range") is not None and _last(answer) != stop - 1:
                    raise self._anew(f"counts {answer.header('Range')!r:.60} where bytes 0-{stop - 1} were sent")
            self._confirm(stop)

    def _close(self, start: int) -> None:
        """Send everything from `start` on and ask for completion."""
        call = self._sending("PUT", start, self._blob.size)
        with self._completing(call) as answer:
            if answer.status != 201:
                raise self._failure(answer, call)
            stated = answer.header("Docker-Content-Digest")
            if stated is not None and Digest.parse(stated) != self._blob.digest:
                raise DigestError(
                    self._subject, f"{answer.url.origin} stored {stated} where {self._blob.digest} was sent"
                )

    def _completing(self, call: Call) -> Answer:
        """Send it, and decide what a failure means: where the upload can only be as it was, the same is sent again.

        Another upload would cost two requests, and a wrong guess costs one: the registry knows no such upload then.
        """
        try:
            return self._session.call(call)
        except TransientError as error:
            most = self._settings.resume_bytes if error.answered else self._settings.at_once_bytes
            self._repeats = not self._in_chunks and self._blob.size <= most
            raise

    def _sending(self, method: str, start: int, stop: int) -> Call:
        headers = {"Content-Type": "application/octet-stream"}
        target = self._open_location()
        if method == "PATCH":
            headers["Content-Range"] = f"{start}-{stop - 1}"
        else:
            joint = "&" if "?" in target.target else "?"
            target = Url(target.origin, f"{target.target}{joint}digest={_quoted(self._blob.digest)}")
        return Call(
            target=target,
            scope=push_scope(self._task.repository),
            subject=self._subject,
            method=method,
            headers=headers,
            body=lambda: self._outgoing(start, stop),
            body_bytes=stop - start,
            # a registry hashes or copies the whole blob before it answers
            answer_within_s=FIRST_BYTE_TIMEOUT_S + self._blob.size // SLOWEST_REGISTRY_BYTES_PER_S,
        )

    def _outgoing(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield bytes `start` to `stop` of the blob; its very last piece only when the whole has the right digest."""
        hashed = self._hashed_until(start)
        if not hashed.left:
            hashed.finish()
            return
        for piece in self._task.content(start):
            wanted = piece[: stop - hashed.count]
            hashed.add(wanted)
            if not hashed.left:
                hashed.finish()
            self._is_untouched = False
            yield wanted
            if hashed.count == stop:
                self._hashed = hashed
                return
        hashed.finish()

    def _hashed_until(self, start: int) -> Checked:
        """Return the hash of everything before `start`: kept from the chunk before, or read again."""
        hashed = self._hashed.copy() if self._hashed.count <= start else Checked(self._blob, subject=self._subject)
        if hashed.count == start:
            return hashed
        for piece in self._task.content(hashed.count):
            hashed.add(piece[: start - hashed.count])
            if hashed.count == start:
                break
        return hashed

    def _open_location(self) -> Url:
        if self._location is None:
            raise self._anew("lost the upload")
        return self._location

    def _failure(self, answer: Answer, call: Call) -> BundleError:
        """Return the error for a refused chunk or completion, after deciding how the next attempt begins."""
        codes = fault_codes(answer)
        if "DIGEST_INVALID" in codes:
            if self._repeats:  # a part of what was sent before has arrived after all
                return self._anew("counts what was sent before")
            if self._was_damaged:
                return DigestError(self._subject, f"{answer.url.origin} received other content than was sent, twice")
            self._was_damaged = True
            return self._anew("received other content than was sent")
        if answer.status == 413 and not self._in_chunks:
            self._in_chunks = True
            return self._anew("takes no body of this size; it goes on in chunks")
        if answer.status in (404, 416) or codes & {"BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN"}:
            return self._anew(f"does not know the upload any more ({answer.status})")
        return refusal(answer, call, origin=answer.url.origin)

    def _anew(self, cause: str) -> TransientError:
        """Forget the open upload; the next attempt begins another one."""
        self._go_on_at(None)
        self._repeats = False
        return TransientError(self._subject, f"{self._session.endpoint.origin} {cause}")


def _quoted(digest: Digest) -> str:
    """A digest as a query has it."""
    return f"sha256%3A{digest.hex}"


def _last(answer: Answer) -> int | None:
    """Return the number of the last byte that a registry says it has of an upload, None where that makes no sense."""
    match = _RANGE.match(answer.header("Range") or "")
    return None if match is None else int(match[1])
