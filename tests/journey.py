"""The whole program as its users run it: a folder, a shell's environment, the `bundle` command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bundler.domain.digest import Digest
from bundler.domain.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from bundler.lab.lab import LabFacts
from bundler.lab.tools import Tools
from bundler.trust import parse_trust_chain, trust_digest
from tests.fakes.images import image, index, layer_bytes

_MIB = 1 << 20
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
BUNDLE = [sys.executable, "-m", "bundler"]
REGISTRY = "602401143452.dkr.ecr.eu-central-1.amazonaws.com"


@dataclass(kw_only=True)
class Workspace:
    """A user's folder and environment."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def bundle(self, *arguments: str, expect: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `bundle`; its exit code must be `expect` (None: any)."""
        done = subprocess.run(
            [*BUNDLE, *arguments],
            cwd=self.folder,
            env={**clean_environment(), **self.environment, **more},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, stderr: int = subprocess.DEVNULL, **more: str) -> subprocess.Popen[bytes]:
        """Start `bundle` in a process group of its own, to be killed."""
        return subprocess.Popen(
            [*BUNDLE, *arguments],
            cwd=self.folder,
            env={**clean_environment(), **self.environment, **more},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )

    def peak_mib(self, *arguments: str) -> float:
        """Run `bundle`, which must succeed; return the most memory that it ever had (VmHWM, MiB)."""
        process, peak = self.start(*arguments), 0
        while process.poll() is None:
            with suppress(OSError):
                found = _PEAK.search(Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, int(found[1])) if found else peak
            time.sleep(0.01)
        assert process.returncode == 0, arguments
        assert peak
        return peak / 1024

    def make_trust(self) -> None:
        """Make keys/, and accept their trust root in trust/."""
        self.bundle("trust", "init", "--out", "keys")
        self.accept(self.folder / "keys" / "trust.json")

    def accept(self, document: Path) -> None:
        """Accept a trust root in trust/."""
        digest = trust_digest(parse_trust_chain(document.read_bytes(), source="trust.json"))
        self.bundle("trust", "accept", str(document), "--expect", str(digest), "--trust", "trust")

    def build(self, *arguments: str, **more: str) -> Path:
        """Run `bundle build` and return the archive."""
        done = self.bundle("build", "--key", "keys/bundle.key", "-o", "json", *arguments, **more)
        return self.folder / json.loads(done.stdout)["archive"]


def clean_environment() -> dict[str, str]:
    """Nothing of the machine's own configuration."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "KUBEBUILDER_ASSETS", "PYTHONPATH")
    return {name: os.environ[name] for name in kept if name in os.environ}


def definition(tools: Tools, *, helm: str = "helm4", images: str = "", addons: str = "", name: str = "journey") -> str:
    """A small definition that needs pause, and whatever is added."""
    program = getattr(tools, helm)
    return f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: {name}
kubernetesVersion: "1.36"
source: {{region: eu-central-1}}
platforms: [linux/amd64, linux/arm64]
operatorPlatforms: [linux/amd64]
core:
  pause: {{image: "registry.k8s.io/pause:v1.0.0-lab.1"}}
{addons}
{images}
tools:
  helm:
    version: {program.version}
    platforms: {{linux/amd64: {{path: {program.path}, sha256: {program.sha256}}}}}
  kubectl:
    version: {tools.kubectl.version}
    platforms: {{linux/amd64: {{path: {tools.kubectl.path}, sha256: {tools.kubectl.sha256}}}}}
"""


def small_definition(folder: Path, *, images: int = 6, name: str = "small", layer_bytes_each: int = 40_000) -> str:
    """A definition of small synthetic images in an OCI layout beside it, and tools that nobody runs."""
    folder.mkdir(parents=True, exist_ok=True)
    tool = b"#!/bin/sh\nexit 1\n"
    (folder / "tool").write_bytes(tool)
    names = write_layout(folder / "layout", images, layer_bytes_each)
    entries = "\n".join(f"  - {{image: '{ref}', reason: a test, from: {{layout: layout}}}}" for ref in names)
    program = f"{{path: tool, sha256: {hashlib.sha256(tool).hexdigest()}}}"
    return f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: {name}
