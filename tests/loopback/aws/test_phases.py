"""Install phases against the lab's AWS: what they write, and that a third run writes nothing."""

from __future__ import annotations

import base64
import time

import pytest

from bundler.adapters.aws.autoscaling import AutoScaling
from bundler.adapters.aws.clients import Aws, AwsSettings, site_endpoints
from bundler.adapters.aws.ec2 import Ec2
from bundler.adapters.aws.ecr import EcrTokens
from bundler.adapters.aws.eks import Eks
from bundler.adapters.aws.iam import Iam
from bundler.adapters.aws.probe import AwsProbe
from bundler.adapters.http import Transport, TransportSettings
from bundler.adapters.oci_registry import RegistryClient
from bundler.adapters.tls_probe import TlsProbe
from bundler.domain.cluster_node import ClusterNode
from bundler.domain.digest import Digest
from bundler.domain.infrastructure import Infrastructure
from bundler.domain.plan import Plan
from bundler.domain.site import Site
from bundler.errors import AccessError, ConflictError, FindingsError, NetworkError
from bundler.lab.user_data import parse_user_data
from bundler.retry import Patience
from bundler.stages.check_nodes import check_nodes
from bundler.stages.identity import identity, observe_identity
from bundler.stages.infrastructure import infrastructure
from bundler.stages.nodes import nodes, observe_nodes, plan_nodes
from bundler.stages.preflight import Probes, preflight
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback
BUNDLE = Digest.of(b"bundle")


def renamed(site: Site, group: str) -> Site:
    """The same site with another name for its node group: the lab is shared."""
    return site.model_copy(update={"node_groups": (site.node_groups[0].model_copy(update={"name": group}),)})


def adopt(closed: Closed, site: Site) -> Infrastructure:
    aws = closed.aws
    return infrastructure(site, network=Ec2(aws.service("ec2")), profiles=Iam(aws.service("iam")))


def run_nodes(closed: Closed, site: Site) -> Plan:
    templates, groups = Ec2(closed.aws.service("ec2")), AutoScaling(closed.aws.service("autoscaling"))
    found = observe_nodes(site, templates=templates, groups=groups)
    plan = plan_nodes(site, bundle=BUNDLE, images=adopt(closed, site).images, found=found)
    nodes(plan, templates=templates, groups=groups)
    return plan.plan


def test_what_the_site_names_exists_and_fits(closed: Closed) -> None:
    facts = adopt(closed, closed.site)
    (image,) = facts.images.values()
    assert (image.state, image.architecture, image.root_device, image.root_gib) == (
        "available",
        "amd64",
        "/dev/xvda",
        8,
    )


def test_what_does_not_exist_is_named_all_at_once(closed: Closed) -> None:
    group = closed.site.node_groups[0].model_copy(
        update={
            "ami": "ami-00000000000000000",
            "instance_type": "m6i.huge",
            "security_groups": ("sg-00000000000000000",),
            "instance_profile": closed.site.node_groups[0].instance_profile + "-none",
        }
    )
    changes = {"vpc": "vpc-00000000000000000", "subnets": ("subnet-00000000000000000",), "node_groups": (group,)}
    with pytest.raises(FindingsError) as caught:
        adopt(closed, closed.site.model_copy(update=changes))
    for name in ("vpc-0", "subnet-0", "sg-0", "ami-0", "m6i.huge", "lab-node-none"):
        assert name in caught.value.cause


def test_node_groups_are_made_once_and_then_left_alone(fresh_closed: Closed) -> None:
    site = fresh_closed.site
    eks = Eks(fresh_closed.aws.service("eks"), cluster=site.cluster.name)
    entry = observe_identity(site, access=eks)
    identity(entry, site, bundle=BUNDLE, access=eks, sleep=time.sleep)
    assert len(entry.plan.actions) == 1
    assert len(run_nodes(fresh_closed, site).actions) == 2
    written = fresh_closed.written()
    assert [name for name in written if name in ("CreateAccessEntry", "CreateLaunchTemplate")] == [
        "CreateAccessEntry",
        "CreateLaunchTemplate",
    ]
    for _ in range(2):
        assert observe_identity(site, access=eks).plan.empty
        assert run_nodes(fresh_closed, site).empty
    assert fresh_closed.written() == written


def test_instances_start_with_what_a_node_needs(closed: Closed) -> None:
    site = renamed(closed.site, "facts")
    run_nodes(closed, site)
    group = AutoScaling(closed.aws.service("autoscaling")).group("lab-facts")
    assert group is not None
    assert [instance.state for instance in group.instances] == ["InService", "InService"]
    ec2 = closed.aws.service("ec2")
    attribute = ec2.call("DescribeInstanceAttribute", InstanceId=group.instances[0].id, Attribute="userData")
    config = parse_user_data(base64.b64decode(attribute["UserData"]["Value"]))
    assert (config.name, config.endpoint, config.cidr) == (
        site.cluster.name,
        site.cluster.endpoint,
        site.cluster.service_cidr,
    )
    assert config.authority_pem == site.cluster.ca_pem
    (reservation,) = ec2.call("DescribeInstances", InstanceIds=[group.instances[0].id])["Reservations"]
    (instance,) = reservation["Instances"]
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["bundle:cluster"] == "lab"
    assert tags["kubernetes.io/cluster/lab"] == "owned"
    assert "PublicIpAddress" not in instance
    assert instance["MetadataOptions"]["HttpTokens"] == "required"


