"""The files of a chart, examined before Helm sees them: what is there, what is missing, what a person should know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bundler.adapters.chart_tar import MAX_UNPACKED_BYTES, unpack
from bundler.domain import kubernetes_yaml as ky
from bundler.domain.chart import ChartContent
from bundler.domain.image_values import ChartDefaults
from bundler.errors import FormatError, LimitError, PolicyError

MAX_NESTING = 8
MAX_SCHEMA_DEPTH = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\Z")
_VERSION = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?\Z")
_LOOKS_OUTSIDE = re.compile(r"(?<![\w.$\"'-])(lookup|getHostByName|expandenv|env)\s+[\"$.(`]")
_ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')
_TEXTS = ("apiVersion", "appVersion", "condition", "description", "home", "icon", "kubeVersion", "name", "tags", "type")
_DEPENDENCY_TEXTS = ("name", "version", "repository", "condition", "alias")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """One chart within the .tgz, and its subcharts by their folder or file in charts/."""

    place: str
    metadata: ky.Mapping
    files: Mapping[str, bytes]
    subcharts: tuple[_Tree, ...]


def read_chart(packed: bytes, *, subject: str) -> ChartContent:
    """Return what the chart in the .tgz `packed` says.

    Raises:
        LimitError: larger, deeper or more nested than Helm takes, or a schema that reads other files.
        FormatError: not a chart, links, a name or version that is none or does not agree with the folder.
        PolicyError: a dependency that is not in charts/: Helm would fetch it from the network.
    """
    top, files = unpack(packed, subject=subject)
    tree = _Reader(subject, files).tree(files, top, 0)
    name, version = tree.metadata.text("name"), tree.metadata.text("version")
    if name != top:
        raise FormatError(subject, f"calls itself {name!r} in a folder named {top!r}")
    if not _VERSION.match(version):
        raise FormatError(subject, f"has the version {version!r:.100}, which is not SemVer")
    notes = [note for one in _all(tree) for note in _examine(one, subject)]
    return ChartContent(
        name=name,
        version=version,
        metadata=_metadata(tree.metadata),
        defaults=_defaults(tree, subject),
        notes=tuple(notes),
    )


class _Reader:
    """Reads a chart and its subcharts; all that is unpacked counts together."""

    def __init__(self, subject: str, files: Mapping[str, bytes]) -> None:
        self._subject = subject
        self._left = MAX_UNPACKED_BYTES - sum(map(len, files.values()))

    def tree(self, files: Mapping[str, bytes], place: str, depth: int) -> _Tree:
        if depth > MAX_NESTING:
            raise LimitError(self._subject, f"nests charts deeper than {MAX_NESTING} levels")
        raw = files.get("Chart.yaml")
        if raw is None:
            raise FormatError(self._subject, f"has no Chart.yaml in {place}")
        metadata = _document(raw, f"{self._subject} ({place}/Chart.yaml)")
        name = metadata.text("name")
        if not _NAME.match(name) or len(name) > 128:
            raise FormatError(self._subject, f"has the name {name!r:.100} in {place}/Chart.yaml, which is none")
        below = [self.tree(one, f"{place}/charts/{key}", depth + 1) for key, one in self._below(files, place)]
        own = {key: content for key, content in files.items() if not key.startswith("charts/")}
        return _Tree(place=place, metadata=metadata, files=own, subcharts=tuple(below))

    def _below(self, files: Mapping[str, bytes], place: str) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        """Yield the subcharts as Helm sees them: folders and .tgz files in charts/, but for `_` and `.` names."""
        folders: dict[str, dict[str, bytes]] = {}
        for path, content in files.items():
            head, _, rest = path.removeprefix("charts/").partition("/")
            if not path.startswith("charts/") or head.startswith(("_", ".")):
                continue
            if rest:
                folders.setdefault(head, {})[rest] = content
            elif head.endswith(".tgz"):
                yield head, self._unpack(content, f"{place}/charts/{head}")
        yield from folders.items()

    def _unpack(self, packed: bytes, place: str) -> Mapping[str, bytes]:
        _, files = unpack(packed, subject=f"{self._subject} ({place})", max_bytes=self._left)
        self._left -= sum(map(len, files.values()))
        return files


def _all(tree: _Tree) -> Iterator[_Tree]:
    yield tree
    for subchart in tree.subcharts:
        yield from _all(subchart)


def _examine(tree: _Tree, subject: str) -> Iterator[str]:
    """Refuse what must not be rendered; yield notes on what only may."""
    names = {subchart.metadata.text("name") for subchart in tree.subcharts}
    for dependency in _dependencies(tree, subject):
        if dependency.text("name") not in names:
            raise _not_vendored(tree, dependency, subject)
    schema = tree.files.get("values.schema.json")
    if schema is not None:
        _check_schema(schema, f"{subject} ({tree.place}/values.schema.json)")
    for name, content in sorted(tree.files.items()):
        if name.startswith("templates/"):
            yield from _outside_functions(content, f"{tree.place}/{name}")


def _not_vendored(tree: _Tree, dependency: ky.Mapping, subject: str) -> PolicyError:
    wanted = " ".join(filter(None, (dependency.text(key)[:200] for key in ("name", "version", "repository"))))
    return PolicyError(
        subject,
        f"{tree.place}/Chart.yaml needs the chart {wanted}, which is not in charts/",
        hint="Vendor it on the connected side (helm dependency update FOLDER), then give that folder as `path`.",
    )


def _dependencies(tree: _Tree, subject: str) -> list[ky.Mapping]:
    """Dependencies of Chart.yaml, or of requirements.yaml where the chart has apiVersion v1."""
    listed = tree.metadata.get("dependencies")
    raw = tree.files.get("requirements.yaml")
    if listed is None and raw is not None:
        listed = _document(raw, f"{subject} ({tree.place}/requirements.yaml)").get("dependencies")
    items = listed.items if isinstance(listed, ky.Sequence) else ()
    return [item for item in items if isinstance(item, ky.Mapping)]


def _check_schema(raw: bytes, subject: str) -> None:
    """Refuse a schema that Helm's validator would follow out of the chart or into its own stack (CVE-2025-32387)."""
    text = raw.decode("utf-8", "replace")
    depth = 0
    for found in _BRACKETS.finditer(text):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if depth > MAX_SCHEMA_DEPTH:
            raise LimitError(subject, f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
    try:
        schema: object = json.loads(text)
    except ValueError as error:
        raise FormatError(subject, f"is not JSON ({error})") from error
    for target in _references(schema):
        if not target.startswith("#"):
            raise LimitError(subject, f"refers to {target!r:.200}, outside of the chart")


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _outside_functions(content: bytes, place: str) -> Iterator[str]:
    text = content.decode("utf-8", "replace")
    found = {match[1] for action in _ACTION.findall(text) for match in _LOOKS_OUTSIDE.finditer(action)}
    for function in sorted(found):
        yield f"{place} uses {function}: it may render differently in the cluster than here"


def _defaults(tree: _Tree, subject: str) -> ChartDefaults:
    keys = {
        dependency.text("name"): dependency.text("alias") or dependency.text("name")
        for dependency in _dependencies(tree, subject)
    }
    raw = tree.files.get("values.yaml", b"")
    values = ky.plain(_document(raw, f"{subject} ({tree.place}/values.yaml)"))
    return ChartDefaults(
        app_version=tree.metadata.text("appVersion"),
        values=values if isinstance(values, dict) else {},
        subcharts={
            keys.get(subchart.metadata.text("name"), subchart.metadata.text("name")): _defaults(subchart, subject)
            for subchart in tree.subcharts
        },
    )


def _document(raw: bytes, subject: str) -> ky.Mapping:
    """The first document of a file as a map; an empty one where there is none."""
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise FormatError(subject, "is not UTF-8") from error
    root = next(ky.compose(text, subject=subject), None)
    if root is None:
        return ky.Mapping()
    if not isinstance(root, ky.Mapping):
        raise FormatError(subject, "is no map")
    return root


def _metadata(chart: ky.Mapping) -> dict[str, object]:
    """Chart.yaml in the types of Helm's chart.Metadata; what Helm does not know is left out, as it does itself."""
    found: dict[str, object] = {key: chart.text(key) for key in (*_TEXTS, "version") if chart.text(key)}
    for key in ("keywords", "sources"):
        if texts := _texts(chart.get(key)):
            found[key] = texts
    people = [_only(item, ("name", "email", "url")) for item in _maps(chart.get("maintainers"))]
    if people:
        found["maintainers"] = people
    annotations = {
        key: value.value for key, value in chart.mapping("annotations").entries if isinstance(value, ky.Text)
    }
    if annotations:
        found["annotations"] = annotations
    if chart.text("deprecated") == "true":
        found["deprecated"] = True
    dependencies = [_dependency(item) for item in _maps(chart.get("dependencies"))]
    return {**found, "dependencies": dependencies} if dependencies else found


def _dependency(item: ky.Mapping) -> dict[str, object]:
    found: dict[str, object] = dict(_only(item, _DEPENDENCY_TEXTS))
    if tags := _texts(item.get("tags")):
        found["tags"] = tags
    imports = item.get("import-values")
    return {**found, "import-values": ky.plain(imports)} if isinstance(imports, ky.Sequence) else found


def _only(item: ky.Mapping, keys: tuple[str, ...]) -> dict[str, str]:
    return {key: item.text(key) for key in keys if item.text(key)}


def _maps(node: ky.Node | None) -> list[ky.Mapping]:
    return [item for item in node.items if isinstance(item, ky.Mapping)] if isinstance(node, ky.Sequence) else []


def _texts(node: ky.Node | None) -> list[str]:
    return [item.value for item in node.items if isinstance(item, ky.Text)] if isinstance(node, ky.Sequence) else []
