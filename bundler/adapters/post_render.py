"""What Helm runs between rendering and applying: manifests in, manifests with private references out.

Helm starts it as `python -m bundler.adapters.post_render`. The environment names a job file: the map of images, and
where to leave a report, because Helm 4 does not show what a post-renderer says.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap, PrivateImage
from bundler.domain.kubernetes_images import FoundImage
from bundler.domain.reference import Reference
from bundler.domain.rewrite import rewrite_manifests
from bundler.errors import BundleError

JOB_VARIABLE = "BUNDLE_POST_RENDER_JOB"
REFUSED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the post-renderer says: images that the bundle does not hold, or why it could not work."""

    missing: tuple[FoundImage, ...] = ()
    problem: str = ""


def job_bytes(images: ImageMap, *, report: Path) -> bytes:
    """Return the job file."""
    entries = [
        {
            "source": str(image.source),
            "digests": sorted(str(digest) for digest in image.digests),
            "target": str(image.target),
        }
        for image in images.images
    ]
    return json.dumps({"host": images.host, "images": entries, "report": str(report)}).encode()


def read_report(path: Path) -> Report | None:
    """Return what the post-renderer left, None where it never got that far."""
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    missing = tuple(FoundImage(text=text, where=where) for text, where in report["missing"])
    return Report(missing=missing, problem=report["problem"])


def main() -> int:
    """Rewrite stdin to stdout; on anything that must not be applied, write nothing and return 3."""
    job = json.loads(Path(os.environ[JOB_VARIABLE]).read_bytes())
    missing: tuple[FoundImage, ...] = ()
    problem = ""
    try:
        done = rewrite_manifests(sys.stdin.buffer.read().decode("utf-8"), _images(job), subject="the rendered chart")
        missing = done.missing
    except (BundleError, UnicodeDecodeError) as error:
        problem = str(error)
    report = {"missing": [(found.text, found.where) for found in missing], "problem": problem}
    Path(job["report"]).write_text(json.dumps(report))
    if missing or problem:
        sys.stderr.write(problem or f"{len(missing)} images are not in the bundle\n")
        return REFUSED
    sys.stdout.buffer.write(done.text.encode())
    return 0


def _images(job: dict[str, list[dict[str, str]]]) -> ImageMap:
    entries = (
        PrivateImage(
            source=Reference.parse(entry["source"]),
            digests=frozenset(Digest.parse(digest) for digest in entry["digests"]),
            target=Reference.parse(entry["target"]),
        )
        for entry in job["images"]
    )
    return ImageMap.of(str(job["host"]), entries)


if __name__ == "__main__":
    sys.exit(main())
