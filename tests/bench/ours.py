"""Our side: a folder with definition, keys and lock, whose upstream `corpus.example` is a registry of the bench.

python -m tests.bench.ours FOLDER [--scale 0.1 | --blobs 10000] [--link]    # prepares one, serves it until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.domain.oci import DOCKER_LIST, OCI_INDEX
from bundler.trust import parse_trust_chain, trust_digest
from tests.bench.corpus import Corpus, ensure_images, ensure_small
from tests.bench.measure import clean_environment
from tests.bench.servers import LINK, Server, own_registry

UPSTREAM = "corpus.example"
PREFIX = "bench"
BUNDLE = str(Path(sys.executable).with_name("bundle"))
_TOOL = b"#!/bin/sh\nexit 1\n"


@dataclass(frozen=True)
class Workspace:
    """A folder that `bundle` runs in; `sequence` is that of its lock."""

    folder: Path
    sequence: int = 1

    @property
    def archive(self) -> str:
        return f"bench-{self.sequence}.tar"

    def environment(self, source: Server, *, sink: Server | None = None, cache: Path | None = None) -> dict[str, str]:
        """The variables of a run; `source` is where the corpus is asked for, `sink` is pushed to."""
        asked = {UPSTREAM: source, **({} if sink is None else {sink.address: sink})}
        lines = [f"'{host}': {{url: '{server.url}'}}\n" for host, server in asked.items()]
        (self.folder / "registries.yaml").write_text("".join(lines))
        return {
            "BUNDLE_REGISTRIES": str(self.folder / "registries.yaml"),
            "BUNDLE_CACHE_DIR": str(cache or self.folder / "cache"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }

    def build(self, *, out: Path, more: Sequence[str] = ()) -> list[str]:
        """The command that builds the archive from the lock."""
        key = self.folder / "keys" / "bundle.key"
        definition = self.folder / "bundle.yaml"
        return [BUNDLE, "build", str(definition), "--locked", "--key", str(key), "--out", str(out), *more]

    def push(self, archive: Path | str, registry: Server) -> list[str]:
        """The command that pushes an archive."""
        return [BUNDLE, "push", str(archive), f"{registry.address}/{PREFIX}", "--trust", str(self.folder / "trust")]

    def run(self, *arguments: str, environment: Mapping[str, str]) -> None:
        """Run `bundle`, to its end; what it makes is needed, its time does not count."""
        done = subprocess.run(
            [BUNDLE, *arguments, "--progress", "none"] if arguments[0] != "trust" else [BUNDLE, *arguments],
            cwd=self.folder,
            env={**clean_environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"bench: bundle {' '.join(arguments)}\n{done.stdout.decode()}")


def prepare(folder: Path, corpus: Corpus, source: Server, *, after: Workspace | None = None) -> Workspace:
    """Make keys and definition, and lock it; the cache holds what `bundle lock` leaves there.

    Args:
        folder: where.
        corpus: what the definition names.
        source: who has it.
        after: the release that this one follows: its keys, and the next sequence.
    """
    made = Workspace(folder) if after is None else Workspace(folder, after.sequence + 1)
    folder.mkdir(parents=True, exist_ok=True)
    if after is not None:
        for name in ("keys", "trust"):
            shutil.copytree(after.folder / name, folder / name)
        shutil.copy(after.folder / "bundle.lock.json", folder)
    (folder / "tool").write_bytes(_TOOL)
    (folder / "bundle.yaml").write_text(definition(corpus))
    environment = made.environment(source)
    if not (folder / "keys").is_dir():
        made.run("trust", "init", "--out", "keys", environment=environment)
        chain = folder / "keys" / "trust.json"
        digest = str(trust_digest(parse_trust_chain(chain.read_bytes(), source=chain.name)))
        made.run("trust", "accept", str(chain), "--expect", digest, "--trust", "trust", environment=environment)
    made.run("lock", environment=environment)
    return made


def definition(corpus: Corpus) -> str:
    """Return a definition with the images of a corpus, and tools that nobody runs."""
    images = "\n".join(_entry(image) for image in corpus.images)
    program = f"{{path: tool, sha256: {hashlib.sha256(_TOOL).hexdigest()}}}"
    return f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: bench
kubernetesVersion: "1.36"
source: {{region: eu-central-1}}
platforms: [linux/amd64, linux/arm64]
operatorPlatforms: [linux/amd64]
images:
{images}
tools:
  helm: {{version: 4.1.4, platforms: {{linux/amd64: {program}}}}}
  kubectl: {{version: 1.35.2, platforms: {{linux/amd64: {program}}}}}
"""


def _entry(image: Mapping[str, str]) -> str:
    name = f"{UPSTREAM}/{image['repository']}:{image['tag']}"
    only = "" if image["mediaType"] in {OCI_INDEX, DOCKER_LIST} else ", platforms: [linux/amd64]"
    return f"  - {{image: '{name}', reason: bench{only}}}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ours", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--blobs", type=int, help="so many blobs of 2 KiB instead")
    parser.add_argument("--link", action="store_true", help="30 ms a request, 60 MB/s a connection")
    asked = parser.parse_args(arguments)
    folder = asked.folder.resolve()
    corpus = ensure_images(scale=asked.scale) if asked.blobs is None else ensure_small(asked.blobs)
    link = LINK if asked.link else ()
    with (
        own_registry("-layout", str(corpus.folder)) as fast,
        own_registry("-layout", str(corpus.folder), *link) as source,
        own_registry(*link) as sink,
        contextlib.suppress(KeyboardInterrupt),
    ):
        place = prepare(folder, corpus, fast)
        variables = place.environment(source)
        print("".join(f"export {name}={value}\n" for name, value in variables.items()), end="")
        print(" ".join(place.build(out=folder)))
        print(" ".join(place.push(folder / place.archive, sink)))
        facts = {"source": source.control, "sink": sink.control, "blobs": len(corpus.blobs)}
        print(json.dumps({**facts, "bytes": corpus.total_bytes, "pid": os.getpid()}), flush=True)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
