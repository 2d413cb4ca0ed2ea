"""Who else moves images, and how: each peer as its users run it, for all images of the corpus; a shell reads the lines.

A build is a pull to an OCI layout and one tar of it; a push begins with layouts that are there. Nothing is installed
here: `make bench-peers` does that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from tests.bench.corpus import HOME, Corpus
from tests.bench.servers import Server

INSTALL = {
    "skopeo": "apt-get install skopeo",
    "crane": "go install github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "regctl": "go install github.com/regclient/regclient/cmd/regctl@v0.11.7",
    "oras": "apt-get download oras (Debian 13), dpkg-deb -x",
    "skcopy": "make bench-peers (go build in tests/bench/skcopy)",
    "zarf": "$ZARF package create --skip-sbom, $ZARF package mirror-resources",
    "curl": "apt-get install curl",
    "coldsnap": "cargo install coldsnap --version 0.6.1",
}
"""What brings a program; a row whose peer is missing says it."""
REQUIRED = ("skopeo", "crane")
OUT, LAYOUT = "peer.tar", "layout"
PACKAGE = "zarf-package-bench-amd64.tar.zst"
"""What zarf calls the package that it makes of `metadata.name: bench`."""
EACH = "$LAYOUTS/{short}"
"""Where the layout of one image is."""
KEPT = "$KEPT"
"""A layout of all images, as skopeo makes it: of others it does not find Docker's manifests."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program of somebody else; `path` is None where it is not installed."""

    name: str
    path: str | None
    version: str

    @property
    def quoted(self) -> str:
        return quote(str(self.path))


def find_path(name: str) -> str | None:
    """Return what `make bench-peers` installed, else what PATH has; ZARF names zarf."""
    own = HOME / "bin" / name
    named = os.environ.get(name.upper()) if name == "zarf" else None
    return named or (str(own) if own.is_file() else shutil.which(name))


def find_program(name: str) -> Program:
    """Return a program with its version; what is missing says what would install it."""
    path = find_path(name)
    return Program(name=name, path=path, version=f"missing: {INSTALL[name]}" if path is None else _version(path))


def _version(path: str) -> str:
    for argument in ("--version", "version"):
        done = subprocess.run([path, argument], capture_output=True, text=True, check=False)
        found = re.search(r"v?\d+\.\d+\.\d+\S*", done.stdout)
        if done.returncode == 0 and found is not None:
            return found[0]
    return ""


Lines = Iterable[str]
Tool = Callable[[Program, Corpus, Server], Lines]
"""Shell lines that pull the corpus from a registry, or push it to one, in the run's folder."""


def pulled(tool: Tool) -> Tool:
    """The lines of a pull, and one tar."""

    def lines(program: Program, corpus: Corpus, source: Server) -> Lines:
        yield from tool(program, corpus, source)
        yield f"(cd {LAYOUT}; tar -cf ../{OUT} *)"

    return lines


def _names(corpus: Corpus) -> Sequence[tuple[str, str]]:
    """`repository:tag` of each image, and a short name of its own."""
    return [(f"{each['repository']}:{each['tag']}", _short(each)) for each in corpus.images]


def _short(image: Mapping[str, str]) -> str:
    return image["repository"].rpartition("/")[2]


def skopeo_pull(program: Program, corpus: Corpus, source: Server) -> Lines:
    for name, short in _names(corpus):
        flags = f"--src-tls-verify={str(source.tls).lower()}"
        yield f"{_skopeo(program)} {flags} docker://{source.address}/{name} oci:{LAYOUT}:{short}"


def skopeo_pull_each(program: Program, corpus: Corpus, source: Server) -> Lines:
    """One archive for each image."""
    for name, short in _names(corpus):
        flags = f"--src-tls-verify={str(source.tls).lower()}"
        yield f"{_skopeo(program)} {flags} docker://{source.address}/{name} oci-archive:{LAYOUT}-{short}.tar:{short}"


def skopeo_sync(program: Program, corpus: Corpus, source: Server) -> Lines:
    """`skopeo sync` to a folder, as its manual shows it."""
    names = "".join(f"    {each['repository']}: [{each['tag']}]\n" for each in corpus.images)
    yield f"cat >sync.yaml <<END\n{source.address}:\n  tls-verify: {str(source.tls).lower()}\n  images:\n{names}END"
    yield f"{program.quoted} --insecure-policy sync --all --src yaml --dest dir sync.yaml {LAYOUT} >/dev/null 2>&1"
    yield f"(cd {LAYOUT}; tar -cf ../{OUT} *)"


# a folder of the run's own for what it remembers of registries; it keeps root's in /var/lib
_REMEMBERED = '_CONTAINERS_ROOTLESS_UID=1000 XDG_DATA_HOME="$PWD/data"'


def _skopeo(program: Program) -> str:
    return f"{_REMEMBERED} {program.quoted} --insecure-policy copy --all -q"


def skopeo_push(program: Program, corpus: Corpus, sink: Server, layout: str = KEPT) -> Lines:
    for name, short in _names(corpus):
        flags = f"--dest-tls-verify={str(sink.tls).lower()}"
        yield f"{_skopeo(program)} {flags} oci:{layout.format(short=short)}:{short} docker://{sink.address}/{name}"


def skcopy_pull(program: Program, corpus: Corpus, source: Server) -> Lines:
    for name, short in _names(corpus):
        yield f"{_REMEMBERED} {program.quoted} docker://{source.address}/{name} oci:{LAYOUT}:{short}"


def skcopy_push(program: Program, corpus: Corpus, sink: Server) -> Lines:
    for name, short in _names(corpus):
        yield f"{_REMEMBERED} {program.quoted} oci:{KEPT}:{short} docker://{sink.address}/{name}"


