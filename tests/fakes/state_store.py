"""Shared state in memory with compare-and-swap (a StateStore), whose clock is set by the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bundler.errors import StaleStateError
from bundler.ports import StoredState


@dataclass
class MemoryState:
    """Objects by name: content, version, time written; `writes` keeps what was written."""

    now: float = 0.0
    objects: dict[str, tuple[bytes, int, float]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    before_put: Callable[[str], None] = lambda name: None
    after_put: Callable[[str], None] = lambda name: None
    before_delete: Callable[[str], None] = lambda name: None
    _version: int = 0

    def address(self, name: str) -> str:
        return f"s3://bucket/state/{name}"

    def get(self, name: str) -> StoredState | None:
        if name not in self.objects:
            return None
        content, version, written = self.objects[name]
        return StoredState(content=content, version=str(version), age_s=self.now - written)

    def put(self, name: str, content: bytes, *, replaces: str | None) -> str:
        self.before_put(name)
        self._expect(name, replaces)
        self._version += 1
        self.objects[name] = (content, self._version, self.now)
        self.writes.append(name)
        self.after_put(name)
        return str(self._version)

    def delete(self, name: str, *, version: str) -> None:
        self.before_delete(name)
        self._expect(name, version)
        del self.objects[name]
        self.writes.append(f"delete {name}")

    def _expect(self, name: str, version: str | None) -> None:
        there = self.get(name)
        if (there.version if there is not None else None) != version:
            raise StaleStateError(name, "is another version")
