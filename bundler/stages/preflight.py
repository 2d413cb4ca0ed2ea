"""Site -> findings: the checks without which nothing else can work, all at once, each with one fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bundler.domain.access import ClusterFacts
from bundler.domain.finding import Finding
from bundler.domain.reference import Reference
from bundler.domain.restored import is_from_bundle
from bundler.domain.site import Site
from bundler.errors import (
    AccessError,
    BundleError,
    ConflictError,
    DefinitionError,
    FormatError,
    NetworkError,
    StoppedError,
)
from bundler.ports import ImageRegistry
from bundler.transfer import parallel_map

WORKERS = 8
MAX_AHEAD = 3
_VERSION = re.compile(r"v?1\.(?P<minor>[0-9]{1,4})\b")


class AwsProbe(Protocol):
    """One cheap reading call to each API; it returns when the API answered."""

    def caller(self) -> tuple[str, str]:
        """Return ARN and account of the caller (STS)."""
        ...

    def ec2(self, vpc: str) -> None:
        """Ask EC2 for a VPC."""
        ...

    def autoscaling(self) -> None:
        """Ask Auto Scaling for groups."""
        ...

    def ecr(self) -> None:
        """Ask ECR's API for a token."""
        ...

    def s3(self) -> None:
        """Ask S3 for anything; a denial is an answer too."""
        ...

    def ebs(self) -> None:
        """Ask EBS direct for a snapshot that nobody has; that it does not exist, and a denial, are answers."""
        ...

    def iam(self, profile: str) -> None:
        """Ask IAM for an instance profile (ARN); none is an answer."""
        ...

    def cluster(self) -> ClusterFacts | None:
        """Ask EKS for the cluster."""
        ...


class ApiProbe(Protocol):
    """The Kubernetes API, as far as TLS."""

    def handshake(self, endpoint: str, ca_pem: bytes) -> None:
        """Connect and check the certificate against this authority and no other.

        Raises:
            NetworkError: nothing answers.
            DefinitionError: what answers is not signed by that authority.
        """
        ...


class VersionProbe(Protocol):
    """The Kubernetes API, once it answers."""

    def version(self) -> str:
        """Return the API server's version, such as v1.36.3-eks-a1b2c3d."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What preflight asks."""

    aws: AwsProbe
    api: ApiProbe
    registry: ImageRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    name: str
    run: Callable[[], None]


def preflight(site: Site, *, probes: Probes) -> tuple[Finding, ...]:
    """Return everything that is wrong, in a fixed order; nothing is written."""
    found = parallel_map(_finding, checks(site, probes), workers=WORKERS)
    return tuple(finding for finding in found if finding is not None)


def check_version(bundle: str, *, cluster: VersionProbe) -> str:
    """Return the cluster's version where a bundle made for `bundle` (1.36) may be installed.

    kube-proxy must not be newer than the API server, nor more than three minor versions older (Kubernetes version skew
    policy); charts were rendered for the bundle's version.

    Raises:
        ConflictError: the cluster is older, or too new.
    """
    server = cluster.version()
    match = _VERSION.match(server)
    if match is None:
        raise FormatError("the Kubernetes API", f"gives {server[:100]!r} as its version")
    ahead = int(match["minor"]) - int(bundle.partition(".")[2])
    if 0 <= ahead <= MAX_AHEAD:
        return server
    cause = f"runs Kubernetes {server}; the bundle is for {bundle}"
    if ahead < 0:
        hint = f"Upgrade the control plane to {bundle} first, or build the bundle for the cluster's version."
        raise ConflictError("the cluster", f"{cause}, and kube-proxy must not be newer than the API server", hint=hint)
    hint = (
        "Build the bundle for the cluster's version: kubernetesVersion in the definition, and the tags that go with it."
    )
    raise ConflictError("the cluster", f"{cause}, more than {MAX_AHEAD} minor versions older", hint=hint)


