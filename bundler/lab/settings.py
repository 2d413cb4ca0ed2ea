"""What tests may change while the lab runs (`/_lab/settings`), beside ECR's own settings (ecr.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class ImageSettings:
    """AMIs.

    Attributes:
        image_pending_s: how long an AMI that is made from now on (CreateImage, CopyImage, RegisterImage) is pending.
    """

    image_pending_s: float = 0.0
