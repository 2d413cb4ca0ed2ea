"""What sockets raise, and what comes of answers that are none, as our errors."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from bundler.adapters.http_connections import ProxyError, UnsendableError
from bundler.adapters.network import HopelessError, StalledError, UnreachableError
from bundler.domain.http_fields import HeadError, OversizedError
from bundler.errors import AccessError, BundleError, FormatError, NetworkError, TransientError
from bundler.transfer import check_stopped

CA_HINT = "If a proxy or a private CA is in between, name its certificate: --ca-file FILE (or SSL_CERT_FILE)."


@contextmanager
def translated(subject: str, where: str, *, is_direct: bool = True) -> Iterator[None]:
    """Raise our errors for foreign ones; `where` names the far side, and the proxy in between unless `is_direct`.

    Raises:
        StoppedError: the connection broke because the work was called off.
    """
    try:
        yield
    except (HeadError, UnsendableError, OSError) as error:
        check_stopped()
        raise _translate(error, subject, where, is_direct=is_direct) from error


def _translate(error: Exception, subject: str, where: str, *, is_direct: bool) -> BundleError:
    """Tell what may be tried again from what may not."""
    reason = _reason(error)
    if isinstance(error, HopelessError | UnreachableError):
        kind = NetworkError if isinstance(error, HopelessError) else TransientError
        unreached = kind(subject, f"{where}: {reason}")
        unreached.unreachable = is_direct
        return unreached
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(subject, f"{where}: the certificate is refused: {error.verify_message}", hint=CA_HINT)
    if isinstance(error, HeadError | UnsendableError):
        return FormatError(subject, _malformed(error, where, reason))
    if isinstance(error, ProxyError) and error.status == 407:
        return AccessError(subject, f"{where}: the proxy wants credentials", hint="Put them into HTTPS_PROXY.")
    return TransientError(subject, f"{where}: {_verb(error)}{reason}")


def _malformed(error: HeadError | UnsendableError, where: str, reason: str) -> str:
    if isinstance(error, UnsendableError):
        return f"nothing was sent to {where}: {reason}"
    if isinstance(error, OversizedError):
        return f"{where} sent headers that are longer than any honest ones"
    return f"{where} did not answer in HTTP ({reason})"


def _verb(error: Exception) -> str:
    if isinstance(error, StalledError):
        return ""
    if isinstance(error, TimeoutError):
        return "nothing came in time: "
    if isinstance(error, ProxyError):
        return "the proxy fails: "
    return "TLS fails: " if isinstance(error, ssl.SSLError) else "the connection broke: "


def _reason(error: BaseException) -> str:
    """A short reason without addresses of objects and without URLs, which may hold tokens."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"<[^>]*>:? ?|https?://\S+", "", str(text))[:200]
