"""Which ids our lock in S3 may stand under: `held.json`, so that a killed process finds its own lock again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bundler.atomic import publish
from bundler.domain.oci import parse_strict_json
from bundler.errors import FormatError, LocalResourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Ids under which the lock may stand in S3: `working` of sessions that have not ended, `left` of one that has."""

    working: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def remember(path: Path, held: Held) -> None:
    """Keep the ids that the lock may stand under; without any the file goes.

    Raises:
        LocalResourceError: it cannot be written or removed.
    """
    if held == Held():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LocalResourceError(str(path), f"cannot be removed: {error.strerror}") from error
    else:
        value = {"left": held.left} if held.left else held.working
        publish(path, json.dumps(value).encode(), mode=0o600)


def recall(path: Path) -> Held:
    """Return the ids that were kept.

    Raises:
        LocalResourceError: they cannot be read.
    """
    try:
        value = parse_strict_json(path.read_bytes(), subject=str(path))
    except (FileNotFoundError, FormatError):
        return Held()
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error
    if isinstance(value, dict):
        return Held(left=_ids(value.get("left")))
    return Held(working=_ids(value))


def _ids(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value[:64]) if isinstance(value, list) else ()
