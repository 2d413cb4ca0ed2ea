"""What urllib3, http.client and sockets raise, as our errors."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from urllib3.exceptions import HTTPError, ProtocolError, ProxyError, SSLError

from bundler.adapters.network import HopelessError, StalledError, UnreachableError
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
    except (HTTPError, http.client.HTTPException, OSError) as error:
        check_stopped()
        raise _translate(error, subject, where, is_direct=is_direct) from error


def _translate(error: Exception, subject: str, where: str, *, is_direct: bool) -> BundleError:
    """Tell what may be tried again from what may not."""
    root = _root(error)
    reason = _reason(root)
    if isinstance(root, HopelessError | UnreachableError):
        kind = NetworkError if isinstance(root, HopelessError) else TransientError
        unreached = kind(subject, f"{where}: {reason}")
        unreached.unreachable = is_direct
        return unreached
    if isinstance(root, ssl.SSLCertVerificationError):
        return NetworkError(subject, f"{where}: the certificate is refused: {root.verify_message}", hint=CA_HINT)
    if _is_oversized(root):
        return FormatError(subject, f"{where} sent headers that are longer than any honest ones")
    if isinstance(error, ProxyError) and "407" in reason:
        return AccessError(subject, f"{where}: the proxy wants credentials", hint="Put them into HTTPS_PROXY.")
    if isinstance(root, OSError | ProtocolError | http.client.HTTPException):
        return TransientError(subject, f"{where}: {_verb(error, root)}{reason}")
    return FormatError(subject, f"{where} did not answer in HTTP ({reason})")


def _verb(error: Exception, root: BaseException) -> str:
    if isinstance(root, StalledError):
        return ""
    if isinstance(root, TimeoutError):
        return "nothing came in time: "
    if isinstance(error, ProxyError):
        return "the proxy fails: "
    return "TLS fails: " if isinstance(error, SSLError) else "the connection broke: "


def _is_oversized(error: BaseException) -> bool:
    """http.client has a class for long lines, but none for too many of them."""
    if isinstance(error, http.client.LineTooLong):
        return True
    return type(error) is http.client.HTTPException and "headers" in str(error)


def _root(error: BaseException) -> BaseException:
    """The first cause that is not urllib3's own."""
    for _ in range(10):
        if not isinstance(error, HTTPError):
            return error
        inner = next((arg for arg in error.args[::-1] if isinstance(arg, BaseException)), error.__cause__)
        if inner is None:
            return error
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """A short reason without addresses of objects and without URLs, which may hold tokens."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"<[^>]*>:? ?|https?://\S+", "", str(text))[:200]
