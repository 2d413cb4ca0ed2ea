"""A file that a person wrote, parsed but not yet typed: text scalars, and where each value stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bundler.errors import DefinitionError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)

Path = tuple[str | int, ...]
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,15})\Z")
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


def validate(document: Document, model: type[Model]) -> Model:
    """Return the document as `model`.

    Raises:
        DefinitionError: the first thing wrong with it, with file:line:column and how many more there are.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - 60 ms that `bundle --help` does not pay

    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        raise _definition_error(document, error) from None


def _definition_error(document: Document, error: ValidationError) -> DefinitionError:
    problems = sorted(
        (_problem(document, item["loc"], item["type"], item["msg"]) for item in error.errors()),
        key=lambda problem: problem[0],
    )
    _, where, text = problems[0]
    more = (
        ""
        if len(problems) == 1
        else f" (and {len(problems) - 1} more: "
        + "; ".join(f"{problem[1]} {problem[2]}" for problem in problems[1:6])
        + ")"
    )
    return DefinitionError(where, text + more, hint="Correct the file, then run the same command again.")


def _problem(document: Document, location: Path, kind: str, message: str) -> tuple[tuple[int, int], str, str]:
    path = tuple(part for part in location if isinstance(part, int) or not part.startswith("function-"))
    where = document.where(path)
    name = ".".join(str(part) for part in path) or "document"
    text = message.removeprefix("Value error, ")
    if kind == "extra_forbidden":
        text = f"unknown key {path[-1]!r}"
    elif kind == "missing":
        text = f"key {path[-1]!r} is missing"
    line, column = where.rsplit(":", 2)[1:]
    return (
        (int(line), int(column)),
        where,
        text if kind in ("extra_forbidden", "missing") else f"{name}: {text}",
    )


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
