"""The lab's cluster against the real API server: tokens, nodes, pods. Nodes and pods are kwok's, status only."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bundler.lab.kube_api import KubeApi
from bundler.lab.kube_audit import mutating_requests
from bundler.lab.kubernetes import KubernetesFacts
from bundler.lab.lab import CLUSTER, LabFacts, LabOptions, lab
from bundler.lab.seed import NODE_ROLE
from bundler.lab.tools import Tools

pytestmark = [pytest.mark.cluster, pytest.mark.loopback]
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


@dataclass(frozen=True, kw_only=True)
class World:
    """A running lab, its operator's credentials, and the administrator's client."""

    facts: LabFacts
    operator: Credentials
    api: KubeApi

    @property
    def kubernetes(self) -> KubernetesFacts:
        assert self.facts.kubernetes is not None
        return self.facts.kubernetes

    def client(self, service: str) -> Any:
        key = self.operator
        session = boto3.Session(key.access_key, key.secret_key, region_name=self.facts.region)
        return session.client(service, endpoint_url=self.facts.aws_url)


@pytest.fixture(scope="module")
def world(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with lab(tmp_path_factory.mktemp("lab"), LabOptions(kubernetes=True, source=False, assets=assets)) as facts:
        lines = dict(line.split(" = ") for line in facts.credentials_file.read_text().splitlines()[1:])
        operator = Credentials(lines["aws_access_key_id"], lines["aws_secret_access_key"])
        assert facts.kubernetes is not None
        api = facts.kubernetes.admin_api()
        yield World(facts=facts, operator=operator, api=api)
        api.close()


def eventually(what: Callable[[], bool], *, limit_s: float = 30) -> bool:
    ends = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


# --- the API, by certificate


def test_kubectl_of_the_administrator_reads_a_ready_cluster(world: World, tools: Tools) -> None:
    done = subprocess.run(
        [tools.kubectl.path, "get", "service,clusterrolebinding", "kubernetes", "--ignore-not-found", "-o", "name"],
        env={**os.environ, "KUBECONFIG": str(world.kubernetes.admin_kubeconfig)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["service/kubernetes"]), done.stderr
    assert world.api.is_ready()
    assert world.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"] == "10.100.0.1"


def test_keys_and_logs_of_the_control_plane_are_for_their_owner_alone(world: World) -> None:
    for path in (world.kubernetes.admin_key, world.kubernetes.admin_kubeconfig):
        assert path.stat().st_mode & 0o077 == 0
    assert (world.facts.state / "kubernetes").stat().st_mode & 0o077 == 0


# --- tokens


def token(
    key: Credentials, *, cluster: str = CLUSTER, host: str = "", region: str = "eu-central-1",
    action: str = "GetCallerIdentity", age_s: int = 0,
) -> str:  # fmt: skip
    """Make a token as `aws eks get-token` makes it, by botocore's own signer and not by ours."""
    host = host or f"sts.{region}.amazonaws.com"
    url = f"https://{host}/?Action={action}&Version=2011-06-15"
    request = AWSRequest(method="GET", url=url, headers={"x-k8s-aws-id": cluster, "host": host})
    signer = _AgedSigner(key, "sts", region, expires=60)
    signer.age_s = age_s
    signer.add_auth(request)
    return "k8s-aws-v1." + base64.urlsafe_b64encode(request.prepare().url.encode()).decode().rstrip("=")


class _AgedSigner(SigV4QueryAuth):
    age_s = 0

    def add_auth(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self._then()
        self._modify_request_before_signing(request)
        string_to_sign = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(string_to_sign, request))

    def _then(self) -> str:
        return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=self.age_s)).strftime("%Y%m%dT%H%M%SZ")


def ask(
    world: World, bearer: str, path: str = "/api/v1/namespaces", method: str = "GET", body: object = None
) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(ca_certs=str(world.kubernetes.ca_file), retries=False) as pool:
        return pool.request(
            method,
            world.kubernetes.endpoint + path,
            headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body),
        )


def who_am_i(world: World, bearer: str) -> dict[str, Any]:
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = ask(world, bearer, path, "POST", review)
    assert answer.status == 201, answer.data
    found: dict[str, Any] = answer.json()["status"]["userInfo"]
    return found


def test_token_of_the_operator_is_taken_and_administers(world: World) -> None:
    assert ask(world, token(world.operator)).status == 200
    user = who_am_i(world, token(world.operator))
    assert user["username"] == "arn:aws:iam::111122223333:user/lab-operator"
    assert "eks-access-policy:cluster-admin" in user["groups"]
    assert user["extra"]["accessKeyId"] == [world.operator.access_key]


