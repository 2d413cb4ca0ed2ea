"""Preflight: all findings at once, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bundler.domain.access import ClusterFacts
from bundler.domain.finding import Finding
from bundler.domain.reference import Reference
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
from bundler.stages.preflight import Probes, check_version, preflight
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.sites import ACCOUNT, group_document, make_site


@dataclass
class Aws:
    """AWS in memory; `failing` maps a call to what it raises."""

    failing: dict[str, BundleError] = field(default_factory=dict)
    account: str = ACCOUNT
    facts: ClusterFacts | None = None
    asked: list[str] = field(default_factory=list)

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.failing:
            raise self.failing[name]

    def caller(self) -> tuple[str, str]:
        self._ask("caller")
        return f"arn:aws:iam::{self.account}:user/me", self.account

    def ec2(self, vpc: str) -> None:
        self._ask("ec2")

    def autoscaling(self) -> None:
        self._ask("autoscaling")

    def ecr(self) -> None:
        self._ask("ecr")

    def s3(self) -> None:
        self._ask("s3")

    def ebs(self) -> None:
        self._ask("ebs")

    def iam(self, profile: str) -> None:
        self._ask("iam")

    def cluster(self) -> ClusterFacts | None:
        self._ask("cluster")
        return self.facts


@dataclass
class Api:
    """The Kubernetes API in memory."""

    error: BundleError | None = None

    def handshake(self, endpoint: str, ca_pem: bytes) -> None:
        assert ca_pem.startswith(b"-----BEGIN CERTIFICATE-----")
        if self.error is not None:
            raise self.error


class DeadRegistry(MemoryRegistry):
    """Nothing answers."""

    def manifest_digest(self, reference: Reference) -> None:  # type: ignore[override]
        error = NetworkError(reference.registry, "no answer")
        error.unreachable = True
        raise error


class BusyRegistry(MemoryRegistry):
    """The API that gives tokens is reached, and has no time."""

    def manifest_digest(self, reference: Reference) -> None:  # type: ignore[override]
        raise NetworkError("ecr:GetAuthorizationToken", "the service is busy")


def facts_of(site: Site, **changes: str) -> ClusterFacts:
    fields = {
        "status": "ACTIVE",
        "endpoint": site.cluster.endpoint,
        "certificate_authority": site.cluster.certificate_authority,
        "service_cidr": site.cluster.service_cidr,
        "authentication_mode": "API",
    }
    return ClusterFacts(**{**fields, **changes})


def run(site: Site, aws: Aws, *, api: Api | None = None, registry: MemoryRegistry | None = None) -> tuple[Finding, ...]:
    return preflight(site, probes=Probes(aws=aws, api=api or Api(), registry=registry or MemoryRegistry()))


def test_a_site_where_everything_answers_has_no_findings() -> None:
    site = make_site()
    aws = Aws(facts=facts_of(site))
    assert run(site, aws) == ()
    assert set(aws.asked) == {"caller", "ec2", "autoscaling", "ecr", "s3", "cluster"}


def test_every_check_that_fails_is_found_in_one_run_in_a_fixed_order() -> None:
    site = make_site()
    names = ("caller", "ecr", "s3", "ec2", "autoscaling", "cluster")
    aws = Aws(failing={name: NetworkError(name, "silent", hint=f"mend {name}") for name in names})
    findings = run(site, aws, api=Api(NetworkError("api", "silent")), registry=DeadRegistry())
    assert [finding.check for finding in findings] == [
        "Kubernetes API",
        "STS",
        "ECR API",
        "ECR registry",
        "S3",
        "EC2",
        "Auto Scaling",
        "EKS",
    ]
    assert {finding.hint for finding in findings if finding.subject == "s3"} == {"mend s3"}


def test_a_silent_registry_is_found_with_the_endpoint_that_it_needs() -> None:
    site = make_site()
    (finding,) = run(site, Aws(facts=facts_of(site)), registry=DeadRegistry())
    assert (finding.subject, finding.exit_code) == (site.registry_host, 5)
    assert "an endpoint for ecr.dkr" in finding.hint


def test_a_registry_that_was_reached_lacks_no_endpoint() -> None:
    site = make_site()
    (finding,) = run(site, Aws(facts=facts_of(site)), registry=BusyRegistry())
    assert (finding.subject, finding.hint) == ("ecr:GetAuthorizationToken", NetworkError.hint)


def test_iam_is_asked_only_where_the_site_has_a_way_to_it() -> None:
    site = make_site(endpoints={"iam": "https://vpce-1.iam.amazonaws.com"})
    aws = Aws(facts=facts_of(site), failing={"iam": NetworkError("iam", "silent")})
    (finding,) = run(site, aws)
    assert (finding.check, finding.subject) == ("IAM", "iam")


BUNDLED = [group_document(ami="workers")]


@pytest.mark.parametrize(
    "changes",
    [{}, {"nodeGroups": BUNDLED, "restore": {"route": "copy"}}, {"nodeGroups": BUNDLED, "restore": {"route": "share"}}],
)
def test_ebs_direct_is_asked_only_where_blocks_are_written(changes: dict[str, object]) -> None:
    site = make_site(**changes)
    aws = Aws(facts=facts_of(site))
    assert run(site, aws) == ()
    assert "ebs" not in aws.asked
    site = make_site(nodeGroups=[group_document(), group_document(name="second", ami="workers")])
    run(site, aws)
    assert "ebs" in aws.asked


def test_a_silent_ebs_direct_is_found_with_the_endpoint_that_it_needs() -> None:
    silent = NetworkError("ebs", "no answer from https://ebs.ap-northeast-1.amazonaws.com")
    silent.unreachable = True
    site = make_site(nodeGroups=BUNDLED)
    (finding,) = run(site, Aws(facts=facts_of(site), failing={"ebs": silent}))
    assert (finding.check, finding.subject, finding.exit_code) == ("EBS direct", "ebs", 5)
    assert "com.amazonaws.ap-northeast-1.ebs" in finding.hint
    assert "endpoints: {ebs: https://vpce-…}" in finding.hint


def test_an_ebs_direct_that_was_reached_lacks_no_endpoint() -> None:
    site = make_site(nodeGroups=BUNDLED)
    (finding,) = run(site, Aws(facts=facts_of(site), failing={"ebs": NetworkError("ebs", "the service is busy")}))
    assert (finding.cause, finding.hint) == ("the service is busy", NetworkError.hint)


def test_the_wrong_account_is_found() -> None:
    site = make_site()
    (finding,) = run(site, Aws(account="999999999999", facts=facts_of(site)))
    assert "999999999999" in finding.cause
    assert finding.exit_code == 4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"endpoint": "https://OTHER.eks.amazonaws.com"}, "endpoint"),
        ({"certificate_authority": "b3RoZXI="}, "certificateAuthority"),
        ({"service_cidr": "172.20.0.0/16"}, "serviceCidr"),
    ],
)
def test_facts_of_another_cluster_are_found(change: dict[str, str], name: str) -> None:
    site = make_site()
    (finding,) = run(site, Aws(facts=facts_of(site, **change)))
    assert f"differ in {name}" in finding.cause
    assert finding.exit_code == 2


def test_a_cluster_that_eks_does_not_know_is_found() -> None:
    (finding,) = run(make_site(), Aws(facts=None))
    assert finding.exit_code == 7


def test_where_access_entries_are_made_elsewhere_eks_is_not_asked() -> None:
    aws = Aws()
    assert run(make_site(accessEntries="existing"), aws) == ()
    assert "cluster" not in aws.asked


def test_without_node_groups_auto_scaling_is_not_asked() -> None:
    aws = Aws()
    assert run(make_site(nodeGroups=[]), aws) == ()
    assert not {"autoscaling", "cluster"} & set(aws.asked)


def test_another_authority_is_a_definition_and_a_denial_is_access() -> None:
    site = make_site()
    aws = Aws(facts=facts_of(site), failing={"ec2": AccessError("ec2:DescribeVpcs", "was denied")})
    findings = run(site, aws, api=Api(DefinitionError("https://x", "other authority")))
    assert [finding.exit_code for finding in findings] == [2, 4]


def test_being_called_off_is_not_a_finding() -> None:
    with pytest.raises(StoppedError):
        run(make_site(), Aws(failing={"ec2": StoppedError("transfer", "was called off")}))


@dataclass
class Server:
    """An API server of some version."""

    text: str

    def version(self) -> str:
        return self.text


@pytest.mark.parametrize("server", ["v1.36.0", "v1.36.3-eks-a1b2c3d", "v1.39.1"])
def test_a_cluster_of_the_bundles_version_or_up_to_three_newer_is_taken(server: str) -> None:
    assert check_version("1.36", cluster=Server(server)) == server


@pytest.mark.parametrize(
    ("server", "cause"),
    [("v1.35.9-eks-1", "must not be newer than the API server"), ("v1.40.0", "more than 3 minor versions older")],
)
def test_a_cluster_that_the_bundle_does_not_fit_is_refused(server: str, cause: str) -> None:
    with pytest.raises(ConflictError, match=cause) as caught:
        check_version("1.36", cluster=Server(server))
    assert caught.value.exit_code == 7
    assert server in caught.value.cause


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(FormatError):
        check_version("1.36", cluster=Server("nobody knows"))
