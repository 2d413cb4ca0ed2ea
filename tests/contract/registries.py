"""The registries that a contract case can run on, and a plain HTTP client for them: never the product's own."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import urllib3

from bundler.domain.digest import Digest
from tests.fakes.images import FakeImage

DOCKER = "docker-registry"
PLAIN = "plain"
ECR = "ecr"
Case = TypeVar("Case", bound=Callable[..., None])
OCTETS = {"Content-Type": "application/octet-stream"}
ACCEPT = {
    "Accept": ", ".join(
        [
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ]
    )
}


def runs_on(*names: str) -> Callable[[Case], Case]:
    """Say on which registries a case runs; the case has an argument `registry`."""

    def mark(case: Case) -> Case:
        case.__dict__["runs_on"] = names
        marked: Case = pytest.mark.parametrize("registry", names, indirect=True)(case)
        return marked

    return mark


everywhere = runs_on(DOCKER, PLAIN, ECR)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """One registry: where it is, how to log in, how to make a repository (ECR needs that)."""

    name: str
    url: str
    pool: urllib3.PoolManager
    user: str = ""
    password: str = ""
    create: Callable[[str], None] = lambda _: None
    skopeo: tuple[str, ...] = ()
    ecr: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.url.partition("://")[2]

    def repository(self, hint: str = "case") -> str:
        """A repository of its own for each case."""
        name = f"contract/{hint}-{uuid.uuid4().hex[:12]}"
        self.create(name)
        return name

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> urllib3.BaseHTTPResponse:
        """One request as it stands: no retries, no redirects."""
        url = path if "://" in path else self.url + path
        sent = {**self.login(), **self.headers, **(headers or {})}
        return self.pool.request(method, url, body=body, headers=sent, redirect=False, retries=False, **more)

    def login(self) -> dict[str, str]:
        if not self.user:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()}

    def start(self, repository: str, query: str = "") -> urllib3.BaseHTTPResponse:
        return self.ask("POST", f"/v2/{repository}/blobs/uploads/{query}", body=b"")

    def session(self, repository: str) -> str:
        """The location of a new upload session."""
        answer = self.start(repository)
        assert answer.status == 202
        return self.location(answer)

    def location(self, answer: urllib3.BaseHTTPResponse) -> str:
        where = answer.headers["Location"]
        return where if "://" in where else self.url + where

    def finish(self, location: str, digest: object, body: bytes = b"") -> urllib3.BaseHTTPResponse:
        separator = "&" if "?" in location else "?"
        return self.ask("PUT", f"{location}{separator}digest={digest}", body=body, headers=OCTETS)

    def push_blob(self, repository: str, content: bytes) -> Digest:
        digest = Digest.of(content)
        answer = self.finish(self.session(repository), digest, content)
        assert answer.status == 201, answer.data
        return digest

    def put_manifest(self, repository: str, reference: object, raw: bytes, media_type: str) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": media_type}
        return self.ask("PUT", f"/v2/{repository}/manifests/{reference}", body=raw, headers=headers)

    def push_image(self, repository: str, image: FakeImage, tag: str = "v1") -> None:
        """Blobs first, children next, the image itself last: under `tag`."""
        for content in image.blobs.values():
            self.push_blob(repository, content)
        for digest, (media_type, raw) in image.manifests.items():
            reference = tag if digest == image.digest else digest
            answer = self.put_manifest(repository, reference, raw, media_type)
            assert answer.status == 201, answer.data

    def manifest(self, repository: str, reference: object, method: str = "GET") -> urllib3.BaseHTTPResponse:
        return self.ask(method, f"/v2/{repository}/manifests/{reference}", headers=ACCEPT)

    def blob(self, repository: str, digest: object, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
        return self.ask(method, f"/v2/{repository}/blobs/{digest}", headers=headers)


def error_code(answer: urllib3.BaseHTTPResponse) -> str:
    """The code of the first error in distribution-spec's form."""
    return str(json.loads(answer.data)["errors"][0]["code"])


def write_layout(folder: Path, image: FakeImage, *, tag: str = "v1") -> None:
    """Write an OCI image layout that holds `image`, for skopeo."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, content in image.blobs.items():
        (blobs / digest.hex).write_bytes(content)
    for digest, (_, raw) in image.manifests.items():
        (blobs / digest.hex).write_bytes(raw)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = image.descriptor() | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    entry.pop("platform", None)
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
