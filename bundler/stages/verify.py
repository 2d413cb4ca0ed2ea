"""Archive -> trusted archive: root, members and lock, and with `full` every byte."""

from __future__ import annotations

from bundler.archive.reader import Archive, open_archive
from bundler.domain.events import Emit, silent
from bundler.ports import ByteSource
from bundler.trust import TrustRoot


def verify(source: ByteSource, *, trust: TrustRoot, emit: Emit = silent, full: bool) -> Archive:
    """Return the archive in `source`, signed by `trust`.

    Without `full` the content is checked when it is used: each blob before its upload closes.

    Raises:
        RefusedError: not signed as the site asks, damaged, or not in the one form that the format has.
    """
    archive = open_archive(source, trust)
    if full:
        archive.verify_all(emit=emit)
    return archive
