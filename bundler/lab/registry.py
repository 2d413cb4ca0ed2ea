"""A registry of the lab: OCI distribution-spec 1.1 as Debian's docker-registry speaks it; ecr.py makes it like ECR."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from bundler.domain.digest import Digest
from bundler.domain.oci import MAX_MANIFEST_BYTES
from bundler.errors import FormatError
from bundler.lab.faults import Fault, Faults
from bundler.lab.http_server import Answer, CutError, FileSlice, Request
from bundler.lab.registry_refusal import API, RegistryError
from bundler.lab.registry_store import RegistryStore, Repository, StoredManifest, Upload
from bundler.lab.request_log import RequestLog

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = rf"(?P<name>{_COMPONENT}(?:/{_COMPONENT})*)"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_RANGE = re.compile(r"bytes=(?P<first>[0-9]*)-(?P<last>[0-9]*)\Z")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(?P<first>[0-9]+)-(?P<last>[0-9]+)(?:/\S+)?\Z")
_CUT_BYTES = 64 << 10


class Rules(Protocol):
    """Where registries differ."""

    service: str
    chunk_status: int

    def authorize(self, request: Request) -> None:
        """Let the request pass, or raise RegistryError."""

    def existing(self, name: str) -> Repository:
        """Return a repository to read from, or raise RegistryError."""
        ...

    def target(self, name: str) -> Repository:
        """Return a repository to write to, or raise RegistryError."""
        ...

    def check_tag(self, repository: Repository, tag: str, digest: Digest) -> None:
        """Raise RegistryError when the tag may not be set."""

    def check_upload(self, upload: Upload) -> None:
        """Raise RegistryError when the session's parts do not make a blob."""

    def may_mount(self, source: str, target: str) -> bool:
        """Whether blobs are shared between these two repositories."""
        ...

    def offset(self, upload: Upload, stated: int | None) -> int:
        """Return where a chunk begins that states `stated`."""
        ...

    def progress(self, upload: Upload) -> int:
        """Return how many bytes the Range header admits to."""
        ...

    def missing_blobs(self, repository: Repository, digests: list[Digest]) -> RegistryError:
        """Return the refusal of a manifest whose blobs are absent."""
        ...

    def missing_children(self, repository: Repository, digests: list[Digest]) -> RegistryError:
        """Return the refusal of an index whose children are absent."""
        ...

    def expired(self) -> RegistryError:
        """Return the refusal of an expired token."""
        ...


