"""`bundle install` from S3 into an empty site, and what then runs there. Nodes and pods are kwok's: status only."""

from __future__ import annotations

import base64
import email
import json
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.closed import (
    GROUP,
    NODE_ROLE,
    Closed,
    Pair,
    Site,
    Skopeo,
    Writes,
    command_line,
    containers,
    descendants,
    digest_of,
    eventually,
    image_pairs,
    private,
    tagged_repositories,
    workloads,
)
from tests.peers import lab_key
from tests.terminal import on_a_terminal

pytestmark = [pytest.mark.cluster, pytest.mark.loopback]
CORE = ("DaemonSet/aws-node", "DaemonSet/kube-proxy", "Deployment/coredns")
ACCOUNT_REGISTRY = "111122223333.dkr.ecr.eu-central-1.amazonaws.com"
EKS_TOKEN = b"k8s-aws-v1."
ECR_LOGIN = base64.b64encode(b"AWS:")[:5]  # how every ECR password looks in an Authorization header


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A finished site, what the install printed, and every command line seen while it ran."""

    site: Site
    stdout: bytes
    stderr: bytes
    argv: frozenset[str]

    @property
    def closed(self) -> Closed:
        return self.site.closed


@pytest.fixture(scope="module")
def installed(closed: Closed) -> Installed:
    site = closed.site("installed", f"s3://{closed.facts.bucket}/carried/closed-minimal-1.tar")
    seen: set[str] = set()
    output = site.file.with_name("install")
    process = site.start(output, "-o", "json", "--progress", "json")
    while process.poll() is None:
        seen.update(command_line(pid) for pid in descendants(process.pid))
        time.sleep(0.02)
    stdout, stderr = (output.with_suffix(suffix).read_bytes() for suffix in (".out", ".err"))
    assert process.returncode == 0, stderr[-4000:].decode()
    return Installed(site=site, stdout=stdout, stderr=stderr, argv=frozenset(seen))


# --- images


@pytest.fixture(scope="module")
def pairs(installed: Installed, skopeo: Skopeo, tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    return image_pairs(installed.site, skopeo, tmp_path_factory.mktemp("certificates"))


def test_every_image_in_ecr_is_byte_identical_to_its_source(pairs: list[Pair]) -> None:
    """An index travels raw where all its platforms do; else it names the wanted descriptors of upstream, verbatim."""
    raw = derived = 0
    assert len(pairs) == 7
    for pair in pairs:
        ours, theirs = pair.here(), pair.there()
        if ours == theirs:
            raw += 1
        else:
            derived += 1
            index, upstream = json.loads(ours), json.loads(theirs)
            assert index["annotations"] == {"io.eks-bundler.upstream.digest": digest_of(theirs)}
            assert all(child in upstream["manifests"] for child in index["manifests"])
        kept = json.loads(ours)["manifests"]
        assert {child["platform"]["architecture"] for child in kept} >= {"amd64", "arm64"}
        for child in kept:
            manifest = pair.here(child["digest"])
            assert manifest == pair.there(child["digest"])
            assert digest_of(manifest) == child["digest"]
    assert (raw, derived) == (5, 2), "coredns and pause have a platform more upstream"


def test_every_blob_of_an_image_can_be_pulled_out_of_ecr(pairs: list[Pair], tmp_path: Path) -> None:
    """Skopeo checks each digest while it copies."""
    for pair in pairs:
        pair.pull(tmp_path)


def test_describe_images_tells_the_digests_of_the_source(installed: Installed, pairs: list[Pair]) -> None:
    ecr = installed.closed.aws("ecr")
    for pair in pairs:
        tagged = ecr.describe_images(repositoryName=pair.repository, imageIds=[{"imageTag": pair.tag}])["imageDetails"]
        assert [one["imageDigest"] for one in tagged] == [digest_of(pair.here())]
        held = {one["imageDigest"] for one in ecr.describe_images(repositoryName=pair.repository)["imageDetails"]}
        assert held >= {child["digest"] for child in json.loads(pair.here())["manifests"]}


def test_repositories_are_made_as_the_site_says(installed: Installed) -> None:
    found = installed.closed.aws("ecr").describe_repositories(repositoryNames=list(tagged_repositories(installed.site)))
    assert len(found["repositories"]) == 11
    for one in found["repositories"]:
        assert one["imageTagMutability"] == "IMMUTABLE"
        assert one["imageScanningConfiguration"] == {"scanOnPush": False}


# --- workloads and nodes


def test_workloads_hold_private_digests_only_and_are_ready(installed: Installed) -> None:
    found = workloads(installed.closed)
    assert set(found) == {*CORE, "Deployment/metrics-server"}
    pods = installed.closed.get("pods")
    for thing in (*found.values(), *pods):
        assert private(thing, installed.site), thing["metadata"]["name"]
    for name, workload in found.items():
        status = workload["status"]
        wanted = status.get("desiredNumberScheduled", workload["spec"].get("replicas"))
        assert wanted, name
        assert status.get("numberReady", status.get("readyReplicas")) == wanted, name
    assert len(pods) == 2 + 2 + 2 + 1


def test_images_of_workloads_are_what_ecr_holds_under_the_tags(installed: Installed) -> None:
    ecr = installed.closed.aws("ecr")
    running = {box["image"] for thing in workloads(installed.closed).values() for box in containers(thing)}
    assert len(running) == 6, "all but pause"
    for image in running:
        name, _, digest = image.removeprefix(f"{ACCOUNT_REGISTRY}/").partition("@")
        repository, _, tag = name.partition(":")
        image_id = {"imageTag": tag, "imageDigest": digest} if tag else {"imageDigest": digest}
        assert ecr.batch_get_image(repositoryName=repository, imageIds=[image_id])["images"]


def test_nodes_of_the_group_have_joined_and_are_ready(installed: Installed) -> None:
    (group,) = installed.closed.aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    wanted = {f"aws:///{one['AvailabilityZone']}/{one['InstanceId']}" for one in group["Instances"]}
    nodes = installed.closed.get("nodes")
    assert len(wanted) == 2
    assert {node["spec"]["providerID"] for node in nodes} == wanted
    for node in nodes:
        assert node["metadata"]["labels"]["pool"] == "main"
        assert [one["status"] for one in node["status"]["conditions"] if one["type"] == "Ready"] == ["True"]


def test_auto_scaling_group_is_as_the_site_says(installed: Installed) -> None:
    (group,) = installed.closed.aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (group["AutoScalingGroupName"], group["MinSize"], group["MaxSize"]) == (GROUP, 1, 4)
    assert group["DesiredCapacity"] == 2
    assert sorted(group["VPCZoneIdentifier"].split(",")) == sorted(installed.site.document["subnets"])
    tags = {tag["Key"]: (tag["Value"], tag["PropagateAtLaunch"]) for tag in group["Tags"]}
    assert tags["k8s.io/cluster-autoscaler/enabled"][0] == "true"


@pytest.fixture(scope="module")
def template(installed: Installed) -> dict[str, Any]:
    ec2 = installed.closed.aws("ec2")
    (version,) = ec2.describe_launch_template_versions(LaunchTemplateName=GROUP)["LaunchTemplateVersions"]
    data: dict[str, Any] = version["LaunchTemplateData"]
    return data


def test_launch_template_keeps_instances_closed(installed: Installed, template: dict[str, Any]) -> None:
    group = installed.site.document["nodeGroups"][0]
    (interface,) = template["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is False
    assert interface["Groups"] == group["securityGroups"]
    metadata = template["MetadataOptions"]
    assert (metadata["HttpTokens"], metadata["HttpPutResponseHopLimit"]) == ("required", 1)
    (device,) = template["BlockDeviceMappings"]
    (image,) = installed.closed.aws("ec2").describe_images(ImageIds=[group["ami"]])["Images"]
    assert device["DeviceName"] == image["RootDeviceName"]
    volume = device["Ebs"]
    assert (volume["VolumeType"], volume["VolumeSize"]) == ("gp3", 40)
    assert volume["Encrypted"] is True
    assert volume["DeleteOnTermination"] is True
    assert volume["KmsKeyId"] == group["volume"]["kmsKey"]
    assert "KeyName" not in template


def test_user_data_carries_the_facts_of_the_cluster(installed: Installed, template: dict[str, Any]) -> None:
    """A MIME document with one NodeConfig, as nodeadm reads it: no node has to call eks:DescribeCluster."""
    message = email.message_from_bytes(base64.b64decode(template["UserData"]))
    (part,) = [one for one in message.walk() if one.get_content_type() == "application/node.eks.aws"]
    config = yaml.safe_load(part.get_payload(decode=True))  # type: ignore[arg-type]
    known = installed.site.document["cluster"]
    assert config["apiVersion"] == "node.eks.aws/v1alpha1"
    assert config["spec"]["cluster"] == {
        "name": known["name"],
        "apiServerEndpoint": known["endpoint"],
        "certificateAuthority": known["certificateAuthority"],
        "cidr": known["serviceCidr"],
    }


def test_node_role_has_an_access_entry(installed: Installed) -> None:
    group = installed.site.document["nodeGroups"][0]
    entry = installed.closed.aws("eks").describe_access_entry(clusterName="lab", principalArn=group["role"])
    assert entry["accessEntry"]["type"] == "EC2_LINUX"


def test_report_says_what_kubectl_says(installed: Installed) -> None:
    document = json.loads(installed.stdout)
    assert document["done"] is True
    assert document["report"]["healthy"] is True
    found = {one["workload"]: one for one in document["report"]["workloads"]}
    for name, workload in workloads(installed.closed).items():
        ours = next(one for key, one in found.items() if name.partition("/")[2] in key)
        assert sorted(ours["images"]) == sorted({box["image"] for box in containers(workload)})
    assert len(found) == len(workloads(installed.closed))


def test_what_an_install_tells_machines_is_one_event_a_line_and_holds_the_plan(installed: Installed) -> None:
    events = [json.loads(line) for line in installed.stderr.splitlines()]
    told = [event["text"] for event in events if event["event"] == "Noted"]
    assert "  install release kube-system/metrics-server (not installed)" in told
    assert any("right already." in line for line in told)


def test_a_second_operator_sees_what_the_first_installed(installed: Installed, tmp_path: Path) -> None:
    """Nothing of the first one's host is there but the site file; the journal comes from S3."""
    site, path = installed.site, f"{installed.closed.tools.kubectl.path.parent}:{os.environ['PATH']}"
    elsewhere = replace(site.place, environment={**site.place.environment, "XDG_STATE_HOME": str(tmp_path)})
    writes = Writes(installed.closed.facts)
    shown = json.loads(elsewhere.bundle("status", "--site", str(site.file), "-o", "json", PATH=path).stdout)
    assert shown["bundle"] == "closed-minimal-1"
    assert shown["root"].startswith("sha256:")
    assert shown["serverVersion"].startswith("v1.")
    assert shown["healthy"] is True
    assert writes.seen() == []