def tampered(world: World) -> str:
    text = token(world.operator).removeprefix("k8s-aws-v1.")
    url = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    forged = url[:-1] + ("0" if url[-1] != "0" else "1")
    return "k8s-aws-v1." + base64.urlsafe_b64encode(forged.encode()).decode().rstrip("=")


REFUSED: dict[str, Callable[[World], str]] = {
    "unknown key": lambda world: token(Credentials("AKIAUNKNOWN000000000", "x" * 40)),
    "wrong secret": lambda world: token(Credentials(world.operator.access_key, "x" * 40)),
    "tampered": tampered,
    "expired": lambda world: token(world.operator, age_s=16 * 60),
    "other cluster": lambda world: token(world.operator, cluster="other"),
    "other host": lambda world: token(world.operator, host="sts.evil.example"),
    "other region": lambda world: token(world.operator, region="us-east-1"),
    "other action": lambda world: token(world.operator, action="GetSessionToken"),
    "no prefix": lambda world: token(world.operator).removeprefix("k8s-aws-v1."),
    "padded": lambda world: token(world.operator) + "=",
    "too large": lambda world: token(world.operator) + "A" * 5000,
    "not a url": lambda world: "k8s-aws-v1.AAAA",
    "nothing": lambda world: "k8s-aws-v1.",
}


@pytest.mark.parametrize("case", REFUSED)
def test_token_that_eks_would_not_take_is_refused(world: World, case: str) -> None:
    assert ask(world, REFUSED[case](world)).status == 401


def test_caller_without_an_access_entry_is_nobody(world: World) -> None:
    key = new_user(world, "stranger")
    assert ask(world, token(key)).status == 401


def test_access_entry_without_a_policy_is_somebody_who_may_nothing(world: World) -> None:
    key = new_user(world, "reader")
    arn = "arn:aws:iam::111122223333:user/reader"
    world.client("eks").create_access_entry(clusterName=CLUSTER, principalArn=arn, kubernetesGroups=["readers"])
    assert ask(world, token(key)).status == 403
    assert "readers" in who_am_i(world, token(key))["groups"]


def test_assumed_role_is_known_by_its_role_even_one_with_a_path(world: World) -> None:
    iam, sts, eks = (world.client(name) for name in ("iam", "sts", "eks"))
    arn = iam.create_role(RoleName="deployer", Path="/team/", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    assert arn.endswith("role/team/deployer")
    session = sts.assume_role(RoleArn=arn, RoleSessionName="ci@build")["Credentials"]
    key = Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
    assert ask(world, token(key)).status == 401
    eks.create_access_entry(clusterName=CLUSTER, principalArn=arn, username="ci:{{SessionName}}")
    assert eventually(lambda: ask(world, token(key)).status == 403)
    eks.associate_access_policy(
        clusterName=CLUSTER, principalArn=arn, accessScope={"type": "cluster"},
        policyArn="arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy",
    )  # fmt: skip
    assert eventually(lambda: ask(world, token(key)).status == 200)
    assert who_am_i(world, token(key))["username"] == "ci:ci-build"


def new_user(world: World, name: str) -> Credentials:
    iam = world.client("iam")
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def test_audit_log_counts_what_token_users_write_and_nothing_else(world: World) -> None:
    audit = world.facts.state / "kubernetes" / "audit.jsonl"
    before = len(mutating_requests(audit))
    bearer, path = token(world.operator), "/api/v1/namespaces/default/configmaps"
    value = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "audited"}}
    assert ask(world, bearer, f"{path}?dryRun=All", "POST", value).status == 201
    assert ask(world, bearer, path).status == 200
    who_am_i(world, bearer)
    world.api.create(path, {**value, "metadata": {"name": "by-the-lab"}})
    assert ask(world, bearer, path, "POST", value).status == 201
    assert ask(world, bearer, path, "POST", value).status == 409
    assert ask(world, bearer, f"{path}/audited", "DELETE").status == 200
    written = mutating_requests(audit)[before:]
    assert [(one.verb, one.status) for one in written] == [("create", 201), ("create", 409), ("delete", 200)]
    assert {one.user for one in written} == {"arn:aws:iam::111122223333:user/lab-operator"}


