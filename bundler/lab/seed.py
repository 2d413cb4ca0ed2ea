"""What the lab's account holds before anybody comes: a closed VPC, a cluster, an AMI; and the site file for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.lab.machines import Network
from bundler.lab.moto_eks import ClusterFacts
from bundler.lab.place import AccessKey, Place

NODE_ROLE = "lab-node"
CLUSTER_ROLE = "lab-cluster"
PREFIX = "closed"
BUILDER = "lab-builder"
ROOT_DEVICE = "/dev/xvda"
_ROOT_GIB = 8
_VPC_CIDR = "10.80.0.0/16"
_SUBNETS = (("a", "10.80.0.0/20"), ("b", "10.80.16.0/20"))
_EC2_TRUST = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},'
    '"Action":"sts:AssumeRole"}]}'
)
_EKS_TRUST = _EC2_TRUST.replace("ec2.amazonaws.com", "eks.amazonaws.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Where AMIs are baked: a VPC whose addresses are this host's, tagged `Name = lab-builder` like what is in it."""

    vpc: str
    subnet: str
    security_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """Ids of what was made."""

    vpc: str
    subnets: tuple[str, ...]
    security_group: str
    bucket: str
    kms_key: str
    role: str
    profile: str
    ami: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the closed side's services are."""

    aws_url: str
    ecr: str


def seed(place: Place, key: AccessKey, *, aws_url: str, cluster: str, version: str) -> Seeded:
    """Fill the account through its own API; the cluster has the Kubernetes `version` (minor)."""
    import boto3

    session = boto3.Session(key.id, key.secret, region_name=place.region)
    clients = {name: session.client(name, endpoint_url=aws_url) for name in ("ec2", "iam", "s3", "kms", "eks")}
    vpc, subnets, group = _network(clients["ec2"], place)
    bucket = f"bundle-carry-{place.account}"
    clients["s3"].create_bucket(Bucket=bucket, **_located(place))
    role, profile = _roles(clients["iam"])
    clients["eks"].create_cluster(
        name=cluster,
        version=version,
        roleArn=role.replace(NODE_ROLE, CLUSTER_ROLE),
        resourcesVpcConfig={
            "subnetIds": list(subnets), "endpointPrivateAccess": True, "endpointPublicAccess": False,
        },
        accessConfig={"authenticationMode": "API_AND_CONFIG_MAP"},
    )  # fmt: skip
    return Seeded(
        vpc=vpc,
        subnets=subnets,
        security_group=group,
        bucket=bucket,
        kms_key=clients["kms"].create_key(Description="lab")["KeyMetadata"]["Arn"],
        role=role,
        profile=profile,
        ami=_image(clients["ec2"], place),
    )


def _located(place: Place) -> dict[str, Any]:
    """us-east-1 is where buckets are that name no Region."""
    return {} if place.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": place.region}}