kubernetesVersion: "1.36"
source: {{region: eu-central-1}}
platforms: [linux/amd64, linux/arm64]
operatorPlatforms: [linux/amd64]
images:
{entries}
tools:
  helm: {{version: 4.1.4, platforms: {{linux/amd64: {program}}}}}
  kubectl: {{version: 1.35.2, platforms: {{linux/amd64: {program}}}}}
"""


def write_layout(folder: Path, images: int, layer_bytes_each: int) -> list[str]:
    """Write an OCI layout of two-platform images with a shared layer; return their names."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    shared, entries, names = layer_bytes("shared", layer_bytes_each), [], []
    for number in range(images):
        seed = f"image {number}"
        own = layer_bytes(seed, layer_bytes_each)
        made = index(image(seed, layers=[shared, own]), image(seed, platform="linux/arm64", layers=[shared, own[::-1]]))
        for digest, content in {**made.blobs, **{key: raw for key, (_, raw) in made.manifests.items()}}.items():
            (blobs / digest.hex).write_bytes(content)
        names.append(f"registry.example/team/app-{number}:1.0.{number}")
        entries.append(made.descriptor(annotations={"org.opencontainers.image.ref.name": names[-1]}))
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return names


def heavy_definition(folder: Path, total: int, *, layers: int = 8) -> str:
    """A small definition with an image of `total` bytes in large layers, which take hardly any room beside it."""
    text = small_definition(folder, images=1, name="heavy")
    return text.replace("images:\n", f"images:\n{heavy_image(folder / 'layout', total, layers=layers)}\n")


def heavy_image(layout: Path, total: int, *, layers: int = 8) -> str:
    """Put an image of `total` bytes into the layout (beside the definition); return its entry under `images:`."""
    name = _add_image(layout, total, layers)
    return f"  - {{image: '{name}', reason: a test, from: {{layout: {layout.name}}}, platforms: [linux/amd64]}}"


def _add_blob(layout: Path, content: bytes, media_type: str) -> dict[str, object]:
    """Put `content` into a layout; return its descriptor."""
    digest = Digest.of(content)
    (layout / "blobs" / "sha256" / digest.hex).write_bytes(content)
    return {"mediaType": media_type, "digest": str(digest), "size": len(content)}


def _add_layers(layout: Path, size: int, count: int) -> Iterator[dict[str, object]]:
    """Put layers of zeros, each with a number at its end, into a layout; on disk they take hardly any room."""
    zeros = hashlib.sha256()
    for _ in range(size // _MIB - 1):
        zeros.update(bytes(_MIB))
    for number in range(count):
        tail, sha256 = number.to_bytes(_MIB), zeros.copy()
        sha256.update(tail)
        with (layout / "blobs" / "sha256" / sha256.hexdigest()).open("wb") as file:
            file.seek(size - _MIB)
            file.write(tail)
        yield {"mediaType": OCI_LAYER, "digest": f"sha256:{sha256.hexdigest()}", "size": size}


def _add_image(layout: Path, total: int, count: int) -> str:
    """Put an image of `total` bytes in `count` layers into a layout; return its name."""
    layers = list(_add_layers(layout, total // count // _MIB * _MIB, count))
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _add_blob(layout, config, OCI_CONFIG),
        "layers": layers,
    }
    entry = _add_blob(layout, json.dumps(manifest).encode(), str(manifest["mediaType"]))
    entry["annotations"] = {"org.opencontainers.image.ref.name": "registry.example/weight:1"}
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"].append(entry)
    (layout / "index.json").write_text(json.dumps(index))
    return "registry.example/weight:1"


def workspace(folder: Path, facts: LabFacts | None, text: str) -> Workspace:
    """A folder with bundle.yaml and keys, whose upstream is the lab; the cache is its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.yaml").write_text(text)
    known = {} if facts is None else facts.environment()
    environment = {**known, "BUNDLE_CACHE_DIR": str(folder / "cache")}
    made = Workspace(folder=folder, environment=environment)
    made.make_trust()
    return made
