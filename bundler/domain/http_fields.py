"""Header fields of HTTP/1.1, read strictly from hostile bytes (RFC 9112 §5): of a request and of an answer alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_FIELDS = 100
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\Z")


class HeadError(Exception):
    """What came is no head of a message; the text says why."""


class OversizedError(HeadError):
    """More of a head than anybody honest sends."""


def parse_fields(lines: Sequence[bytes], *, once: str | None = None) -> dict[str, str]:
    """Return the fields by names in lower case; several of one name are joined by a comma.

    Args:
        lines: one field each, without line ends.
        once: the name of a field that may not come twice.

    Raises:
        HeadError: a line is no field, or `once` came twice.
    """
    if len(lines) > MAX_FIELDS:
        raise OversizedError(f"{len(lines)} header fields; at most {MAX_FIELDS} are read")
    found: dict[str, str] = {}
    for line in lines:
        match = _FIELD.match(line)
        if match is None:
            raise HeadError(f"a header field that is none: {line[:40]!r}")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1").rstrip(" \t")
        if name not in found:
            found[name] = value
        elif name == once:
            raise HeadError(f"two {name} fields")
        else:
            found[name] = f"{found[name]}, {value}"
    return found