# --- nodes


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What a node group's user data says, and which profile its instances have."""

    name: str
    endpoint: str
    authority: str
    cidr: str
    profile: str = NODE_ROLE
    flags: tuple[str, ...] = ()

    def user_data(self) -> str:
        spec = {
            "cluster": {
                "name": self.name, "apiServerEndpoint": self.endpoint, "certificateAuthority": self.authority,
                "cidr": self.cidr,
            },
            "kubelet": {"flags": list(self.flags), "config": {"maxPods": 17}},
        }  # fmt: skip
        config = {"apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": spec}
        head = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\n'
        part = f"--B\nContent-Type: application/node.eks.aws\n\n{json.dumps(config)}\n--B--\n"
        return base64.b64encode((head + part).encode()).decode()


@dataclass(frozen=True, kw_only=True)
class Booted:
    """Instances by case."""

    groups: dict[str, str]
    instances: dict[str, str]


OTHER_CA = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nT1RIRVI=\n-----END CERTIFICATE-----\n").decode()
WRONG = {
    "endpoint": ("is not this cluster's", {"endpoint": "https://127.0.0.1:1"}),
    "authority": ("x509: certificate signed by unknown authority", {"authority": OTHER_CA}),
    "cidr": ("cidr '172.20.0.0/16' is not this cluster's", {"cidr": "172.20.0.0/16"}),
    "name": ("Unauthorized: token is signed for cluster 'other'", {"name": "other"}),
    "missing": ("CIDR is missing in cluster configuration", {"cidr": ""}),
    "label": ("unknown 'kubernetes.io' or 'k8s.io' labels", {"flags": ("--node-labels=node-role.kubernetes.io/x=",)}),
    "entry": ("no access entry of type EC2_LINUX", {"profile": "no-entry"}),
}


@pytest.fixture(scope="module")
def booted(world: World) -> Booted:
    """One Auto Scaling group with one instance for each case, the right one among them."""
    iam, eks = world.client("iam"), world.client("eks")
    iam.create_role(RoleName="no-entry", AssumeRolePolicyDocument=TRUST)
    iam.create_instance_profile(InstanceProfileName="no-entry")
    iam.add_role_to_instance_profile(InstanceProfileName="no-entry", RoleName="no-entry")
    node_role = f"arn:aws:iam::111122223333:role/{NODE_ROLE}"
    eks.create_access_entry(clusterName=CLUSTER, principalArn=node_role, type="EC2_LINUX")
    flags = ("--node-labels=pool=main", "--register-with-taints=bundle.unverified=true:NoSchedule")
    facts = world.kubernetes
    right = Boot(
        name=CLUSTER, endpoint=facts.endpoint, authority=facts.certificate_authority,
        cidr=facts.service_cidr, flags=flags,
    )  # fmt: skip
    cases = {case: replace(right, **changes) for case, (_, changes) in WRONG.items()}
    groups = {case: boot(world, case, config) for case, config in {"right": right, **cases}.items()}
    return Booted(groups=groups, instances={case: instances_of(world, name)[0] for case, name in groups.items()})


def boot(world: World, case: str, config: Boot) -> str:
    ec2, scaling = world.client("ec2"), world.client("autoscaling")
    image = ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
    data = {
        "ImageId": image, "InstanceType": "m6i.large", "UserData": config.user_data(),
        "IamInstanceProfile": {"Name": config.profile},
    }  # fmt: skip
    ec2.create_launch_template(LaunchTemplateName=f"lt-{case}", LaunchTemplateData=data)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=f"group-{case}", MinSize=0, MaxSize=2, DesiredCapacity=1, VPCZoneIdentifier=subnet,
        LaunchTemplate={"LaunchTemplateName": f"lt-{case}", "Version": "1"},
    )  # fmt: skip
    return f"group-{case}"


def instances_of(world: World, group: str) -> list[str]:
    found = world.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    return [instance["InstanceId"] for instance in found["AutoScalingGroups"][0]["Instances"]]


def node_of(world: World, instance: str) -> dict[str, Any] | None:
    nodes: list[dict[str, Any]] = world.api.get("/api/v1/nodes")["items"]
    return next((node for node in nodes if node["spec"].get("providerID", "").endswith(f"/{instance}")), None)


def nodes_log(world: World) -> str:
    path = world.facts.state / "kubernetes" / "nodes.log"
    return path.read_text() if path.exists() else ""


def condition(thing: dict[str, Any], kind: str) -> str | None:
    conditions = thing["status"].get("conditions", [])
    return next((one["status"] for one in conditions if one["type"] == kind), None)


