"""What the pull side of the OCI distribution specification 1.1 answers about the content of one lock; pure."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from urllib.parse import quote

from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.http_message import (
    JSON,
    Answer,
    Part,
    Request,
    error_body,
    etag,
    matches_etag,
    plan_part,
)
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.lock import Lock, LockedImage
from bundler.domain.reference import Reference, is_host, is_repository
from bundler.errors import FormatError

MAX_PAGE = 1000
API = {"Docker-Distribution-API-Version": "registry/2.0"}
_OWN = PrivateRegistry(host="localhost", prefix="")
_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?:manifests/(?P<manifest>[^/]+)|blobs/(?P<blob>[^/]+)|tags/list)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledRepository:
    """One repository: its tags, its manifests and indexes, and the blobs these name."""

    tags: dict[str, Blob] = field(default_factory=dict)
    manifests: dict[Digest, Blob] = field(default_factory=dict)
    blobs: dict[Digest, Blob] = field(default_factory=dict)

    def manifest(self, reference: str) -> Blob | None:
        """The manifest under a tag or digest, None where there is none."""
        tagged = self.tags.get(reference)
        return _by_digest(reference, self.manifests) if tagged is None else tagged

    def blob(self, digest: str) -> Blob | None:
        """The blob under a digest, None where there is none."""
        return _by_digest(digest, self.blobs)


def _by_digest(text: str, blobs: Mapping[Digest, Blob]) -> Blob | None:
    try:
        return blobs.get(Digest.parse(text))
    except FormatError:
        return None


Repositories = Mapping[str, PulledRepository]


def repositories_of(lock: Lock, *, carried: Set[Digest]) -> Repositories:
    """Return every repository of the lock by its full name: `<host>/<path>` of an image, `charts/<name>`.

    A `:` in a host is written `-`, as push does, because no name may have it. What a delta does not carry is not
    there: neither a blob nor a manifest, nor a tag that names it.
    """
    found: dict[str, PulledRepository] = {}
    for image in lock.images:
        name = _OWN.image(image.reference).repository
        _add(found.setdefault(name, PulledRepository()), image.reference.tag, tuple(_manifests(image)), carried)
        for manifest in image.manifests:
            _add_blobs(found[name], manifest.blobs, carried)
    for chart in lock.charts:
        target = _OWN.chart(chart.reference)
        repository = found.setdefault(target.repository, PulledRepository())
        _add(repository, target.tag, (chart.manifest.blob,), carried)
        _add_blobs(repository, chart.manifest.blobs, carried)
    return found


def _manifests(image: LockedImage) -> Iterator[Blob]:
    yield image.target
    if image.upstream is not None:
        yield image.upstream
    yield from (manifest.blob for manifest in image.manifests)


def _add(repository: PulledRepository, tag: str | None, manifests: Sequence[Blob], carried: Set[Digest]) -> None:
    """The first of `manifests` is what the tag names; where two images claim one tag, the first keeps it."""
    for manifest in manifests:
        if manifest.digest in carried:
            repository.manifests[manifest.digest] = manifest
    if tag is not None and manifests[0].digest in carried:
        repository.tags.setdefault(tag, manifests[0])


def _add_blobs(repository: PulledRepository, blobs: Sequence[Blob], carried: Set[Digest]) -> None:
    repository.blobs.update({blob.digest: blob for blob in blobs if blob.digest in carried})


def plan_answer(request: Request, repositories: Repositories) -> Answer:
    """Return the answer to a request below `/v2/`; everything that is not a GET or HEAD is refused."""
    if request.method not in ("GET", "HEAD"):
        return refusal(405, "UNSUPPORTED", "this registry is read-only", Allow="GET, HEAD")
    if request.path in ("/v2", "/v2/"):
        return _json({})
    if request.path == "/v2/_catalog":
        return _listed("repositories", sorted(repositories), request)
    match = _ROUTE.match(request.path)
    if match is None:
        return refusal(404, "UNSUPPORTED", "there is nothing under this address")
    found = find_repository(match["name"], repositories, namespace=request.query.get("ns"))
    if found is None:
        return refusal(404, "NAME_UNKNOWN", "the archive holds no such repository")
    return _below(found, match, request)


def _below(repository: PulledRepository, match: re.Match[str], request: Request) -> Answer:
    if match["manifest"] is not None:
        return _content(request, repository.manifest(match["manifest"]), code="MANIFEST_UNKNOWN")
    if match["blob"] is not None:
        return _content(request, repository.blob(match["blob"]), code="BLOB_UNKNOWN")
    return _listed("tags", sorted(repository.tags), request, name=match["name"])


def find_repository(name: str, repositories: Repositories, *, namespace: str | None) -> PulledRepository | None:
    """Return the repository that a client means by `name`.

    Args:
        name: a full name; with a namespace, the path alone is enough. `library/` of docker.io may be left out.
        repositories: those there are.
        namespace: the registry's host, which containerd gives a mirror as `ns`.
    """
    if not is_repository(name):
        return None
    wanted = [name] if namespace is None or not is_host(namespace) else [f"{namespace}/{name}", name]
    for text in wanted:
        found = repositories.get(text) or repositories.get(_full_name(text))
        if found is not None:
            return found
    return None


def _full_name(text: str) -> str:
    """Docker's defaults for a name: other spellings of docker.io, and `library/`."""
    try:
        return _OWN.image(Reference.parse(text)).repository
    except FormatError:
        return ""


def _content(request: Request, blob: Blob | None, *, code: str) -> Answer:
    if blob is None:
        return refusal(404, code, "the archive holds nothing under this name")
    manifest = code == "MANIFEST_UNKNOWN"
    headers = {
        **API,
        "Content-Type": blob.media_type if manifest else "application/octet-stream",
        "Docker-Content-Digest": str(blob.digest),
        "ETag": etag(blob.digest),
        "Accept-Ranges": "bytes",
    }
    if matches_etag(request.headers.get("if-none-match", ""), blob.digest):
        return Answer(status=304, headers=headers)
    body = Part(digest=blob.digest, start=0, end=blob.size, size=blob.size)
    whole = Answer(status=200, headers=headers, body=body)
    if request.method == "HEAD":
        return whole
    return plan_part(request.headers, digest=blob.digest, size=blob.size, whole=whole)


def _listed(key: str, entries: Sequence[str], request: Request, *, name: str | None = None) -> Answer:
    """Answer with one page of a sorted list; `n` says how many at most, `last` after which entry."""
    asked, last = request.query.get("n"), request.query.get("last", "")
    if asked is not None and not re.fullmatch(r"[0-9]{1,9}", asked):
        return refusal(400, "PAGINATION_NUMBER_INVALID", "n is no number")
    rest = entries[bisect_right(entries, last) :]
    page = rest[: MAX_PAGE if asked is None else min(int(asked), MAX_PAGE)]
    link = {}
    if page and len(page) < len(rest):
        namespace = f"&ns={quote(request.query['ns'], safe='')}" if "ns" in request.query else ""
        target = f"{quote(request.path)}?n={len(page)}&last={quote(page[-1], safe='')}{namespace}"
        link = {"Link": f'<{target}>; rel="next"'}
    document: dict[str, object] = {key: page}
    return _json(document if name is None else {"name": name, **document}, **link)


def _json(document: object, **headers: str) -> Answer:
    body = json.dumps(document, ensure_ascii=False).encode() + b"\n"
    return Answer(status=200, headers={**API, "Content-Type": JSON, **headers}, body=body)


def refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    """Return an error in the form of the distribution specification."""
    return Answer(status=status, headers={**API, "Content-Type": JSON, **headers}, body=error_body(code, message))
