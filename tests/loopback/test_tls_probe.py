"""The handshake with the Kubernetes API."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.adapters import tls_probe
from bundler.adapters.tls_probe import TlsProbe
from bundler.errors import DefinitionError, NetworkError
from bundler.lab.tls import Authority, make_authority, server_context

pytestmark = pytest.mark.loopback


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[int]:
    """Accept connections, with TLS where there is a context, else in silence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            held = []
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    break
                held.append(plain)
                if context is not None:
                    with contextlib.suppress(OSError):
                        context.wrap_socket(plain, server_side=True).close()
            for plain in held:
                plain.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def authority() -> Authority:
    return make_authority("kubernetes")


def test_what_the_sites_authority_signed_is_accepted(authority: Authority, tmp_path: Path) -> None:
    with serving(server_context(authority, ("127.0.0.1",), folder=tmp_path)) as port:
        TlsProbe().handshake(f"https://127.0.0.1:{port}", authority.pem)


def test_another_clusters_authority_is_a_definition(authority: Authority, tmp_path: Path) -> None:
    with (
        serving(server_context(make_authority("other"), ("127.0.0.1",), folder=tmp_path)) as port,
        pytest.raises(DefinitionError, match="not one of the site's certificateAuthority"),
    ):
        TlsProbe().handshake(f"https://127.0.0.1:{port}", authority.pem)


def test_a_certificate_for_another_name_is_a_definition(authority: Authority, tmp_path: Path) -> None:
    with (
        serving(server_context(authority, ("elsewhere.example",), folder=tmp_path)) as port,
        pytest.raises(DefinitionError),
    ):
        TlsProbe().handshake(f"https://127.0.0.1:{port}", authority.pem)


def test_an_authority_that_is_none_is_a_definition() -> None:
    with pytest.raises(DefinitionError, match="is no certificate"):
        TlsProbe().handshake("https://127.0.0.1:1", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_nobody_there_is_network(authority: Authority) -> None:
    with pytest.raises(NetworkError) as caught:
        TlsProbe().handshake("https://127.0.0.1:9", authority.pem)
    assert "security group" in caught.value.hint


def test_a_name_without_an_address_is_network(authority: Authority) -> None:
    with pytest.raises(NetworkError, match="has no address") as caught:
        TlsProbe().handshake("https://nowhere.invalid", authority.pem)
    assert "DNS" in caught.value.hint


def test_a_peer_that_says_nothing_is_given_up(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_probe, "HANDSHAKE_TIMEOUT_S", 0.2)
    with serving(None) as port, pytest.raises(NetworkError):
        TlsProbe().handshake(f"https://127.0.0.1:{port}", authority.pem)