def test_instance_with_the_right_user_data_becomes_a_node(world: World, booted: Booted) -> None:
    instance = booted.instances["right"]
    assert eventually(lambda: node_of(world, instance) is not None), nodes_log(world)
    node = node_of(world, instance)
    assert node is not None
    machine = world.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert node["metadata"]["name"] == machine["PrivateDnsName"]
    assert node["spec"]["providerID"] == f"aws:///{machine['Placement']['AvailabilityZone']}/{instance}"
    labels = node["metadata"]["labels"]
    assert labels["kubernetes.io/arch"] == "amd64"
    assert labels["node.kubernetes.io/instance-type"] == "m6i.large"
    assert labels["pool"] == "main"
    taints = [(taint["key"], taint.get("value"), taint["effect"]) for taint in node["spec"]["taints"]]
    assert ("bundle.unverified", "true", "NoSchedule") in taints
    assert node["status"]["allocatable"]["pods"] == "17"
    assert node["status"]["nodeInfo"]["kubeletVersion"] == world.kubernetes.version
    assert node["metadata"]["annotations"]["lab.eks-bundler.io/stand-in"] == "status only, no containers"


@pytest.fixture(scope="module")
def settled(world: World, booted: Booted) -> None:
    """The right instance has joined, every other one was looked at, and the agent has had three more looks."""
    assert eventually(lambda: node_of(world, booted.instances["right"]) is not None), nodes_log(world)
    wrong = [booted.instances[case] for case in WRONG]
    assert eventually(lambda: all(f" {instance} did not join: " in nodes_log(world) for instance in wrong))
    time.sleep(1.5)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("case", WRONG)
def test_instance_that_a_real_cluster_would_not_get_never_joins(world: World, booted: Booted, case: str) -> None:
    instance, (reason, _) = booted.instances[case], WRONG[case]
    line = next(line for line in nodes_log(world).splitlines() if instance in line)
    assert reason in line
    assert node_of(world, instance) is None


def test_node_joins_once_its_role_gets_an_access_entry(world: World, booted: Booted) -> None:
    group = boot(world, "late", right_boot(world, profile="late"))
    instance = instances_of(world, group)[0]
    assert eventually(lambda: f" {instance} did not join: " in nodes_log(world))
    arn = "arn:aws:iam::111122223333:role/late"
    world.client("eks").create_access_entry(clusterName=CLUSTER, principalArn=arn, type="EC2_LINUX")
    assert eventually(lambda: node_of(world, instance) is not None), nodes_log(world)


def test_node_of_a_terminated_instance_is_deleted(world: World, booted: Booted) -> None:
    group = boot(world, "short", right_boot(world))
    instance = instances_of(world, group)[0]
    assert eventually(lambda: node_of(world, instance) is not None), nodes_log(world)
    world.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=0)
    assert eventually(lambda: node_of(world, instance) is None)


def right_boot(world: World, *, profile: str = NODE_ROLE) -> Boot:
    if profile != NODE_ROLE:
        iam = world.client("iam")
        iam.create_role(RoleName=profile, AssumeRolePolicyDocument=TRUST)
        iam.create_instance_profile(InstanceProfileName=profile)
        iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=profile)
    facts = world.kubernetes
    authority = facts.certificate_authority
    return Boot(name=CLUSTER, endpoint=facts.endpoint, authority=authority, cidr=facts.service_cidr, profile=profile)


# --- pods


def push_image(world: World, repository: str) -> str:
    """Give the embedded ECR a tiny image; return its private reference by digest."""
    ecr = world.client("ecr")
    ecr.create_repository(repositoryName=repository)
    login = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    base = f"https://{world.facts.ecr_address}/v2/{repository}"
    headers = {"Authorization": f"Basic {login}"}
    layer = repository.encode() * 10
    diff = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
    ).encode()
    with urllib3.PoolManager(ca_certs=str(world.facts.ca_file), retries=False) as pool:
        for blob in (layer, config):
            started = pool.request("POST", f"{base}/blobs/uploads/", headers=headers)
            where = urllib3.util.parse_url(started.headers["Location"]).request_uri
            digest = "sha256:" + hashlib.sha256(blob).hexdigest()
            join = "&" if "?" in where else "?"
            url = f"https://{world.facts.ecr_address}{where}{join}digest={digest}"
            assert pool.request("PUT", url, headers=headers, body=blob).status == 201
        manifest = json.dumps(
            {
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": described("application/vnd.oci.image.config.v1+json", config),
                "layers": [described("application/vnd.oci.image.layer.v1.tar", layer)],
            }
        ).encode()  # fmt: skip
        kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        put = pool.request("PUT", f"{base}/manifests/1", headers={**headers, **kind}, body=manifest)
        assert put.status == 201, put.data
    return f"{world.facts.registry_host}/{repository}@sha256:{hashlib.sha256(manifest).hexdigest()}"


