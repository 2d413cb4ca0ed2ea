"""What was asked of the lab: one JSON line per request, and whether it could change anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

_READS = (
    "Describe", "List", "Get", "Head", "BatchGet", "BatchCheck", "Lookup", "Search", "Validate", "Select",
    "Simulate", "Decode", "Preview", "AssumeRole", "Estimate", "Check", "Detect", "Verify",
)  # fmt: skip
_WRITING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def is_mutating_operation(operation: str, *, dry_run: bool = False) -> bool:
    """Whether an AWS operation can change anything; what is not known to read counts as writing."""
    return not dry_run and not operation.startswith(_READS)


def is_mutating_method(method: str) -> bool:
    """Whether a registry request can change anything, by its HTTP method."""
    return method in _WRITING_METHODS


class RequestLog:
    """Appends one line per request to a file, from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def aws(self, service: str, operation: str, *, status: int, dry_run: bool = False) -> None:
        """Record a call of the AWS API (`s3` is a service like any other)."""
        mutating = is_mutating_operation(operation, dry_run=dry_run)
        self._write({"service": service, "operation": operation, "mutating": mutating, "status": status})

    def registry(self, service: str, *, method: str, path: str, status: int) -> None:
        """Record a request to a registry: `ecr.dkr`, or `source` on the connected side."""
        mutating = is_mutating_method(method)
        self._write({"service": service, "method": method, "path": path, "mutating": mutating, "status": status})

    def clear(self) -> None:
        """Forget what was asked so far: the lab's own seeding is nobody's request."""
        with self._lock:
            self._path.write_bytes(b"")

    def _write(self, line: Mapping[str, object]) -> None:
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self._lock, self._path.open("a", encoding="utf-8") as out:
            out.write(text)


def read_requests(path: Path) -> Iterator[dict[str, object]]:
    """Yield the recorded requests, oldest first; nothing when there is no log yet."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def mutations(path: Path) -> list[dict[str, object]]:
    """Return the requests that could have changed something and were not refused."""
    return [line for line in read_requests(path) if line["mutating"] and int(str(line["status"])) < 400]
