"""EKS tokens: a presigned STS GetCallerIdentity that names the cluster, made without a network call.

The host is always the Region's own STS host: the cluster checks it, and knows no VPC endpoint (aws-iam-authenticator,
pkg/token). Overrides of STS do not touch it.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from bundler.adapters.aws.clients import Aws
from bundler.domain.credentials import Secret
from bundler.domain.partition import DNS_SUFFIXES
from bundler.domain.site import Site

PREFIX = "k8s-aws-v1."
SIGNED_FOR_S = 60
LIFE = dt.timedelta(minutes=14)  # the cluster takes it for fifteen
CLUSTER_HEADER = "x-k8s-aws-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterToken:
    """A bearer token for one cluster's Kubernetes API."""

    text: Secret
    expires: dt.datetime


def cluster_token(aws: Aws, site: Site, *, now: Callable[[], dt.datetime]) -> ClusterToken:
    """Return a token for the site's cluster.

    Raises:
        AccessError: there are no credentials on this host.
    """
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    host = f"sts.{site.region}.{DNS_SUFFIXES[site.partition]}"
    request = AWSRequest(
        method="GET",
        url=f"https://{host}/?Action=GetCallerIdentity&Version=2011-06-15",
        headers={CLUSTER_HEADER: site.cluster.name},
    )
    made = now()
    SigV4QueryAuth(aws.credentials(), "sts", site.region, expires=SIGNED_FOR_S).add_auth(request)
    encoded = base64.urlsafe_b64encode(str(request.url).encode()).decode().rstrip("=")
    return ClusterToken(text=Secret(PREFIX + encoded), expires=made + LIFE)


def exec_credential(token: ClusterToken) -> dict[str, object]:
    """Return the token as kubectl and helm read it from an exec plugin: the one place where its text shows."""
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {"interactive": False},
        "status": {
            "expirationTimestamp": f"{token.expires.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
            "token": token.text.reveal(),
        },
    }
