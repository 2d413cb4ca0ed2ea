"""Who each scenario is measured beside, and the least ratio that we hold ourselves to: what a whole run consists of."""

from __future__ import annotations

from collections.abc import Mapping

MUSTS: Mapping[str, Mapping[str, float | None]] = {
    "build-local": {
        "skopeo": 3.2, "crane": 1.9, "oras": 1.5, "regctl": 2.3, "skcopy": 3.0, "zarf": 4.5,
        "skopeo oci-archive:": 9, "skopeo sync": 7,
        "curl -Z, no hash": 1 / 0.9, "cat of the blobs": 1 / 1.5, "sha256": 1 / 2.7,
    },
    "build-tls": {"skopeo": 3.0, "sha256": 1 / 4.2},
    "build-latency": {"skopeo": 8, "crane": 6, "oras": 5, "regctl": 5, "zarf": 8},
    "push-local": {
        "skopeo": 4, "crane": 1.3, "oras": 1.7, "regctl": 4.0, "skcopy": 3.3, "zarf": 4.3, "sha256": 1 / 1.9,
    },
    "push-tls": {"skopeo": 2.0, "crane": 2.2, "oras": 2.2},
    "push-docker-registry": {"skopeo": 1.5, "crane": 2.0, "zarf": 2.5},
    "push-latency": {"skopeo": 15, "crane": 8, "oras": 11, "regctl": 12, "zarf": 15},
    "push-unchanged": {"skopeo": 15},
    "round-trip": {"skopeo": 3.0, "oras": 2.0, "zarf": 4.5},
    "small-build": {"crane": 1.8, "skopeo": 25},
    "small-push": {"oras": 2, "skopeo": 7},
    "delta": {"the whole build": 1.3},
    "s3-install": {"download, then push": 1.4},
    "ami-export": {"boto3": 0.8, "coldsnap": None},
    "ami-restore": {"boto3": 0.8, "coldsnap": None},
}  # fmt: skip
"""By scenario and peer; *sha256* is of CPU seconds. None: shown, and held to nothing."""
