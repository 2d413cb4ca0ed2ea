"""Charts from where a definition says: registry, https repository, folder, .tgz, one file of manifests, or ours."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from bundler.adapters.chart_archive import read_chart
from bundler.adapters.chart_tar import MAX_FILE_BYTES, MAX_FILES, MAX_PACKED_BYTES, MAX_UNPACKED_BYTES, pack
from bundler.adapters.helmignore import Helmignore
from bundler.data import data_folder
from bundler.domain import kubernetes_yaml as ky
from bundler.domain.chart import ChartContent, ChartOrigin, FetchedChart
from bundler.domain.definition import ChartSource
from bundler.domain.digest import Digest
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, OCI_MANIFEST
from bundler.domain.reference import Reference
from bundler.errors import (
    DefinitionError,
    DigestError,
    FormatError,
    LimitError,
    LocalResourceError,
    NotFoundUpstreamError,
)
from bundler.ports import ImageSource, UrlSource

MAX_INDEX_BYTES = 64 << 20
_MANIFEST_FILE = "manifest.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartFinder:
    """Finds the charts of one definition.

    Attributes:
        folder: where its relative paths start.
        urls: reads https repositories.
        images: reads registries.
    """

    folder: Path
    urls: UrlSource
    images: ImageSource

    def find(self, source: ChartSource) -> FetchedChart:
        """Return the chart that `source` names, examined.

        Raises:
            NotFoundUpstreamError: upstream has no such chart or version.
            DefinitionError: no such path.
            FormatError: what is there is no chart, or another one than was asked for.
            DigestError: it is not what the repository's index pins.
            PolicyError: it needs charts that it does not contain.
        """
        if source.oci is not None:
            return self._from_registry(source.oci, str(source.version))
        if source.repository is not None:
            return self._from_repository(source.repository, str(source.name), str(source.version))
        return self._from_path(self.folder / str(source.path), source.version)

    def wrap(self, name: str, path: str) -> FetchedChart:
        """Return a chart called `name` that holds the file of Kubernetes manifests at `path`, and renders just that.

        Raises:
            DefinitionError: no such file, or not YAML.
        """
        content = _read(self.folder / path)
        try:
            list(ky.compose(content.decode("utf-8"), subject=path))
        except (FormatError, UnicodeDecodeError) as error:
            raise DefinitionError(path, f"is no file of Kubernetes manifests ({error})") from error
        version = f"0.0.0-m{Digest.of(content).short}"
        files = {
            "Chart.yaml": f"apiVersion: v2\nname: {name}\nversion: {version}\n".encode(),
            _MANIFEST_FILE: content,
            "templates/manifest.yaml": f'{{{{ .Files.Get "{_MANIFEST_FILE}" }}}}\n'.encode(),
        }
        return _made(pack(name, files), "manifest", path)

    def _from_path(self, path: Path, version: str | None) -> FetchedChart:
        if path.is_dir():
            files = folder_files(path)
            name = _name_of(files, path)
            chart = _made(pack(name, files), "path", str(path))
        else:
            chart = _made(_read(path), "path", str(path))
        return _expected(chart, chart.name, version or chart.version, str(path))

    def _from_repository(self, repository: str, name: str, version: str) -> FetchedChart:
        subject = f"chart {name} {version} of {repository}"
        base = repository.rstrip("/") + "/"
        index = self._download(urljoin(base, "index.yaml"), MAX_INDEX_BYTES)
        entry = _index_entry(index, name, version, subject=subject)
        urls = entry.get("urls")
        address = urls.items[0] if isinstance(urls, ky.Sequence) and urls.items else None
        if not isinstance(address, ky.Text):
            raise FormatError(subject, "has no address in the repository's index")
        tgz = self._download(urljoin(base, address.value), MAX_PACKED_BYTES)
        pinned = entry.text("digest").removeprefix("sha256:")
        if pinned and Digest.of(tgz).hex != pinned:
            raise DigestError(subject, f"the file has sha256 {Digest.of(tgz).hex}, the index says {pinned:.100}")
        return _expected(_made(tgz, "https", subject), name, version, subject)

    def _download(self, url: str, limit: int) -> bytes:
        if not url.startswith(("https://", "http://")):
            raise FormatError(repr(url[:200]), "is not an http or https address")
        content = bytearray()
        for chunk in self.urls.stream(url):
            content += chunk
            if len(content) > limit:
                raise LimitError(url, f"is larger than {limit} bytes")
        return bytes(content)

    def _from_registry(self, url: str, version: str) -> FetchedChart:
        from bundler.adapters.oras_artifacts import pull_chart  # oras and requests: only for charts in registries

        reference = Reference.parse(f"{url.removeprefix('oci://')}:{version.replace('+', '_')}")
        found = pull_chart(self.images, reference)
        chart = FetchedChart(
            content=read_chart(found.content, subject=str(reference)),
            origin="oci",
            tgz=found.content,
            manifest=found.manifest.raw,
            config=found.config,
            further=found.further,
        )
        return _expected(chart, reference.repository.rsplit("/", 1)[-1], version, str(reference))


def built_in_chart(name: str) -> FetchedChart:
    """Return one of the charts that come with this tool: kube-proxy."""
    return _made(pack(name, folder_files(data_folder("manifests") / "charts" / name)), "built-in", f"chart {name}")


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a chart's folder by their path in it, without what its .helmignore leaves out.

    Raises:
        DefinitionError: a link or another special file, or a path that cannot be packed.
        LimitError: more than Helm takes.
    """
    rules = folder / ".helmignore"
    ignore = Helmignore(_read(rules).decode("utf-8", "replace") if rules.is_file() else "", subject=str(rules))
    files: dict[str, bytes] = {}
    size = 0
    for path in _walk(folder, folder, ignore):
        content = files[path.relative_to(folder).as_posix()] = _read(path, limit=MAX_FILE_BYTES)
        size += len(content)
        if len(files) > MAX_FILES or size > MAX_UNPACKED_BYTES:
            raise LimitError(str(folder), f"holds more than {MAX_FILES} files or {MAX_UNPACKED_BYTES} bytes")
    return files