# --- secrets


def test_no_command_line_of_an_install_holds_a_secret(installed: Installed) -> None:
    programs = "\n".join(installed.argv)
    for control in (r"/helm\S* upgrade --install", r"/kubectl\S* --kubeconfig", " token --site "):
        assert re.search(control, programs), f"the watch never saw {control!r}"
    for secret in secrets(installed.closed):
        assert secret.decode() not in programs


def test_no_output_and_no_file_of_an_install_holds_a_secret(installed: Installed) -> None:
    files = [path for path in installed.site.state.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"journal.jsonl", "kubeconfig"}
    s3 = installed.closed.aws("s3")
    bucket, _, prefix = installed.site.document["state"]["s3"].removeprefix("s3://").partition("/")
    mirrored = [
        s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
        for one in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    ]
    for content in (installed.stdout, installed.stderr, *mirrored, *(path.read_bytes() for path in files)):
        assert not any(secret in content for secret in secrets(installed.closed))


def secrets(closed: Closed) -> tuple[bytes, ...]:
    return lab_key(closed.facts)[1].encode(), EKS_TOKEN, ECR_LOGIN


def test_state_folder_is_for_its_owner_alone(installed: Installed) -> None:
    (folder,) = (installed.site.state / "eks-bundler" / "sites").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "kubeconfig").stat().st_mode & 0o077 == 0


