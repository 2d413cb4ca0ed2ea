"""The upload side of a registry as a script for ScriptedServer: sessions keep what arrived, even of cut requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from bundler.domain.digest import Digest
from tests.fakes.scripted_server import Asked, Reply


def too_large(asked: Asked, most: int | None) -> Reply | None:
    """Refuse a PUT of more than `most` bytes, None for none: what is larger then comes in chunks."""
    refused = most is not None and asked.method == "PUT" and len(asked.body) > most
    return Reply(status=413) if refused else None


class UploadingRegistry:
    """Blobs and sessions of one registry; `before` may answer first, as faults do."""

    def __init__(self, before: Callable[[Asked], Reply | None] = lambda asked: None) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.sessions: dict[str, bytearray] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.completed: list[tuple[str, str]] = []
        self.received = 0
        self.before = before
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply | None:
        with self._lock:
            return self.before(asked) or self._answer(asked)

    def _answer(self, asked: Asked) -> Reply:
        path = urlsplit(asked.target).path.removeprefix("/v2/")
        if "/manifests/" in path:
            return self._manifest(asked, *path.split("/manifests/"))
        return self._tags(path.removesuffix("/tags/list")) if path.endswith("/tags/list") else self._blob(asked)

    def _blob(self, asked: Asked) -> Reply:
        parts = urlsplit(asked.target)
        name, _, rest = parts.path.removeprefix("/v2/").partition("/blobs/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if asked.method == "HEAD":
            return Reply(status=200 if (name, rest) in self.blobs else 404)
        if asked.method == "POST":
            return self._begin(name, query)
        number = rest.removeprefix("uploads/")
        if number not in self.sessions:
            return Reply(status=404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"gone"}]}')
        if asked.method == "PUT":
            return self._end(name, query["digest"], number, asked)
        return self._go_on(f"/v2/{name}/blobs/uploads/{number}", self.sessions[number], asked)

    def _manifest(self, asked: Asked, name: str, place: str) -> Reply:
        if asked.method == "PUT":
            digest = str(Digest.of(asked.body))
            self.manifests[name, place] = self.manifests[name, digest] = asked.body
            return Reply(status=201, headers={"Docker-Content-Digest": digest})
        held = self.manifests.get((name, place))
        if held is None:
            return Reply(status=404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}')
        return Reply(status=200, headers={"Docker-Content-Digest": str(Digest.of(held))}, body=held)

    def _tags(self, name: str) -> Reply:
        if not any(name == one for one, _ in self.manifests):
            return Reply(status=404, body=b'{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}')
        tags = [place for one, place in self.manifests if one == name and ":" not in place]
        return Reply(body=json.dumps({"name": name, "tags": tags}).encode())

    def _go_on(self, location: str, session: bytearray, asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(
                status=204, headers={"Location": location, "Range": f"0-{max(len(session) - 1, 0)}"}, length=None
            )
        if int(asked.headers["content-range"].partition("-")[0]) != len(session):
            return Reply(status=416)
        self.received += len(asked.body)
        session += asked.body
        return Reply(status=202, headers={"Location": location, "Range": f"0-{len(session) - 1}"})

    def _begin(self, name: str, query: dict[str, str]) -> Reply:
        if "mount" in query and (query.get("from", ""), query["mount"]) in self.blobs:
            self.blobs[name, query["mount"]] = self.blobs[query["from"], query["mount"]]
            return Reply(status=201)
        self._count += 1
        self.sessions[str(self._count)] = bytearray()
        return Reply(status=202, headers={"Location": f"/v2/{name}/blobs/uploads/{self._count}"})

    def _end(self, name: str, digest: str, number: str, asked: Asked) -> Reply:
        self.received += len(asked.body)
        self.sessions[number] += asked.body
        if asked.was_cut:
            return Reply(status=400)
        content = bytes(self.sessions.pop(number))
        if str(Digest.of(content)) != digest:
            return Reply(status=400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"no match"}]}')
        self.blobs[name, digest] = content
        self.completed.append((name, digest))
        return Reply(status=201, headers={"Docker-Content-Digest": digest})