def _walk(folder: Path, top: Path, ignore: Helmignore) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        mode = entry.lstat().st_mode
        if ignore.ignores(entry.relative_to(top).as_posix(), is_folder=stat.S_ISDIR(mode)):
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(entry, top, ignore)
        elif stat.S_ISREG(mode):
            yield entry
        else:
            raise DefinitionError(str(entry), "is a link or a special file; a chart holds files only")


def _made(tgz: bytes, origin: ChartOrigin, subject: str) -> FetchedChart:
    content = read_chart(tgz, subject=subject)
    config = _json(content.metadata)
    return FetchedChart(
        content=content, origin=origin, tgz=tgz, manifest=_manifest(content, config, tgz), config=config
    )


def _manifest(content: ChartContent, config: bytes, tgz: bytes) -> bytes:
    """The OCI manifest as `helm push` makes it, but for the time of the push."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": HELM_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [{"mediaType": HELM_CHART, "digest": str(Digest.of(tgz)), "size": len(tgz)}],
            "annotations": {
                "org.opencontainers.image.title": content.name,
                "org.opencontainers.image.version": content.version,
            },
        }
    )


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _expected(chart: FetchedChart, name: str, version: str, subject: str) -> FetchedChart:
    if (chart.name, chart.version) != (name, version):
        raise FormatError(subject, f"holds the chart {chart.name} {chart.version}, not {name} {version}")
    return chart


def _index_entry(index: bytes, name: str, version: str, *, subject: str) -> ky.Mapping:
    try:
        text = index.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise FormatError(subject, "the repository's index.yaml is not UTF-8") from error
    found = ky.select(text, ("entries", name), subject=f"index.yaml for {subject}")
    entries = [item for item in found.items if isinstance(item, ky.Mapping)] if isinstance(found, ky.Sequence) else []
    entry = next((item for item in entries if item.text("version") == version), None)
    if entry is None:
        offered = ", ".join(item.text("version")[:50] for item in entries[:5]) or "none"
        raise NotFoundUpstreamError(subject, f"the repository's index does not list it (it offers {offered})")
    return entry


def _name_of(files: Mapping[str, bytes], path: Path) -> str:
    """The chart's own name: its folder may be called otherwise until it is packed."""
    text = files.get("Chart.yaml", b"").decode("utf-8", "replace")
    root = next(ky.compose(text, subject=str(path / "Chart.yaml")), None)
    name = root.text("name") if isinstance(root, ky.Mapping) else ""
    if not name:
        raise DefinitionError(str(path), "holds no Chart.yaml with a name, so it is no chart")
    return name


def _read(path: Path, *, limit: int = MAX_PACKED_BYTES) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise DefinitionError(str(path), "does not exist", hint="Put it there, or correct the path.") from error
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {os.strerror(error.errno or 0)}") from error
    if len(content) > limit:
        raise LimitError(str(path), f"is larger than {limit} bytes")
    return content
