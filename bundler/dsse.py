"""The names of securesystemslib that we use, without the AWS SDK.

Its signer for AWS KMS, which we do not use, would import boto3: 0.2 seconds and 15 MiB of every command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let an import fail while this holds; securesystemslib then does without (`AWS_IMPORT_ERROR`)."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _absent("boto3"):
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import CryptoSigner, Signature, SSlibKey

__all__ = ["CryptoSigner", "Envelope", "SSlibKey", "Signature", "UnverifiedSignatureError"]