# --- access


def test_kubeconfig_of_ours_lets_kubectl_in(installed: Installed, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    installed.site.place.bundle("kubeconfig", "--site", str(installed.site.file), "--out", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(secret in path.read_bytes() for secret in secrets(installed.closed))
    who = installed.closed.kubectl("auth", "whoami", "-ojson", kubeconfig=path)
    assert json.loads(who)["status"]["userInfo"]["username"] == "arn:aws:iam::111122223333:user/lab-operator"
    assert len(json.loads(installed.closed.kubectl("get", "nodes", "-ojson", kubeconfig=path))["items"]) == 2


def test_token_is_an_exec_credential_that_ends_within_fifteen_minutes(installed: Installed) -> None:
    shown = json.loads(installed.site.place.bundle("token", "--site", str(installed.site.file)).stdout)
    assert shown["kind"] == "ExecCredential"
    url = base64.urlsafe_b64decode(shown["status"]["token"].removeprefix(EKS_TOKEN.decode()) + "==").decode()
    assert url.startswith("https://sts.eu-central-1.amazonaws.com/?"), "never an endpoint override"
    assert "x-k8s-aws-id" in url


# --- again


def test_second_install_of_a_finished_site_writes_nothing(installed: Installed) -> None:
    writes, before = Writes(installed.closed.facts), installed.closed.histories()
    done = installed.site.install()
    assert "Nothing to do" in done.stdout
    assert writes.seen() == []
    assert installed.closed.histories() == before
    assert before == {name: [(1, "deployed")] for name in before}
    assert len(before) == 4


def test_plan_of_a_finished_site_is_empty_and_ends_with_0(installed: Installed) -> None:
    done = installed.site.plan("--exit-code", "-o", "json")
    shown = json.loads(done.stdout)
    assert shown["actions"] == []
    assert len(shown["unchanged"]) > 10


def test_desired_size_is_left_to_the_autoscaler(installed: Installed) -> None:
    scaling = installed.closed.aws("autoscaling")
    scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=3)
    eventually(lambda: len(installed.closed.get("nodes")) == 3)
    try:
        writes = Writes(installed.closed.facts)
        assert "Nothing to do" in installed.site.install().stdout
        assert writes.seen() == []
        (group,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        assert group["DesiredCapacity"] == 3
    finally:
        scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=2)
        eventually(lambda: len(installed.closed.get("nodes")) == 2)


def test_what_the_shown_plan_did_not_say_is_asked_about_again(installed: Installed) -> None:
    """Between the question and the answer somebody takes the nodes' access entry away."""
    site, eks = installed.site, installed.closed.aws("eks")
    group = {**site.document["nodeGroups"][0], "maxSize": 9}
    changed, answers = site.with_changes("changed.yaml", nodeGroups=[group]), ["n\n", "y\n"]
    writes = Writes(installed.closed.facts)

    def answer() -> str:
        if len(answers) == 2:
            eks.delete_access_entry(clusterName="lab", principalArn=NODE_ROLE)
        return answers.pop()

    shown = on_a_terminal(changed.place, *changed.arguments(), prompt="Go on?", typed=answer, expect=7)
    assert not answers
    assert f"create access entry {NODE_ROLE}" in shown.raw
    assert "changed since the plan was shown" in shown.raw
    written = [line for line in writes.seen() if line.split()[0] not in ("s3",)]
    assert written == ["eks DeleteAccessEntry"]
    done = json.loads(changed.install("-o", "json").stdout)
    assert [(action["verb"], action["target"].split()[0]) for action in done["actions"]] == [
        ("create", "access"),
        ("update", "Auto"),
    ]
    site.install()
