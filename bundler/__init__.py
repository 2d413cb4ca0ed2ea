"""Build one signed archive outside, install EKS add-ons and nodes inside a closed VPC."""

from __future__ import annotations

__version__ = "0.1.0"
