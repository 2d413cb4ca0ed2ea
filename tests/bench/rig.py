"""What the scenarios of images run on: corpora, registries, locked definitions, archives; made when first asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.bench.corpus import Corpus, ensure_images, ensure_small
from tests.bench.images import (
    LAYOUT,
    PACKAGE,
    Lines,
    find_program,
    script,
    skopeo_pull,
    write_layout,
    write_layouts,
    zarf_create,
)
from tests.bench.limits import Limits, measure_limits
from tests.bench.measure import Place, clean_environment
from tests.bench.ours import Workspace, prepare
from tests.bench.servers import (
    LINK,
    Certificate,
    DockerRegistry,
    OwnRegistry,
    Server,
    docker_registry,
    make_certificate,
    own_registry,
)


@dataclass(kw_only=True)
class Rig:
    """Everything that scenarios need, made when the first of them asks for it."""

    folder: Path
    stack: ExitStack
    scale: float = 1.0
    small_blobs: int = 10_000

    @cached_property
    def corpus(self) -> Corpus:
        return ensure_images(scale=self.scale)

    @cached_property
    def following(self) -> Corpus:
        """The next release of the corpus."""
        return ensure_images(scale=self.scale, version=2)

    @cached_property
    def small(self) -> Corpus:
        return ensure_small(self.small_blobs)

    @cached_property
    def authority(self) -> str:
        return str(self._certificate.authority)

    @cached_property
    def _certificate(self) -> Certificate:
        return make_certificate(self.folder)

    @cached_property
    def source(self) -> OwnRegistry:
        return self._start("-layout", str(self.corpus.folder))

    @cached_property
    def following_source(self) -> OwnRegistry:
        return self._start("-layout", str(self.following.folder))

    @cached_property
    def tls_source(self) -> OwnRegistry:
        return self._start("-layout", str(self.corpus.folder), tls=True)

    @cached_property
    def link_source(self) -> OwnRegistry:
        return self._start("-layout", str(self.corpus.folder), *LINK)

    @cached_property
    def small_source(self) -> OwnRegistry:
        return self._start("-layout", str(self.small.folder))

    @cached_property
    def sink(self) -> OwnRegistry:
        return self._start()

    @cached_property
    def tls_sink(self) -> OwnRegistry:
        return self._start(tls=True)

    @cached_property
    def link_sink(self) -> OwnRegistry:
        return self._start(*LINK)

    @cached_property
    def docker_registry(self) -> DockerRegistry:
        return self.stack.enter_context(docker_registry())

    @cached_property
    def bucket(self) -> OwnRegistry:
        """Objects behind the same link."""
        return self._start("-s3", str(self.built.parent), *LINK)

    def _start(self, *options: str, tls: bool = False) -> OwnRegistry:
        return self.stack.enter_context(own_registry(*options, certificate=self._certificate if tls else None))

    @cached_property
    def workspace(self) -> Workspace:
        return self._locked("images", self.corpus, self.source)

    @cached_property
    def following_workspace(self) -> Workspace:
        return self._locked("following", self.following, self.following_source, after=self.workspace)

    @cached_property
    def small_workspace(self) -> Workspace:
        return self._locked("small", self.small, self.small_source)

    def _locked(self, name: str, corpus: Corpus, source: Server, *, after: Workspace | None = None) -> Workspace:
        made = prepare(self.folder / name, corpus, source, after=after)
        shutil.copytree(made.folder / "cache", made.folder / "locked")
        return made

    @cached_property
    def built(self) -> Path:
        """The archive of the corpus."""
        return self._build(self.workspace, self.source)

    @cached_property
    def small_built(self) -> Path:
        return self._build(self.small_workspace, self.small_source)

    def _build(self, workspace: Workspace, source: Server) -> Path:
        out = workspace.folder / "out"
        workspace.run(*workspace.build(out=out)[1:], environment=workspace.environment(source))
        return out / workspace.archive

    @cached_property
    def layouts(self) -> Mapping[str, str]:
        """Where the peers' layouts are, as variables."""
        folder = write_layouts(self.corpus, self.folder / "layouts")
        self._run(skopeo_pull(find_program("skopeo"), self.corpus, self.source), folder)
        return {"LAYOUTS": str(folder), "KEPT": str(folder / LAYOUT)}

    @cached_property
    def small_layouts(self) -> Mapping[str, str]:
        """The same; none of its images is Docker's, so that nobody pulls them."""
        folder = write_layouts(self.small, self.folder / "small-layouts")
        write_layout(self.small, folder / LAYOUT, self.small.images)
        return {"LAYOUTS": str(folder), "KEPT": str(folder / LAYOUT)}

    @cached_property
    def package(self) -> Mapping[str, str]:
        """Where zarf's package is, as a variable; nowhere without zarf."""
        zarf = find_program("zarf")
        if zarf.path is None:
            return {}
        folder = self.folder / "zarf"
        folder.mkdir()
        self._run(zarf_create(zarf, self.corpus, self.source), folder)
        return {"PACKAGE": str(folder / PACKAGE)}

    def _run(self, lines: Lines, folder: Path) -> None:
        subprocess.run(script(lines), cwd=folder, env=clean_environment(), check=True)

    @cached_property
    def limits(self) -> Limits:
        """What this machine can, with the corpus."""
        found = measure_limits(self.corpus, self.source, self.sink, self.folder)
        print(f"limits of this machine: {found.described(self.corpus.total_bytes)}", file=sys.stderr, flush=True)
        return found

    @contextmanager
    def fresh(self, **variables: str) -> Iterator[Place]:
        """A place with an empty folder."""
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.folder) as name:
            yield Place(stub={}, prepared=self.folder, folder=Path(name), environment=variables)