def checks(site: Site, probes: Probes) -> list[_Check]:
    """Return the checks that this site needs."""
    aws = probes.aws
    wanted = [
        _Check(name="Kubernetes API", run=partial(_check_api, site, probes.api)),
        _Check(name="STS", run=partial(_check_caller, site, aws)),
        _Check(name="ECR API", run=aws.ecr),
        _Check(name="ECR registry", run=partial(_check_registry, site, probes.registry)),
        _Check(name="S3", run=aws.s3),
        _Check(name="EC2", run=partial(aws.ec2, site.vpc)),
    ]
    if site.node_groups:
        wanted.append(_Check(name="Auto Scaling", run=aws.autoscaling))
        if site.access_entries == "ensure":
            wanted.append(_Check(name="EKS", run=partial(_check_cluster, site, aws)))
        if site.restore.route == "ebs-direct" and any(map(is_from_bundle, site.node_groups)):
            wanted.append(_Check(name="EBS direct", run=partial(_check_ebs, site, aws)))
        if site.endpoints.iam is not None:
            wanted.append(_Check(name="IAM", run=partial(aws.iam, site.node_groups[0].instance_profile)))
    return wanted


def _finding(check: _Check) -> Finding | None:
    try:
        check.run()
    except StoppedError:
        raise
    except BundleError as error:
        return Finding.of(check.name, error)
    return None


def _check_api(site: Site, api: ApiProbe) -> None:
    api.handshake(site.cluster.endpoint, site.cluster.ca_pem)


def _check_registry(site: Site, registry: ImageRegistry) -> None:
    """Ask for a tag that nobody has: absent is an answer."""
    try:
        registry.manifest_digest(Reference.parse(f"{site.registry_host}/{site.registry.prefix}/preflight:none"))
    except NetworkError as error:
        if not error.unreachable or error.hint != NetworkError.hint:  # it knows better what is missing
            raise
        hint = (
            "The VPC needs an endpoint for ecr.dkr with private DNS, whose security group admits tcp/443 from here; "
            "without private DNS set `endpoints: {ecr.dkr: vpce-…:443}` in the site file."
        )
        raise NetworkError(site.registry_host, error.cause, hint=hint) from error


def _check_ebs(site: Site, aws: AwsProbe) -> None:
    try:
        aws.ebs()
    except NetworkError as error:
        if not error.unreachable:
            raise
        hint = (
            f"The AMIs of the bundle are restored by EBS direct: the VPC needs the endpoint com.amazonaws.{site.region}"
            ".ebs with private DNS, whose security group admits tcp/443 from here; without private DNS set "
            "`endpoints: {ebs: https://vpce-…}` in the site file. Where there is none, take restore.route: copy."
        )
        raise NetworkError(error.subject, error.cause, hint=hint) from error


def _check_caller(site: Site, aws: AwsProbe) -> None:
    arn, account = aws.caller()
    if account != site.account:
        raise AccessError(
            arn,
            f"belongs to account {account}; the site file says {site.account}",
            safe="Nothing was changed.",
            hint="Use credentials of that account, or correct account in the site file.",
        )


def _check_cluster(site: Site, aws: AwsProbe) -> None:
    facts, cluster = aws.cluster(), site.cluster
    if facts is None:
        cause = f"EKS knows no such cluster in account {site.account}, {site.region}"
        raise ConflictError(f"cluster {cluster.name}", cause, hint="Correct cluster.name in the site file.")
    pairs = {
        "endpoint": (cluster.endpoint, facts.endpoint),
        "certificateAuthority": (cluster.certificate_authority, facts.certificate_authority),
        "serviceCidr": (cluster.service_cidr, facts.service_cidr),
    }
    wrong = [name for name, (ours, theirs) in pairs.items() if theirs and ours != theirs]
    if wrong:
        raise DefinitionError(
            f"cluster {cluster.name}",
            f"the site file and EKS differ in {', '.join(wrong)}: the facts are another cluster's, or old",
            hint=f"Take them from: aws eks describe-cluster --region {site.region} --name {cluster.name}",
        )
