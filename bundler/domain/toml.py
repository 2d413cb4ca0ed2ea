"""Values -> TOML 1.0: texts, whole numbers, truths, lists of them, and tables. No more than we write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

Table = Mapping[str, object]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml(table: Table) -> str:
    """Return a document, keys in the order of `table`, values of a table before the tables in it.

    Raises:
        TypeError: a value of another kind.
    """
    return "\n".join(_lines(table, ())).strip("\n") + "\n"


def _lines(table: Table, path: tuple[str, ...]) -> Iterator[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if path and (values or not tables):
        yield f"\n[{'.'.join(map(_key, path))}]"
    for key, value in values.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, inner in tables.items():
        yield from _lines(inner, (*path, key))


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"TOML has no {type(value).__name__} here")


def _text(text: str) -> str:
    """Return a basic string: JSON's escapes are TOML's, but for DEL, which JSON lets stand."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