def zarf_create(program: Program, corpus: Corpus, source: Server) -> Lines:
    """Its own package, of each platform by digest: of an index it takes one platform alone."""
    yield "cat >zarf.yaml <<END\nkind: ZarfPackageConfig\nmetadata:\n  name: bench\ncomponents:"
    yield "  - name: images\n    required: true\n    images:"
    for image in corpus.images:
        for digest in corpus.platforms(image["digest"]):
            yield f"      - {source.address}/{image['repository']}@{digest}"
    yield "END"
    flags = f"--skip-sbom --confirm --architecture amd64 --output .{_plain_http(source)}"
    yield f"{_zarf(program)} create . {flags} >zarf.log 2>&1"


def zarf_mirror(program: Program, corpus: Corpus, sink: Server, package: str = "$PACKAGE") -> Lines:
    flags = "--images --no-img-checksum --confirm --architecture amd64"
    where = f"--registry-url {sink.address} --registry-push-username bench --registry-push-password bench"
    yield f"{_zarf(program)} mirror-resources {package} {flags} {where}{_plain_http(sink)} >zarf.log 2>&1"


def _zarf(program: Program) -> str:
    # its cache is in HOME: every run has a cold one
    return f'HOME="$PWD" TMPDIR="$PWD" {program.quoted} package'


def _plain_http(server: Server) -> str:
    return "" if server.tls else " --plain-http"


def crane_pull(program: Program, corpus: Corpus, source: Server) -> Lines:
    names = " ".join(f"{source.address}/{name}" for name, _ in _names(corpus))
    yield f"{program.quoted} pull {_insecure(source)} --format=oci {names} {LAYOUT}"


def crane_push(program: Program, corpus: Corpus, sink: Server) -> Lines:
    for name, short in _names(corpus):
        yield f"{program.quoted} push {_insecure(sink)} $LAYOUTS/{short} {sink.address}/{name} >/dev/null 2>&1"


def _insecure(server: Server) -> str:
    return "" if server.tls else "--insecure"


def regctl_pull(program: Program, corpus: Corpus, source: Server) -> Lines:
    for name, short in _names(corpus):
        yield f"{_regctl(program, source)} {source.address}/{name} ocidir://{LAYOUT}:{short}"


def regctl_push(program: Program, corpus: Corpus, sink: Server, layout: str = EACH) -> Lines:
    for name, short in _names(corpus):
        place = layout.format(short=short)
        yield f"{_regctl(program, sink)} ocidir://{place}:{short} {sink.address}/{name}"


def _regctl(program: Program, server: Server) -> str:
    tls = "enabled" if server.tls else "disabled"
    return f"{program.quoted} image copy --host reg={server.address},tls={tls} >/dev/null 2>&1"


def oras_pull(program: Program, corpus: Corpus, source: Server) -> Lines:
    for name, short in _names(corpus):
        flags = "" if source.tls else "--from-plain-http"
        yield f"{program.quoted} cp -r {flags} {source.address}/{name} --to-oci-layout {LAYOUT}:{short} >/dev/null"


def oras_push(program: Program, corpus: Corpus, sink: Server, layout: str = EACH) -> Lines:
    for name, short in _names(corpus):
        flags = "" if sink.tls else "--to-plain-http"
        place = layout.format(short=short)
        yield f"{program.quoted} cp -r {flags} --from-oci-layout {place}:{short} {sink.address}/{name} >/dev/null"


def curl_pull(program: Program, corpus: Corpus, source: Server) -> Lines:
    """Every blob once into a file of its own, in parallel, without a hash: what curl -Z can."""
    yield f"mkdir -p {LAYOUT}"
    yield "cat >blobs <<'END'"
    repository = corpus.images[0]["repository"]
    for digest in sorted(corpus.layers):
        yield f'url = "{source.url}/v2/{repository}/blobs/{digest}"\noutput = "{LAYOUT}/{digest[7:]}"'
    yield "END"
    yield f'{program.quoted} -sfZ --parallel-max 8 --cacert "${{SSL_CERT_FILE:-/dev/null}}" -K blobs'


def cat(program: Program, corpus: Corpus, source: Server) -> Lines:
    """Every blob into one file: what the disk, or the memory before it, takes."""
    yield f"cat {quote(str(corpus.folder))}/blobs/sha256/* >{OUT}"


def sha256(program: Program, corpus: Corpus, source: Server) -> Lines:
    """Every blob through hashlib in buffers of 1 MiB, one thread."""
    yield f"{quote(sys.executable)} -m tests.bench.limits {quote(str(corpus.folder / 'blobs' / 'sha256'))}"


def script(lines: Lines) -> list[str]:
    """The command that runs lines, and ends with the first one that fails."""
    return ["/bin/sh", "-euc", "\n".join(lines)]


def write_layouts(corpus: Corpus, folder: Path) -> Path:
    """Write an OCI layout for each image, all with the blobs of the corpus: what a push begins with."""
    for image in corpus.images:
        write_layout(corpus, folder / _short(image), [image])
    return folder


def write_layout(corpus: Corpus, layout: Path, images: Iterable[Mapping[str, str]]) -> None:
    """Write one OCI layout of some images, with the blobs of the corpus."""
    layout.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "blobs").symlink_to(corpus.folder / "blobs")
    described = [
        {
            "mediaType": image["mediaType"],
            "digest": image["digest"],
            "size": corpus.blobs[image["digest"]],
            "annotations": {"org.opencontainers.image.ref.name": _short(image)},
        }
        for image in images
    ]
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": described}))