def test_a_changed_site_makes_a_version_and_never_touches_desired(closed: Closed) -> None:
    site = renamed(closed.site, "change")
    run_nodes(closed, site)
    scaling = closed.aws.service("autoscaling")
    scaling.call("SetDesiredCapacity", AutoScalingGroupName="lab-change", DesiredCapacity=3)
    changed = site.node_groups[0].model_copy(update={"hop_limit": 2, "max_size": 7, "desired_size": 1})
    site = site.model_copy(update={"node_groups": (changed,)})
    assert [action.verb for action in run_nodes(closed, site)] == ["update", "update"]
    group = AutoScaling(scaling).group("lab-change")
    assert group is not None
    assert (group.desired, group.max_size, group.version) == (3, 7, "2")
    assert run_nodes(closed, site).empty


def test_a_template_that_somebody_else_made_is_refused(closed: Closed) -> None:
    site = renamed(closed.site, "foreign")
    closed.aws.service("ec2").call(
        "CreateLaunchTemplate", LaunchTemplateName="lab-foreign", LaunchTemplateData={"InstanceType": "m6i.large"}
    )
    with pytest.raises(ConflictError, match="launch template lab-foreign"):
        run_nodes(closed, site)


def test_a_denied_action_is_named(closed: Closed) -> None:
    closed.fault("ec2", "CreateLaunchTemplate", "denied")
    with pytest.raises(AccessError, match="ec2:CreateLaunchTemplate"):
        run_nodes(closed, renamed(closed.site, "denied"))


def test_a_write_whose_answer_was_lost_is_not_done_twice(closed: Closed) -> None:
    site = renamed(closed.site, "lost")
    closed.fault("autoscaling", "CreateAutoScalingGroup", "reset")
    run_nodes(closed, site)
    assert run_nodes(closed, site).empty


def test_throttling_passes(closed: Closed) -> None:
    closed.fault("ec2", "DescribeVpcs", "throttled", times=2)
    adopt(closed, closed.site)


class Joined:
    """A cluster in which every instance of a group is a node."""

    def __init__(self, groups: AutoScaling, name: str) -> None:
        self._groups = groups
        self._name = name

    def nodes(self) -> list[ClusterNode]:
        group = self._groups.group(self._name)
        return [
            ClusterNode(name=instance.id, provider_id=instance.provider_id, ready=True)
            for instance in (group.instances if group is not None else ())
        ]


def test_nodes_are_found_by_the_instances_of_the_group(closed: Closed) -> None:
    site = renamed(closed.site, "check")
    run_nodes(closed, site)
    groups = AutoScaling(closed.aws.service("autoscaling"))
    cluster = Joined(groups, "lab-check")
    assert check_nodes(site, groups=groups, cluster=cluster, patience=Patience(deadline_s=0)) == 2


def private_registry(closed: Closed) -> RegistryClient:
    """The site's ECR under its own name, at the address that `endpoints: ecr.dkr` says."""
    host, _, port = str(closed.site.endpoints.ecr_dkr).partition(":")
    settings = TransportSettings(
        connect_to={closed.site.registry_host: (host, int(port))}, ca_files=(str(closed.lab.ca_file),)
    )
    return RegistryClient(Transport(settings), provider=EcrTokens(closed.aws))


def run_preflight(closed: Closed) -> dict[str, str]:
    probe = AwsProbe(closed.aws, cluster=closed.site.cluster.name)
    probes = Probes(aws=probe, api=TlsProbe(), registry=private_registry(closed))
    return {finding.check: finding.cause for finding in preflight(closed.site, probes=probes)}


def test_preflight_finds_nothing_where_everything_answers(closed: Closed) -> None:
    before = closed.written()
    assert run_preflight(closed) == {}
    assert closed.written() == before


def test_preflight_takes_a_denial_to_list_buckets_for_an_answer(closed: Closed) -> None:
    closed.fault("s3", "ListBuckets", "denied", times=9)
    closed.fault("autoscaling", "DescribeAutoScalingGroups", "denied", times=9)
    assert list(run_preflight(closed)) == ["Auto Scaling"]


def test_f10_preflight_waits_for_a_service_that_throttles(closed: Closed) -> None:
    endpoints = site_endpoints(closed.site)
    quick = Aws(AwsSettings(region=closed.site.region, endpoints=endpoints, quick=True, sleep=lambda _: None))
    closed.fault("ecr", "GetAuthorizationToken", "throttled", times=4, retry_after_s=1)
    assert run_preflight(Closed(site=closed.site, aws=quick, lab=closed.lab)) == {}
    closed.fault("ecr", "GetAuthorizationToken", "throttled", times=99)
    found = run_preflight(Closed(site=closed.site, aws=quick, lab=closed.lab))
    assert list(found) == ["ECR API", "ECR registry"]
    assert all("busy or failing: ThrottlingException" in cause for cause in found.values())


def test_preflight_finds_every_service_that_is_silent_in_little_time(closed: Closed) -> None:
    dead = "http://127.0.0.1:9"
    endpoints = dict.fromkeys(("ec2", "sts", "s3", "eks", "autoscaling", "ecr", "iam"), dead)
    aws = Aws(AwsSettings(region=closed.site.region, endpoints=endpoints, quick=True))
    broken = Closed(site=closed.site, aws=aws, lab=closed.lab)
    started = time.monotonic()
    found = run_preflight(broken)
    assert list(found) == ["STS", "ECR API", "ECR registry", "S3", "EC2", "Auto Scaling", "EKS", "IAM"]
    assert all(dead in cause for cause in found.values())
    assert time.monotonic() - started < 15


def test_eks_that_does_not_answer_is_network_with_the_endpoint_it_needs(closed: Closed) -> None:
    aws = Aws(AwsSettings(region="ap-northeast-1", endpoints={"eks": "http://127.0.0.1:9"}, quick=True))
    with pytest.raises(NetworkError) as caught:
        Eks(aws.service("eks"), cluster="c").facts()
    assert "endpoint for eks" in caught.value.hint
