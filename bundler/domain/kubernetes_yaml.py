"""YAML as charts and Helm write it (anchors, merge keys, many documents), within limits and with its places.

What people write for us is read by the strict loader instead. Scalars stay text, because nothing here needs their
YAML 1.1 meaning, and every scalar knows where it stands, so that it can be edited without writing the rest again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from bundler.errors import FormatError, LimitError

MAX_CHARACTERS = 64 << 20
MAX_DOCUMENT_CHARACTERS = 3 << 20
"""The API server refuses request bodies above 3 MiB, so a larger object can never be installed."""
MAX_DEPTH = 100
MAX_NODES = 5_000_000
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A scalar; `start` and `end` are characters of the text it was read from, `plain` that it had no quotes."""

    value: str
    start: int
    end: int
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether YAML reads it as null."""
        return self.plain and self.value in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A map, merge keys resolved; a key that stands twice is kept twice."""

    entries: tuple[tuple[str, Node], ...] = ()

    def get(self, key: str) -> Node | None:
        """The value of `key`; the last one counts, as it does for Kubernetes."""
        return next((value for name, value in reversed(self.entries) if name == key), None)

    def text(self, key: str) -> str:
        """The text of `key`, empty where there is none."""
        value = self.get(key)
        return value.value if isinstance(value, Text) and not value.is_null else ""

    def mapping(self, key: str) -> Mapping:
        """The map under `key`, an empty one where there is none."""
        value = self.get(key)
        return value if isinstance(value, Mapping) else Mapping()

    def mappings(self, key: str) -> list[Mapping]:
        """The maps in the list under `key`, none where there is no list."""
        value = self.get(key)
        return [item for item in value.items if isinstance(item, Mapping)] if isinstance(value, Sequence) else []


Node = Text | Sequence | Mapping


def compose(text: str, *, subject: str) -> Iterator[Node]:
    """Yield the documents of `text`, empty ones left out.

    Raises:
        FormatError: not YAML, or a map whose key is no scalar.
        LimitError: larger, deeper or with more values than any honest one.
    """
    composer = _composer(text, subject)
    with _as_format_error(subject):
        yield from composer.documents()


def select(text: str, path: tuple[str, ...], *, subject: str) -> Node | None:
    """Return what the first document of `text` has at `path`, None where there is nothing; the rest is only skipped.

    Raises:
        FormatError: not YAML as far as it was read.
        LimitError: as for `compose`.
    """
    composer = _composer(text, subject)
    with _as_format_error(subject):
        return composer.select(path)


def _composer(text: str, subject: str) -> _Composer:
    if len(text) > MAX_CHARACTERS:
        raise LimitError(subject, f"has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    if text.startswith("\ufeff"):
        raise FormatError(subject, "begins with a byte order mark")  # libyaml does not count it, so places would be off
    return _Composer(text, subject)


@contextmanager
def _as_format_error(subject: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise FormatError(subject, f"is not YAML: {error.problem}{where}") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise FormatError(subject, f"is not YAML: {str(error)[:200]}") from error


def plain(node: Node) -> object:
    """Return `node` as dicts, lists, text and None; numbers and truth values stay text."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return None if node.is_null else node.value


class _Composer:
    """Builds documents from parser events: libyaml's parser keeps its own stack, so depth is checked before use."""

    def __init__(self, text: str, subject: str) -> None:
        self._events = yaml.parse(text, Loader=_LOADER)
        self._subject = subject
        self._anchors: dict[str | None, tuple[Node, int]] = {}
        self._nodes = 0

    def documents(self) -> Iterator[Node]:
        begin = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors, begin = {}, _start(event)
            elif isinstance(event, yaml.NodeEvent):
                node = self._node(event, 1)
                if not (isinstance(node, Text) and node.is_null):
                    yield node
            elif isinstance(event, yaml.DocumentEndEvent) and _start(event) - begin > MAX_DOCUMENT_CHARACTERS:
                cause = f"holds an object of {_start(event) - begin} characters, more than Kubernetes takes"
                raise LimitError(self._subject, cause)

    def select(self, path: tuple[str, ...]) -> Node | None:
        ends = (yaml.NodeEvent, yaml.StreamEndEvent)
        event: yaml.Event = next(event for event in self._events if isinstance(event, ends))
        for key in path:
            if not isinstance(event, yaml.MappingStartEvent) or not self._skip_to(key):
                return None
            event = next(self._events)
        return None if isinstance(event, yaml.StreamEndEvent) else self._node(event, 1)

    def _skip_to(self, wanted: str) -> bool:
        """Go on within a map until just behind the key `wanted`."""
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent) and event.value == wanted:
                return True
            self._skip(event)
            self._skip(next(self._events))
        return False

    def _skip(self, event: yaml.Event) -> None:
        depth = 0
        while True:
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth == 0:
                return
            event = next(self._events)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise LimitError(self._subject, f"is nested deeper than {MAX_DEPTH} levels")
        before = self._nodes
        self._count(1)
        node = self._content(event, depth)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._anchors[event.anchor] = node, self._nodes - before
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        known = self._anchors.get(event.anchor)
        if known is None:
            raise FormatError(self._subject, f"names the unknown anchor {event.anchor!r:.100}")
        self._count(known[1])  # an alias weighs what it stands for, else ten lines make a billion values
        return known[0]

    def _content(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            end = event.end_mark.index if event.end_mark is not None else 0
            return Text(value=str(event.value), start=_start(event), end=end, plain=bool(event.implicit[0]))
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(items=tuple(self._items(depth)))
        return Mapping(entries=tuple(self._entries(depth)))

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> Iterator[tuple[str, Node]]:
        own: list[tuple[str, Node]] = []
        merged: list[tuple[str, Node]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Text):
                line = event.start_mark.line + 1 if event.start_mark is not None else 0
                raise FormatError(self._subject, f"has a map whose key is no word, in line {line}")
            if key.plain and key.value == "<<":
                merged += _merged(value)
            else:
                own.append((key.value, value))
        names = {name for name, _ in own}
        yield from ((name, value) for name, value in merged if name not in names)
        yield from own

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise LimitError(self._subject, f"has more than {MAX_NODES} values")


def _start(event: yaml.Event) -> int:
    return event.start_mark.index if event.start_mark is not None else 0


def _merged(value: Node) -> list[tuple[str, Node]]:
    """Entries of the map or maps that a merge key names; the first map wins, so it comes last."""
    if isinstance(value, Mapping):
        return list(value.entries)
    maps = value.items if isinstance(value, Sequence) else ()
    return [entry for item in reversed(maps) if isinstance(item, Mapping) for entry in item.entries]
