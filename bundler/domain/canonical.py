"""JSON in its one spelling: keys sorted, no blanks, UTF-8. What is signed or digested has no second form."""

from __future__ import annotations

import json

from bundler.domain.oci import parse_strict_json
from bundler.errors import FormatError


def canonical_json(value: object) -> bytes:
    """Return the one spelling of `value`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_canonical_json(raw: bytes, *, subject: str) -> object:
    """Return the value in `raw`, which must be in its one spelling.

    Raises:
        FormatError: not JSON, not strict, or written in another way.
    """
    value = parse_strict_json(raw, subject=subject)
    try:
        spelled = canonical_json(value)
    except ValueError as error:
        raise FormatError(subject, "is not JSON that can be written again") from error
    if spelled != raw:
        raise FormatError(subject, "is not written in the one spelling the format has")
    return value


def indented(value: object, depth: int) -> str:
    """Return `value` as it is written that deep in a document for people: no text in JSON holds a line end."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return text.replace("\n", "\n" + " " * depth)