def described(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(blob).hexdigest(), "size": len(blob)}


def workload(kind: str, name: str, image: str, *, host_network: bool = False) -> dict[str, Any]:
    labels = {"app": name}
    pod: dict[str, Any] = {
        "tolerations": [{"operator": "Exists"}] if host_network else [{"key": "bundle.unverified"}],
        "hostNetwork": host_network,
        "containers": [{"name": "main", "image": image}],
    }
    claims = {"lab.eks-bundler.io/pulled": "true", "lab.eks-bundler.io/Pulled": "true"}
    template = {"metadata": {"labels": labels, "annotations": claims}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def pods_of(world: World, namespace: str, app: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"app={app}")[
        "items"
    ]
    return found


def is_ready(pod: dict[str, Any]) -> bool:
    return condition(pod, "Ready") == "True"


@pytest.fixture(scope="module")
def networked(world: World, booted: Booted) -> str:
    """A node that has become Ready because its network plugin runs; return the plugin's image."""
    image = push_image(world, "closed/aws-node")
    assert eventually(lambda: node_of(world, booted.instances["right"]) is not None)
    node = node_of(world, booted.instances["right"])
    assert node is not None
    assert condition(node, "Ready") == "False", "no network plugin runs yet"
    plugin = workload("DaemonSet", "aws-node", image, host_network=True)
    world.api.create("/apis/apps/v1/namespaces/kube-system/daemonsets", plugin)
    return image


def test_node_becomes_ready_only_when_its_network_plugin_runs(world: World, booted: Booted, networked: str) -> None:
    def ready() -> bool:
        node = node_of(world, booted.instances["right"])
        return node is not None and condition(node, "Ready") == "True"

    assert eventually(ready)
    assert all(is_ready(pod) for pod in pods_of(world, "kube-system", "aws-node"))


def test_pod_by_digest_from_the_private_registry_becomes_ready(world: World, networked: str) -> None:
    world.api.create("/apis/apps/v1/namespaces/default/deployments", workload("Deployment", "inside", networked))
    assert eventually(lambda: [is_ready(pod) for pod in pods_of(world, "default", "inside")] == [True])
    status = pods_of(world, "default", "inside")[0]["status"]["containerStatuses"][0]
    assert status["imageID"] == networked


OUTSIDE = {
    "public": lambda image: "registry.k8s.io/pause:3.10",
    "short": lambda image: "nginx",
    "digest": lambda image: image[:-64] + "0" * 64,
    "repository": lambda image: image.replace("aws-node", "absent"),
    "tag": lambda image: image.partition("@")[0] + ":2",
}


@pytest.fixture(scope="module")
def outside(world: World, networked: str) -> None:
    """A workload for each image that is not in the registry, all looked at by the agent more than once."""
    for case, image in OUTSIDE.items():
        deployment = workload("Deployment", f"outside-{case}", image(networked))
        world.api.create("/apis/apps/v1/namespaces/default/deployments", deployment)

    def waiting() -> bool:
        pods = [pods_of(world, "default", f"outside-{case}") for case in OUTSIDE]
        return all(found and "containerStatuses" in found[0]["status"] for found in pods)

    assert eventually(waiting)
    time.sleep(1.5)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("case", OUTSIDE)
def test_pod_with_an_image_that_the_registry_lacks_never_becomes_ready(world: World, case: str) -> None:
    (pod,) = pods_of(world, "default", f"outside-{case}")
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    assert not is_ready(pod)


def test_pod_becomes_ready_when_its_image_arrives_later(world: World, networked: str) -> None:
    image = f"{world.facts.registry_host}/closed/later:1"
    world.api.create("/apis/apps/v1/namespaces/default/deployments", workload("Deployment", "later", image))
    assert eventually(lambda: [condition(pod, "Ready") for pod in pods_of(world, "default", "later")] == ["False"])
    push_image(world, "closed/later")
    assert eventually(lambda: [is_ready(pod) for pod in pods_of(world, "default", "later")] == [True])
