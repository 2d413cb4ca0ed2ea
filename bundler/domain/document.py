"""A file that a person wrote, parsed but not yet typed: text scalars, and where each value stands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bundler.errors import DefinitionError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

Path = tuple[str | int, ...]
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,15})\Z")
_NULLS = frozenset({"", "~", "null"})
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+\Z")


class Scalar(str):
    """Text of a YAML scalar that remembers whether it stood without quotes."""

    plain: bool

    def __new__(cls, text: str, *, plain: bool) -> Scalar:
        """Make the text remember `plain`: whether it stood without quotes."""
        scalar = super().__new__(cls, text)
        scalar.plain = plain
        return scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The tree of one YAML document.

    Attributes:
        source: file name for messages.
        value: mappings, lists and Scalars.
        positions: path of a value -> line and column, both from 1.
    """

    source: str
    value: object
    positions: Mapping[Path, tuple[int, int]]

    def where(self, path: Path) -> str:
        """Return `file:line:column` of the value at `path`, or of its nearest parent that the file holds."""
        while path and path not in self.positions:
            path = path[:-1]
        line, column = self.positions.get(path, (1, 1))
        return f"{self.source}:{line}:{column}"

    def at(self, path: Path) -> object:
        """Return the value at a path that `positions` holds."""
        value: Any = self.value
        for part in path:
            value = value[part]
        found: object = value
        return found


def dotted(path: Path) -> str:
    """Return a path as people write it: `addons[0].chart`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "document"


def validate(document: Document, model: type[Model]) -> Model:
    """Return the document as `model`.

    Raises:
        DefinitionError: the first thing wrong with it, with file:line:column and how many more there are.
    """
    from pydantic import ValidationError

    _refuse_null(document)
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        known = _known_keys(model.model_json_schema(by_alias=True))
        problems = sorted(_problem(document, item["loc"], item["type"], item["msg"], known) for item in error.errors())
    first, *rest = problems
    more = "; ".join(f"{problem.where} {problem.text}" for problem in rest[:5])
    cause = first.text + (f" (and {len(rest)} more: {more})" if rest else "")
    raise DefinitionError(first.where, cause, hint="Correct the file, then run the same command again.")


def _refuse_null(document: Document) -> None:
    """Outside Helm values every scalar is text: `keyPair: null` would be a key pair of that name."""
    for path in sorted(document.positions, key=lambda path: document.positions[path]):
        value = document.at(path)
        if isinstance(value, Scalar) and value.plain and value in _NULLS and "values" not in path[:-1]:
            hint = "Leave the key out, or write the text in quotes."
            raise DefinitionError(document.where(path), f"{dotted(path)} has no value", hint=hint)


@dataclass(frozen=True, slots=True, order=True)
class _Problem:
    """Sorted as a person wants them: a misspelt key explains the missing one, then from top to bottom."""

    rank: int
    line: int
    column: int
    where: str
    text: str


def _problem(document: Document, location: Path, kind: str, message: str, known: frozenset[str]) -> _Problem:
    path = tuple(part for part in location if isinstance(part, int) or not part.startswith("function-"))
    where = document.where(path)
    line, column = (int(part) for part in where.rsplit(":", 2)[1:])
    if kind == "extra_forbidden":
        return _Problem(0, line, column, where, f"unknown key {path[-1]!r}{_nearest(str(path[-1]), known)}")
    if kind == "missing":
        return _Problem(1, line, column, where, f"key {path[-1]!r} is missing")
    return _Problem(1, line, column, where, f"{dotted(path)}: {message.removeprefix('Value error, ')}")


def _nearest(key: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _known_keys(schema: object) -> frozenset[str]:
    """Every property name anywhere in a JSON Schema."""
    if isinstance(schema, list):
        return frozenset().union(*(_known_keys(item) for item in schema))
    if not isinstance(schema, dict):
        return frozenset()
    own = schema.get("properties")
    names = frozenset(own) if isinstance(own, dict) else frozenset()
    return names.union(*(_known_keys(item) for item in schema.values()))


def typed_values(value: object) -> object:
    """Return Helm values with YAML 1.2 core types; text that would not print back the same (1.30, 0644) stays text."""
    if isinstance(value, Mapping):
        return {str(key): typed_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed_values(item) for item in value]
    return (
        _typed(value)
        if isinstance(value, Scalar) and value.plain
        else (str(value) if isinstance(value, str) else value)
    )


def _typed(text: str) -> object:
    constants: dict[str, object] = {"true": True, "false": False, "null": None, "~": None, "": None}
    if text in constants:
        return constants[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text) and repr(float(text)) == text:
        return float(text)
    return str(text)
