"""Puts `bundle serve` together: the archive's answers behind a listener, with TLS and passwords where wanted."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.errors import UsageError

if TYPE_CHECKING:
    from bundler.archive.reader import Archive
    from bundler.domain.http_message import Exchange
    from bundler.stages.serve import Served


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where and how to serve.

    Attributes:
        host: name or address to listen on.
        port: 0 for a free one.
        connections: how many clients at a time.
        tls: PEM files of certificate chain and key.
        htpasswd: users and bcrypt hashes.
        log: is told of each exchange, from any thread.
    """

    host: str
    port: int
    connections: int
    log: Callable[[Exchange], None]
    tls: tuple[Path, Path] | None = None
    htpasswd: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A registry that listens already and answers as soon as `run` is called.

    Attributes:
        address: `HOST:PORT`, with the port that it got.
        run: answers until Ctrl-C.
    """

    address: str
    served: Served
    run: Callable[[], None]


@contextmanager
def serving(archive: Archive, options: ServeOptions) -> Iterator[Serving]:
    """Hold while `archive` is served.

    Raises:
        UsageError: no address to listen on, or no pair of certificate and key, or no htpasswd file of bcrypt hashes.
        LocalResourceError: the port is taken.
    """
    from bundler.adapters.serve_connections import Service, address_text, listen, serve_connections
    from bundler.adapters.serve_passwords import load_passwords
    from bundler.stages.serve import Served

    allowed = None if options.htpasswd is None else load_passwords(options.htpasswd).allowed
    served = Served(archive, allowed=allowed)
    service = Service(
        handle=served.answer, log=options.log, tls=None if options.tls is None else _tls_context(*options.tls)
    )
    with listen(options.host, options.port) as listener:
        yield Serving(
            address=address_text(options.host, listener.getsockname()[1]),
            served=served,
            run=lambda: serve_connections(listener, service, connections=options.connections),
        )


def _tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        hint = "Give two PEM files, the certificate with its chain and its key without a password: --tls CERT KEY"
        raise UsageError("--tls", f"{certificate} and {key} are no certificate and its key", hint=hint) from error
    return context


def _no_password() -> str:
    """A key that needs one is refused; OpenSSL would ask the terminal."""
    return ""