class Registry:
    """Answers `/v2/`. What differs between registries is asked of `rules`."""

    def __init__(self, store: RegistryStore, rules: Rules, *, faults: Faults, log: RequestLog) -> None:
        self._store = store
        self._rules = rules
        self._faults = faults
        self._log = log
        self._routes: list[tuple[re.Pattern[str], dict[str, tuple[str, Callable[..., Answer]]]]] = [
            (re.compile(r"/v2/?\Z"), {"GET": ("Ping", self._ping)}),
            (re.compile(r"/v2/_catalog\Z"), {"GET": ("Catalog", self._catalog)}),
            (re.compile(rf"/v2/{_NAME}/tags/list\Z"), {"GET": ("ListTags", self._tags)}),
            (
                re.compile(rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)\Z"),
                {"GET": ("GetManifest", self._manifest), "PUT": ("PutManifest", self._put_manifest)},
            ),
            (re.compile(rf"/v2/{_NAME}/blobs/uploads/?\Z"), {"POST": ("StartUpload", self._start_upload)}),
            (
                re.compile(rf"/v2/{_NAME}/blobs/uploads/(?P<upload_id>[0-9a-f]+)\Z"),
                {
                    "GET": ("UploadStatus", self._upload_status),
                    "PATCH": ("PatchUpload", self._patch_upload),
                    "PUT": ("PutUpload", self._put_upload),
                    "DELETE": ("CancelUpload", self._cancel_upload),
                },
            ),
            (re.compile(rf"/v2/{_NAME}/blobs/(?P<digest>[^/]+)\Z"), {"GET": ("GetBlob", self._blob)}),
        ]

    def answer(self, request: Request) -> Answer:
        """Answer one request and write it to the log."""
        try:
            answer = self._answer(request)
        except RegistryError as error:
            answer = error.answer()
        except (CutError, ConnectionError):
            self._record(request, 0)
            raise CutError from None
        self._record(request, answer.status)
        return answer

    def _record(self, request: Request, status: int) -> None:
        self._log.registry(self._rules.service, method=request.method, path=request.path, status=status)

    def _answer(self, request: Request) -> Answer:
        operation, action, fields = self._route(request)
        fault = self._faults.take(self._rules.service, operation)
        if fault is not None:
            self._suffer(fault, request)
        self._rules.authorize(request)
        answer = action(request, **fields)
        return replace(answer, cut=True) if fault is not None and fault.kind == "cut" else answer

    def _route(self, request: Request) -> tuple[str, Callable[..., Answer], dict[str, str]]:
        method = "GET" if request.method == "HEAD" else request.method
        for pattern, actions in self._routes:
            match = pattern.match(request.path)
            if match is None:
                continue
            if method not in actions:
                raise RegistryError(405, "UNSUPPORTED", "The operation is unsupported.")
            operation, action = actions[method]
            if request.method == "HEAD":
                operation = operation.replace("Get", "Head")
            return operation, action, match.groupdict()
        raise RegistryError(404, "NOT_FOUND", "404 page not found")

    def _suffer(self, fault: Fault, request: Request) -> None:
        time.sleep(fault.delay_s)
        if fault.kind == "reset":
            raise CutError
        if fault.kind == "cut":
            request.body.cut_after = _CUT_BYTES if request.body.length is None else request.body.length // 2
            if request.body.length == 0:
                request.body.cut_after = None
        if fault.kind == "expired":
            raise self._rules.expired()
        refusals = {
            "denied": RegistryError(403, "DENIED", "requested access to the resource is denied"),
            "throttled": RegistryError(429, "TOOMANYREQUESTS", "Rate exceeded"),
            "unavailable": RegistryError(503, "UNAVAILABLE", "service unavailable"),
        }
        if fault.kind in refusals:
            refusal = refusals[fault.kind]
            if fault.retry_after_s is not None:
                refusal.headers["Retry-After"] = str(fault.retry_after_s)
            raise refusal

    def _ping(self, _request: Request) -> Answer:
        return _json({})

    def _catalog(self, _request: Request) -> Answer:
        with self._store.lock:
            return _json({"repositories": sorted(self._store.repositories)})

    def _tags(self, request: Request, name: str) -> Answer:
        repository = self._rules.existing(name)
        with self._store.lock:
            tags = sorted(repository.tags)
        page, link = _page(tags, request, f"/v2/{name}/tags/list")
        return _json({"name": name, "tags": page}, headers=link)

    def _manifest(self, _request: Request, name: str, reference: str) -> Answer:
        repository = self._rules.existing(name)
        with self._store.lock:
            found = repository.find(reference)
        if found is None:
            raise RegistryError(404, "MANIFEST_UNKNOWN", "manifest unknown", detail={"Tag": reference})
        digest = found.digest.text
        headers = {**API, "Content-Type": found.media_type, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        return Answer(status=200, headers=headers, body=found.raw)

    def _put_manifest(self, request: Request, name: str, reference: str) -> Answer:
        repository = self._rules.target(name)
        raw = request.body.read(MAX_MANIFEST_BYTES)
        if raw is None:
            raise RegistryError(400, "MANIFEST_INVALID", "manifest too large")
        manifest = read_manifest(raw, request.headers.get("content-type", ""))
        tag = _tag_of(reference, manifest.digest)
        self.store_manifest(repository, manifest, tag=tag)
        headers = {
            **API,
            "Location": f"/v2/{name}/manifests/{manifest.digest}",
            "Docker-Content-Digest": manifest.digest.text,
        }
        return Answer(status=201, headers=headers)

    def store_manifest(self, repository: Repository, manifest: StoredManifest, *, tag: str | None) -> None:
        """Check a manifest against what the repository holds, and store it under its digest and `tag`.

        Raises:
            RegistryError: its blobs or children are missing, or the tag may not be set.
        """
        with self._store.lock:
            wanted = references_of(manifest)
            held = repository.manifests.keys() if manifest.is_index else repository.blobs
            missing = [digest for digest in wanted if digest not in held]
            if missing:
                refusal = self._rules.missing_children if manifest.is_index else self._rules.missing_blobs
                raise refusal(repository, missing)
            if tag is not None:
                self._rules.check_tag(repository, tag, manifest.digest)
            self._store.put_manifest(repository, manifest, tag=tag)

    def _blob(self, request: Request, name: str, digest: str) -> Answer:
        repository = self._rules.existing(name)
        wanted = _digest(digest)
        if not self._store.holds(repository, wanted):
            raise RegistryError(404, "BLOB_UNKNOWN", "blob unknown to registry", detail={"digest": digest})
        path = self._store.blob(wanted)
        size = path.stat().st_size
        headers = {
            **API,
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        part = _asked_range(request, size)
        if part is None:
            return Answer(status=200, headers=headers, body=FileSlice(path=path, offset=0, length=size))
        first, last = part
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(status=206, headers=headers, body=FileSlice(path=path, offset=first, length=last - first + 1))

    def _start_upload(self, request: Request, name: str) -> Answer:
        repository = self._rules.target(name)
        source, mount = request.query.get("from"), request.query.get("mount")
        if mount is not None and source is not None and self._rules.may_mount(source, name):
            digest = _digest(mount)
            if self._store.mount(digest, source=source, target=repository):
                return _created(name, digest)
        upload = self._store.start_upload(repository)
        return self._session(name, upload, status=202)

    def _session(self, name: str, upload: Upload, *, status: int) -> Answer:
        last = max(0, self._rules.progress(upload) - 1)
        headers = {
            **API,
            "Location": f"/v2/{name}/blobs/uploads/{upload.id}",
            "Range": f"0-{last}",
            "Docker-Upload-UUID": upload.id,
        }
        return Answer(status=status, headers=headers)

    def _upload(self, repository: Repository, upload_id: str) -> Upload:
        upload = self._store.upload(repository, upload_id)
        if upload is None:
            raise RegistryError(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        return upload

    def _upload_status(self, _request: Request, name: str, upload_id: str) -> Answer:
        upload = self._upload(self._rules.target(name), upload_id)
        return self._session(name, upload, status=204)

    def _patch_upload(self, request: Request, name: str, upload_id: str) -> Answer:
        upload = self._upload(self._rules.target(name), upload_id)
        self._append(upload, request)
        return self._session(name, upload, status=self._rules.chunk_status)

    def _append(self, upload: Upload, request: Request) -> None:
        with upload.busy:
            match = _CONTENT_RANGE.match(request.headers.get("content-range", ""))
            first = self._rules.offset(upload, int(match["first"]) if match else None)
            if first != upload.received:
                message = f"First byte of the layer part is {first} instead of {upload.received}"
                raise RegistryError(416, "BLOB_UPLOAD_INVALID", message)
            upload.write(request.body)

    def _put_upload(self, request: Request, name: str, upload_id: str) -> Answer:
        repository = self._rules.target(name)
        upload = self._upload(repository, upload_id)
        digest = _digest(request.query.get("digest", ""))
        if request.body.length != 0:
            with upload.busy:
                upload.write(request.body)
        self._rules.check_upload(upload)
        if upload.digest != digest:
            self._store.cancel_upload(upload)
            message = "provided digest did not match uploaded content"
            raise RegistryError(400, "DIGEST_INVALID", message, detail={"digest": digest.text})
        self._store.finish_upload(repository, upload)
        return _created(name, digest)

    def _cancel_upload(self, _request: Request, name: str, upload_id: str) -> Answer:
        self._store.cancel_upload(self._upload(self._rules.target(name), upload_id))
        return Answer(status=204, headers=API)


def read_manifest(raw: bytes, media_type: str) -> StoredManifest:
    """Return the manifest in `raw` under its Content-Type.

    Raises:
        RegistryError: not a JSON object, or one of another type than its Content-Type says.
    """
    kind = media_type.partition(";")[0].strip()
    manifest = StoredManifest(raw=raw, media_type=kind, pushed_at=dt.datetime.now(dt.UTC))
    try:
        own = manifest.document.get("mediaType")
    except ValueError:
        raise RegistryError(400, "MANIFEST_INVALID", "manifest invalid") from None
    if manifest.document.get("schemaVersion") != 2 or (own is not None and own != kind):
        raise RegistryError(400, "MANIFEST_INVALID", "manifest invalid")
    return manifest


def references_of(manifest: StoredManifest) -> list[Digest]:
    """Return the digests that the manifest needs: config and layers, or the children of an index."""
    document = manifest.document
    entries: list[object] = []
    for key in ("manifests",) if manifest.is_index else ("config", "layers"):
        value = document.get(key, [])
        entries.extend(value if isinstance(value, list) else [value])
    return [_digest(str(entry.get("digest", ""))) for entry in entries if isinstance(entry, dict)]


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except FormatError:
        raise RegistryError(400, "DIGEST_INVALID", "provided digest did not match uploaded content") from None


def _tag_of(reference: str, digest: Digest) -> str | None:
    if ":" in reference:
        if _digest(reference) != digest:
            raise RegistryError(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        return None
    if not _TAG.match(reference):
        raise RegistryError(400, "TAG_INVALID", "manifest tag did not match URI")
    return reference


def _asked_range(request: Request, size: int) -> tuple[int, int] | None:
    """Return the first and last byte asked for; None for the whole (also for what is not a single range)."""
    match = _RANGE.match(request.headers.get("range", ""))
    if match is None or (not match["first"] and not match["last"]):
        return None
    if not match["first"]:
        return max(0, size - int(match["last"])), size - 1
    first = int(match["first"])
    if first >= size:
        error = RegistryError(416, "RANGE_INVALID", "invalid content range")
        error.headers["Content-Range"] = f"bytes */{size}"
        raise error
    return first, min(int(match["last"] or size - 1), size - 1)


def _created(name: str, digest: Digest) -> Answer:
    headers = {**API, "Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest.text}
    return Answer(status=201, headers=headers)


def _json(value: object, *, headers: dict[str, str] | None = None) -> Answer:
    kept = {**API, "Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Answer(status=200, headers=kept, body=json.dumps(value).encode())


def _page(items: Iterable[str], request: Request, path: str) -> tuple[list[str], dict[str, str]]:
    """Return one page of `items` (query n and last) and the Link header to the next."""
    last, size = request.query.get("last"), request.query.get("n", "")
    left = [item for item in items if last is None or item > last]
    if not size.isdigit() or int(size) >= len(left):
        return left, {}
    page = left[: int(size)]
    link = f'<{path}?n={size}&last={page[-1]}>; rel="next"' if page else ""
    return page, {"Link": link} if link else {}
