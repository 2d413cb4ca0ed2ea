"""Strict reading of the YAML that people write.

The loader knows less than YAML on purpose: no anchors, aliases, tags, merge keys, duplicate keys or second
documents, at most 1 MiB, 32 levels and 20,000 nodes; every scalar is text, typed later by the schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from bundler.domain.document import Document, Scalar
from bundler.domain.document import Path as NodePath
from bundler.errors import DefinitionError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 20_000
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def read_document(path: Path) -> Document:
    """Return the YAML document in the file `path`.

    Raises:
        DefinitionError: not there, or not the subset of YAML we read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DefinitionError(str(path), "does not exist", hint="Give the path of a file that does.") from error
    except OSError as error:
        raise DefinitionError(str(path), f"cannot be read: {error.strerror}") from error
    return parse_document(raw, source=str(path))


def parse_document(raw: bytes, *, source: str) -> Document:
    """Return the YAML document in `raw`; `source` names it in messages.

    Raises:
        DefinitionError: with file:line:column.
    """
    if len(raw) > MAX_BYTES:
        raise DefinitionError(source, f"is larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DefinitionError(f"{source}:{raw[: error.start].count(10) + 1}:1", "is not UTF-8") from error
    _refuse_hidden(text, source)
    try:
        return _Reader(source, text).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise DefinitionError(where, error.problem or "is not YAML") from error
    except yaml.YAMLError as error:
        raise DefinitionError(f"{source}:1:1", f"is not YAML ({str(error)[:120]})") from error


def _refuse_hidden(text: str, source: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        for column, char in enumerate(line, 1):
            if (ord(char) < 32 and char not in "\t\r") or ord(char) == 127 or char in _BIDI:
                raise DefinitionError(f"{source}:{number}:{column}", f"holds the hidden character U+{ord(char):04X}")


class _Reader:
    """Builds the tree from parser events, so that no limit is passed before it is noticed."""

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, yaml.BaseLoader))
        self._positions: dict[NodePath, tuple[int, int]] = {}

    def read(self) -> Document:
        next(self._events)  # stream start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise DefinitionError(f"{self._source}:1:1", "is empty")
        value = self._node(next(self._events), ())
        next(self._events)  # document end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._error(after, "a second document begins; one file holds one document")
        return Document(source=self._source, value=value, positions=self._positions)

    def _node(self, event: yaml.Event, path: NodePath) -> object:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "aliases are not allowed; write the value out")
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise self._error(event, "a value is missing")
        if event.anchor is not None:
            raise self._error(event, "anchors are not allowed; write the value out")
        if event.tag is not None:
            raise self._error(event, "tags are not allowed")
        if len(path) > MAX_DEPTH:
            raise self._error(event, f"is nested deeper than {MAX_DEPTH} levels")
        if len(self._positions) >= MAX_NODES:
            raise self._error(event, f"has more than {MAX_NODES} values")
        self._positions[path] = _place(event)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(self._visible(event), plain=event.style in (None, ""))
        return self._sequence(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _sequence(self, path: NodePath) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: NodePath) -> dict[str, object]:
        found: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, found)
            found[key] = self._node(next(self._events), (*path, key))
            self._positions[(*path, key)] = _place(event)
        return found

    def _key(self, event: yaml.Event, found: dict[str, object]) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            raise self._error(event, "a key must be a plain word")
        key = str(event.value)
        if key == "<<":
            raise self._error(event, "merge keys are not allowed; write the values out")
        if key in found:
            raise self._error(event, f"key {key!r} stands twice")
        return key

    def _visible(self, event: yaml.ScalarEvent) -> str:
        text = str(event.value)
        bad = next((c for c in text if (ord(c) < 32 and c not in "\n\t") or ord(c) == 127 or c in _BIDI), None)
        if bad is not None:
            raise self._error(event, f"holds the hidden character U+{ord(bad):04X}")
        return text

    def _error(self, event: yaml.Event, cause: str) -> DefinitionError:
        line, column = _place(event)
        return DefinitionError(f"{self._source}:{line}:{column}", cause)


def _place(event: yaml.Event) -> tuple[int, int]:
    """Line and column of an event, both from 1; the library's types allow an event without a mark."""
    mark = event.start_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