def seed_builder(place: Place, key: AccessKey, *, aws_url: str, network: Network) -> Builder:
    """Make the VPC where instances can be reached; its security group lets SSH in from inside."""
    import boto3

    ec2 = boto3.Session(key.id, key.secret, region_name=place.region).client("ec2", endpoint_url=aws_url)

    def tags(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": BUILDER}]}]

    vpc = ec2.create_vpc(CidrBlock=network.cidr, TagSpecifications=tags("vpc"))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(
        VpcId=vpc,
        CidrBlock=network.subnet,
        AvailabilityZone=f"{place.region}a",
        TagSpecifications=tags("subnet"),
    )["Subnet"]["SubnetId"]
    group = ec2.create_security_group(
        GroupName=BUILDER,
        Description="builders of the lab",
        VpcId=vpc,
        TagSpecifications=tags("security-group"),
    )["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "127.0.0.0/8"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    return Builder(vpc=vpc, subnet=subnet, security_group=group)


def _network(ec2: Any, place: Place) -> tuple[str, tuple[str, ...], str]:
    vpc = ec2.create_vpc(CidrBlock=_VPC_CIDR)["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    subnets = tuple(
        ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=f"{place.region}{zone}")["Subnet"]["SubnetId"]
        for zone, cidr in _SUBNETS
    )
    group = ec2.create_security_group(GroupName="lab-nodes", Description="nodes of the lab", VpcId=vpc)["GroupId"]
    return vpc, subnets, group


def _roles(iam: Any) -> tuple[str, str]:
    iam.create_role(RoleName=CLUSTER_ROLE, AssumeRolePolicyDocument=_EKS_TRUST)
    role = iam.create_role(RoleName=NODE_ROLE, AssumeRolePolicyDocument=_EC2_TRUST)["Role"]["Arn"]
    profile = iam.create_instance_profile(InstanceProfileName=NODE_ROLE)["InstanceProfile"]["Arn"]
    iam.add_role_to_instance_profile(InstanceProfileName=NODE_ROLE, RoleName=NODE_ROLE)
    return role, profile


def _image(ec2: Any, place: Place) -> str:
    """Register an AMI as an AL2023 one for EKS looks, on an empty snapshot."""
    volume = ec2.create_volume(Size=_ROOT_GIB, AvailabilityZone=f"{place.region}a", VolumeType="gp3")["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume, Description="lab node")["SnapshotId"]
    ec2.delete_volume(VolumeId=volume)
    image: str = ec2.register_image(
        Name="lab-eks-node-al2023-x86_64",
        Architecture="x86_64",
        RootDeviceName=ROOT_DEVICE,
        VirtualizationType="hvm",
        EnaSupport=True,
        ImdsSupport="v2.0",
        BlockDeviceMappings=[
            {
                "DeviceName": ROOT_DEVICE,
                "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True},
            }
        ],
    )["ImageId"]
    return image


def write_credentials(path: Path, key: AccessKey) -> None:
    """Write the operator's key as an AWS shared credentials file (0600)."""
    path.touch(mode=0o600)
    text = f"[default]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\n"
    path.write_text(text, encoding="utf-8")


def site_document(
    place: Place, seeded: Seeded, facts: ClusterFacts, *, cluster: str, addresses: Addresses
) -> dict[str, object]:
    """Return the lab's site.yaml as a document."""
    url = addresses.aws_url
    return {
        "apiVersion": "eks-bundler/v1",
        "kind": "Site",
        "account": place.account,
        "region": place.region,
        "partition": place.partition,
        "vpc": seeded.vpc,
        "subnets": list(seeded.subnets),
        "cluster": {
            "name": cluster,
            "endpoint": facts.endpoint,
            "certificateAuthority": facts.certificate_authority,
            "serviceCidr": facts.service_cidr,
        },
        "registry": {"prefix": PREFIX, "createRepositories": True, "immutable": True, "scanOnPush": False},
        "endpoints": {
            **dict.fromkeys(("ec2", "ebs", "sts", "s3", "eks", "iam", "autoscaling", "ecr.api"), url),
            "ecr.dkr": addresses.ecr,
        },
        "core": "adopt",
        "state": {"s3": f"s3://{seeded.bucket}/state"},
        "nodeGroups": [
            {
                "name": "main",
                "architecture": "amd64",
                "ami": seeded.ami,
                "instanceType": "m6i.large",
                "minSize": 1,
                "maxSize": 4,
                "desiredSize": 2,
                "securityGroups": [seeded.security_group],
                "role": seeded.role,
                "instanceProfile": seeded.profile,
                "volume": {"sizeGiB": 40, "kmsKey": seeded.kms_key},
                "hopLimit": 1,
                "labels": {"pool": "main"},
            }
        ],
    }


def write_site(path: Path, document: dict[str, object]) -> None:
    """Write a site file; every text that YAML would read as a number is quoted."""
    import yaml

    head = "# The site that this lab plays. Written at each start.\n"
    path.write_text(head + yaml.safe_dump(document, sort_keys=False, width=4096), encoding="utf-8")
