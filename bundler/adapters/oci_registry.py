"""OCI registries (distribution-spec): reading and writing manifests and blobs over the guarded transport."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from bundler.adapters.http import Answer, Transport
from bundler.adapters.registries_config import Registries
from bundler.adapters.registry_auth import CredentialProvider
from bundler.adapters.registry_download import CLEAN_RETRIES, RemoteBlob, Stretch, download
from bundler.adapters.registry_session import (
    Call,
    Session,
    fault_codes,
    pull_scope,
    push_scope,
    refusal,
    said,
)
from bundler.adapters.registry_upload import Upload, UploadSettings, UploadTask
from bundler.domain.digest import Digest
from bundler.domain.oci import (
    ACCEPT,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
    parse_strict_json,
)
from bundler.domain.reference import Reference
from bundler.domain.url import Url
from bundler.errors import (
    BundleError,
    DigestError,
    FormatError,
    ImmutableTagError,
    LimitError,
    MissingBlobError,
    MissingRepositoryError,
    NotFoundUpstreamError,
)
from bundler.pacing import Bearing
from bundler.ports import Put, Reopen, Sink
from bundler.retry import RetryPolicy, retry
from bundler.transfer import Once, pause

MAX_TAG_PAGES = 200
MAX_TAG_PAGE_BYTES = 4 << 20
MISSING_CONTENT = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "LAYERS_NOT_FOUND"})
_NEXT = re.compile(r'<([^<>]{1,4096})>; ?rel="?next"?')
IMMUTABLE = re.compile(r"immutable|already exists|ImageTagAlreadyExists", re.IGNORECASE)

UNMAPPED = Registries()
PATIENT = RetryPolicy(sleep=pause)
ONE_PUT = UploadSettings()

Result = TypeVar("Result")


class RegistryClient:
    """Speaks to any number of registries, each under its own name, credentials and limits."""

    def __init__(
        self,
        transport: Transport,
        *,
        provider: CredentialProvider,
        registries: Registries = UNMAPPED,
        policy: RetryPolicy = PATIENT,
        uploads: UploadSettings = ONE_PUT,
    ) -> None:
        self._transport = transport
        self._provider = provider
        self._registries = registries
        self._policy = policy
        self._uploads = uploads
        self._sessions: dict[str, Session] = {}
        self._opening = Once()

    def manifest(self, reference: Reference) -> Manifest | Index:
        """Return the manifest by digest where the reference has one, else by tag.

        Raises:
            NotFoundUpstreamError: the registry says that it does not exist.
            DigestError: it is not what the digest, or the registry's own header, says.
            FormatError: it is not a manifest or index we know.
        """
        return self._cleanly(lambda: self._with_retry(reference, lambda: self._get_manifest(reference)))

    def manifest_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that the reference has there, None when absent; only a 200 is present."""
        status, digest = self._with_retry(reference, lambda: self._head_manifest(reference))
        if status == 404 or digest is not None:
            return digest
        try:
            return self.manifest(reference).digest
        except NotFoundUpstreamError:
            return None

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        """Send a blob's bytes to `sink` in order: exactly `blob.size` bytes with `blob.digest`.

        A cut body is resumed by Range. `restart` is called when the bytes sent so far must be forgotten.

        Raises:
            DigestError: the registry's content is not what the digest names, three times over.
            NotFoundUpstreamError: the repository has no such blob.
        """
        download(self._remote(name, blob), sink, restart=restart, policy=self._policy)

    def read_range(self, name: Reference, blob: Descriptor, start: int, stop: int, put: Put) -> int:
        """Send bytes `start` to `stop` of a blob to `put`; return where they ended.

        That is the end of the blob where the registry knows no ranges. Nothing is verified but the number of bytes.

        Raises:
            DigestError: the registry has more bytes than the blob.
            NotFoundUpstreamError: the repository has no such blob.
        """
        stretch = Stretch(self._remote(name, blob), start=start, stop=stop, put=put)
        stretch.run(self._policy)
        return stretch.stop

    def _remote(self, name: Reference, blob: Descriptor) -> RemoteBlob:
        session = self._session(name)
        return RemoteBlob(
            session=session,
            repository=session.endpoint.repository(name.repository),
            blob=blob,
            subject=f"{name.name}@{blob.digest}",
        )

    def has_blob(self, name: Reference, digest: Digest) -> bool:
        """Whether the repository holds the blob; only a 200 is present, what is unclear is absent."""
        session = self._session(name)
        repository = session.endpoint.repository(name.repository)
        call = Call(
            target=f"/v2/{repository}/blobs/{digest}",
            scope=pull_scope(repository),
            subject=f"{name.name}@{digest}",
            method="HEAD",
        )

        def ask() -> bool:
            with session.call(call) as answer:
                if answer.status in (401, 403) and answer.url.origin == session.endpoint.origin:
                    raise refusal(answer, call, origin=answer.url.origin)
                return answer.status == 200

        return self._with_retry(name, ask)

    def is_new(self, name: Reference) -> bool:
        """Whether the registry says that the repository has no tag, or does not exist; False where it does not say."""
        session = self._session(name)
        repository = session.endpoint.repository(name.repository)
        call = Call(target=f"/v2/{repository}/tags/list?n=1", scope=pull_scope(repository), subject=name.name)

        def ask() -> bool:
            with session.call(call) as answer:
                if answer.status == 404:
                    return "NAME_UNKNOWN" in fault_codes(answer)
                return answer.status == 200 and _has_no_tag(answer.excerpt())

        return self._with_retry(name, ask)

    def bearing(self, name: Reference) -> Bearing:
        """What the registry bears now, as far as its answers have said."""
        return self._session(name).bearing

    def upload_blob(self, name: Reference, blob: Descriptor, content: Reopen, *, mount_from: str | None = None) -> bool:
        """Give the repository a blob; return True where a mount, or that it was there, saved the bytes.

        Args:
            name: the repository.
            blob: digest and size are checked while the bytes leave.
            content: begins the bytes anew at an offset; may be called several times.
            mount_from: a repository of the same registry that holds the blob; where no mount comes of it, a blob of
                some size is asked for before it is sent.

        Raises:
            DigestError: `content` is not what the digest names; the upload was never completed.
            MissingRepositoryError: the repository does not exist and pushing does not make it.
        """
        session = self._session(name)
        endpoint = session.endpoint
        task = UploadTask(
            repository=endpoint.repository(name.repository),
            blob=blob,
            content=content,
            mount_from=endpoint.repository(mount_from) if mount_from is not None else None,
        )
        subject = f"{name.name}@{blob.digest}"
        upload = Upload(session, task, settings=self._uploads, subject=subject)
        return retry(upload.attempt, subject=subject, policy=self._policy, progress=lambda: upload.furthest)

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Store a manifest under the reference's tag, or its digest where it has no tag; return the digest it got.

        Raises:
            ImmutableTagError: the tag may not be overwritten and names another digest.
            MissingBlobError: the registry lacks something that the manifest names.
            MissingRepositoryError: there is no such repository.
            DigestError: the registry stored something else.
        """
        digest = Digest.of(raw)
        if reference.digest not in (None, digest):
            raise DigestError(str(reference), f"is given the content {digest}")
        self._with_retry(reference, lambda: self._put_manifest(reference, raw, media_type))
        return digest

    def tags(self, name: Reference) -> tuple[str, ...]:
        """Return the repository's tags.

        Raises:
            NotFoundUpstreamError: no such repository.
            LimitError: there is no end of pages.
        """
        session = self._session(name)
        repository = session.endpoint.repository(name.repository)
        found: list[str] = []
        call = Call(target=f"/v2/{repository}/tags/list?n=1000", scope=pull_scope(repository), subject=name.name)
        for _ in range(MAX_TAG_PAGES):
            page, following = self._with_retry(name, partial(_tag_page, session, call))
            found += page
            if following is None:
                return tuple(found)
            call = replace(call, target=following)
        raise LimitError(name.name, f"lists its tags on more than {MAX_TAG_PAGES} pages")

    def _session(self, name: Reference) -> Session:
        with self._opening:
            if name.registry not in self._sessions:
                endpoint = self._registries.endpoint(name.registry)
                self._sessions[name.registry] = Session(endpoint, transport=self._transport, provider=self._provider)
            return self._sessions[name.registry]

    def _with_retry(self, reference: Reference, action: Callable[[], Result]) -> Result:
        return retry(action, subject=str(reference), policy=self._policy)

    def _cleanly(self, action: Callable[[], Result], left: int = CLEAN_RETRIES) -> Result:
        """Ask again, twice, when content is not what its digest says: the way here may have damaged it."""
        try:
            return action()
        except DigestError:
            if not left:
                raise
        return self._cleanly(action, left - 1)

    def _manifest_call(self, reference: Reference, place: Digest | str | None, *, method: str = "GET") -> Call:
        repository = self._session(reference).endpoint.repository(reference.repository)
        return Call(
            target=f"/v2/{repository}/manifests/{place}",
            scope=push_scope(repository) if method == "PUT" else pull_scope(repository),
            subject=str(reference),
            method=method,
            headers={"Accept": ACCEPT},
        )

    def _get_manifest(self, reference: Reference) -> Manifest | Index:
        call = self._manifest_call(reference, reference.digest or reference.tag)
        with self._session(reference).call(call) as answer:
            if answer.status == 404:
                raise _absent(reference, answer)
            if answer.status != 200:
                raise refusal(answer, call, origin=answer.url.origin)
            raw = answer.read(MAX_MANIFEST_BYTES)
        digest, stated = Digest.of(raw), _stated_digest(answer, reference)
        expected = reference.digest or stated or digest
        if not digest == expected == (stated or expected):
            cause = f"{answer.url.origin} sent {digest}, states {stated}, and {expected} was asked for"
            raise DigestError(str(reference), cause)
        kind = answer.header("Content-Type")
        media_type = kind.partition(";")[0].strip() if kind is not None else None
        return parse_manifest(raw, subject=str(reference), media_type=media_type)

    def _head_manifest(self, reference: Reference) -> tuple[int, Digest | None]:
        call = self._manifest_call(reference, reference.digest or reference.tag, method="HEAD")
        with self._session(reference).call(call) as answer:
            if answer.status not in (200, 404, 405):
                raise refusal(answer, call, origin=answer.url.origin)
            return answer.status, _stated_digest(answer, reference) if answer.status == 200 else None

    def _put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> None:
        digest = Digest.of(raw)
        call = replace(
            self._manifest_call(reference, reference.tag or digest, method="PUT"),
            headers={"Content-Type": media_type},
            body=raw,
            body_bytes=len(raw),
        )
        with self._session(reference).call(call) as answer:
            refused = None if answer.status == 201 else self._refused_manifest(reference, answer, call)
            is_taken = answer.status in (400, 409) and bool(IMMUTABLE.search(answer.text))
        if refused is not None:
            self._settle(reference, digest, refused, is_taken=is_taken)
            return
        stored = _stated_digest(answer, reference) or self.manifest_digest(reference.pinned(digest))
        if stored != digest:
            raise DigestError(str(reference), f"{answer.url.origin} stored {stored} where {digest} was sent")

    def _settle(self, reference: Reference, digest: Digest, refused: BundleError, *, is_taken: bool) -> None:
        """Return when a refused manifest is there already; raise what the refusal means otherwise.

        To be called when its answer is closed: another request waits for a place at the same host.
        """
        if is_taken and reference.tag is not None:
            held = self.manifest_digest(replace(reference, digest=None))
            if held == digest:
                return
            raise ImmutableTagError(reference.tagged, f"the tag is immutable and names {held}, not {digest}")
        raise refused

    def _refused_manifest(self, reference: Reference, answer: Answer, call: Call) -> BundleError:
        codes = fault_codes(answer)
        if answer.status == 404 and "NAME_UNKNOWN" in codes:
            return MissingRepositoryError(reference.name, "the repository does not exist")
        if codes & MISSING_CONTENT or "LayersNotFound" in answer.text:
            return MissingBlobError(str(reference), f"{answer.url.origin} lacks what it names: {said(answer)}")
        if "DIGEST_INVALID" in codes:
            return DigestError(str(reference), f"{answer.url.origin} received other content than was sent")
        return refusal(answer, call, origin=answer.url.origin)


def _stated_digest(answer: Answer, reference: Reference) -> Digest | None:
    stated = answer.header("Docker-Content-Digest")
    if stated is None:
        return None
    try:
        return Digest.parse(stated)
    except FormatError as error:
        raise FormatError(str(reference), f"{answer.url.origin} states {error.subject}, which {error.cause}") from error


def _absent(reference: Reference, answer: Answer) -> NotFoundUpstreamError:
    what = (
        "the repository" if "NAME_UNKNOWN" in fault_codes(answer) else "the tag" if reference.digest is None else "it"
    )
    return NotFoundUpstreamError(str(reference), f"{answer.url.origin} says that {what} does not exist")


def _has_no_tag(body: bytes) -> bool:
    try:
        document = parse_strict_json(body, subject="")
    except FormatError:
        return False
    return isinstance(document, dict) and "tags" in document and document["tags"] in (None, [])


def _tag_page(session: Session, call: Call) -> tuple[list[str], Url | None]:
    """Return the tags of one page, and where the next one is."""
    with session.call(call) as answer:
        if answer.status == 404:
            raise NotFoundUpstreamError(call.subject, f"{answer.url.origin} says that the repository does not exist")
        if answer.status != 200:
            raise refusal(answer, call, origin=answer.url.origin)
        document = parse_strict_json(answer.read(MAX_TAG_PAGE_BYTES), subject=call.subject)
        link = _NEXT.match(answer.header("Link") or "")
    tags = document.get("tags") if isinstance(document, dict) else None
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise FormatError(call.subject, "the list of tags is not a list of text")
    following = answer.url.join(link[1]) if link is not None else None
    if following is not None and following.origin != session.endpoint.origin:
        raise FormatError(call.subject, f"the list of tags goes on at {following.origin}, which is not its registry")
    return list(tags or ()), following
