"""A TLS handshake with the Kubernetes API that believes the site's authority and no other."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from bundler.errors import DefinitionError, NetworkError

CONNECT_TIMEOUT_S = 3.0
HANDSHAKE_TIMEOUT_S = 10.0


class TlsProbe:
    """Connects, shakes hands, hangs up."""

    def handshake(self, endpoint: str, ca_pem: bytes) -> None:
        """Connect to `https://HOST[:PORT]` and check its certificate against `ca_pem`.

        Raises:
            NetworkError: the name has no address, or nothing answers.
            DefinitionError: the authority is none, or does not sign what answers.
        """
        context = _context(endpoint, ca_pem)
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or 443
        try:
            with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as plain:
                plain.settimeout(HANDSHAKE_TIMEOUT_S)
                with context.wrap_socket(plain, server_hostname=host):
                    return
        except ssl.SSLCertVerificationError as error:
            cause = f"its certificate is not one of the site's certificateAuthority: {error.verify_message}"
            hint = "The facts are another cluster's or old, or a proxy breaks TLS: aws eks describe-cluster tells."
            raise DefinitionError(endpoint, cause, hint=hint) from error
        except socket.gaierror as error:
            hint = "The cluster needs private access, the VPC DNS support and DNS host names (enableDnsSupport/-names)."
            raise NetworkError(endpoint, f"the name has no address here: {error.strerror}", hint=hint) from error
        except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors
            hint = "The cluster's security group must admit tcp/443 from this host."
            raise NetworkError(endpoint, f"does not answer: {error.strerror or error}", hint=hint) from error


def _context(endpoint: str, ca_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        hint = "Take it from: aws eks describe-cluster --query cluster.certificateAuthority.data"
        raise DefinitionError(endpoint, "the site's certificateAuthority is no certificate", hint=hint) from error
    return context
