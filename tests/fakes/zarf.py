"""Stands in for zarf: it takes the commands that docs.zarf.dev tells of, no others, and moves real bytes.

Its package has every image as an OCI layout below images/, in one tar of zstd; a mirror pushes that to a registry.
What it was asked is kept beside it, in `asked`.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import yaml
import zstandard

BLOBS = "images/blobs/sha256/"
INDEX = "images/index.json"
NAME = "org.opencontainers.image.ref.name"
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    of = (
        made.add_subparsers(dest="verb", required=True).add_parser("package").add_subparsers(dest="noun", required=True)
    )
    create, mirror = of.add_parser("create"), of.add_parser("mirror-resources")
    for each in (create, mirror):
        each.add_argument("source", type=Path)
        each.add_argument("--confirm", action="store_true", required=True)  # else it asks
        each.add_argument("--architecture")
        each.add_argument("--plain-http", action="store_true", required=True)  # else it asks for TLS
    create.add_argument("--skip-sbom", action="store_true")
    create.add_argument("--output", type=Path, required=True)
    mirror.add_argument("--images", action="store_true")
    mirror.add_argument("--no-img-checksum", action="store_true", required=True)  # else tags of its own come too
    for name in ("url", "push-username", "push-password"):
        mirror.add_argument(f"--registry-{name}", required=True)
    return made


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers={"Accept": ACCEPT})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, (path, answer.status)
    return content


def create(asked: argparse.Namespace) -> None:
    package = yaml.safe_load((asked.source / "zarf.yaml").read_text())
    assert package["kind"] == "ZarfPackageConfig"
    (component,) = package["components"]
    assert component["required"] is True
    blobs: dict[str, bytes] = {}
    manifests = []
    for name in component["images"]:
        host, _, rest = name.partition("/")
        repository, _, digest = rest.partition("@")
        connection = http.client.HTTPConnection(host)
        blobs[digest] = get(connection, f"/v2/{repository}/manifests/{digest}")
        for each in parts(blobs[digest]):
            blobs[each] = get(connection, f"/v2/{repository}/blobs/{each}")
        manifests.append({"digest": digest, "annotations": {NAME: name}})
        connection.close()
    path = asked.output / f"zarf-package-{package['metadata']['name']}-{asked.architecture}.tar.zst"
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for digest, content in blobs.items():
            add(tar, BLOBS + digest.removeprefix("sha256:"), content)
        add(tar, INDEX, json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())


def parts(manifest: bytes) -> Iterator[str]:
    document = json.loads(manifest)
    yield document["config"]["digest"]
    yield from (layer["digest"] for layer in document["layers"])


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def mirror(asked: argparse.Namespace) -> None:
    held: dict[str, bytes] = {}
    with (
        asked.source.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as plain,
        tarfile.open(fileobj=plain, mode="r|") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            held[member.name] = content.read()
    connection = http.client.HTTPConnection(asked.registry_url)
    for each in json.loads(held[INDEX])["manifests"]:
        repository = each["annotations"][NAME].partition("/")[2].partition("@")[0]
        manifest = held[BLOBS + each["digest"].removeprefix("sha256:")]
        for digest in parts(manifest):
            push(connection, repository, digest, held[BLOBS + digest.removeprefix("sha256:")])
        kind = {"Content-Type": json.loads(manifest)["mediaType"]}
        put(connection, "PUT", f"/v2/{repository}/manifests/{each['digest']}", manifest, kind)
    connection.close()


def push(connection: http.client.HTTPConnection, repository: str, digest: str, content: bytes) -> None:
    location = put(connection, "POST", f"/v2/{repository}/blobs/uploads/")
    path = "/" + location.partition("://")[2].partition("/")[2] if "://" in location else location
    put(connection, "PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", content)


def put(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> str:
    connection.request(method, path, body, {"Content-Length": str(len(body)), **(headers or {})})
    answer = connection.getresponse()
    answer.read()
    assert answer.status in {201, 202}, (path, answer.status)
    return answer.headers.get("Location", "")


def main(arguments: list[str]) -> None:
    if arguments == ["version"]:
        sys.stdout.write("v0.84.0\n")
    elif arguments == ["--version"]:
        sys.exit("unknown flag: --version")
    else:
        asked = parser().parse_args(arguments)
        with Path(__file__).with_name("asked").open("a") as file:
            file.write(json.dumps(arguments) + "\n")
        (create if asked.noun == "create" else mirror)(asked)


if __name__ == "__main__":
    main(sys.argv[1:])
