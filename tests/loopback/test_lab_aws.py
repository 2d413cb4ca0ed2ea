"""The lab's AWS, driven with boto3: what moto lacks or gets wrong, and what the tool relies on."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from bundler.adapters.documents import read_document
from bundler.domain.site import Site, parse_site
from bundler.lab.lab import LabFacts
from bundler.lab.request_log import mutations, read_requests
from tests.peers import boto_client, lab_control, lab_key

pytestmark = pytest.mark.loopback
ADMIN = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"


def code_of(call: Callable[..., object], **asked: object) -> str:
    """The code with which AWS refuses a call."""
    with pytest.raises(ClientError) as failed:
        call(**asked)
    return str(failed.value.response["Error"]["Code"])


@pytest.fixture(scope="module")
def site(lab: LabFacts) -> Site:
    return parse_site(read_document(lab.site_file))


def unique(hint: str) -> str:
    return f"{hint}-{uuid.uuid4().hex[:10]}"


# --- who is asking


def test_the_operator_is_known_by_its_key(lab: LabFacts) -> None:
    identity = boto_client(lab, "sts").get_caller_identity()
    assert identity["Account"] == lab.account
    assert identity["Arn"] == "arn:aws:iam::111122223333:user/lab-operator"


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [
        ("sts", "get_caller_identity", "InvalidClientTokenId"),
        ("autoscaling", "describe_auto_scaling_groups", "InvalidClientTokenId"),
        ("ec2", "describe_vpcs", "AuthFailure"),
        ("ecr", "describe_repositories", "UnrecognizedClientException"),
        ("eks", "list_clusters", "UnrecognizedClientException"),
        ("s3", "list_buckets", "InvalidAccessKeyId"),
    ],
)
def test_an_unknown_key_is_refused(lab: LabFacts, service: str, operation: str, code: str) -> None:
    stranger = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "guess"}
    assert code_of(getattr(boto_client(lab, service, **stranger), operation)) == code


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [
        ("sts", "get_caller_identity", "SignatureDoesNotMatch"),
        ("ec2", "describe_vpcs", "AuthFailure"),
        ("ecr", "describe_repositories", "InvalidSignatureException"),
        ("eks", "list_clusters", "InvalidSignatureException"),
        ("s3", "list_buckets", "SignatureDoesNotMatch"),
    ],
)
def test_a_wrong_secret_is_refused(lab: LabFacts, service: str, operation: str, code: str) -> None:
    assert code_of(getattr(boto_client(lab, service, aws_secret_access_key="wrong"), operation)) == code


def test_an_unsigned_call_is_refused(lab: LabFacts) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = urllib3.request("POST", lab.aws_url, body=b"Action=DescribeVpcs", headers=headers)
    assert (answer.status, b"MissingAuthenticationToken" in answer.data) == (403, True)


def test_a_role_can_be_assumed_and_its_keys_work(lab: LabFacts, site: Site) -> None:
    role = site.node_groups[0].role
    keys = boto_client(lab, "sts").assume_role(RoleArn=role, RoleSessionName="i-0abc")["Credentials"]
    given = {"aws_access_key_id": keys["AccessKeyId"], "aws_secret_access_key": keys["SecretAccessKey"]}
    as_role = boto_client(lab, "sts", **given, aws_session_token=keys["SessionToken"])
    assert as_role.get_caller_identity()["Arn"] == "arn:aws:sts::111122223333:assumed-role/lab-node/i-0abc"
    without_token = boto_client(lab, "sts", **given)
    assert code_of(without_token.get_caller_identity) == "InvalidClientTokenId"


# --- EKS tokens: a presigned GetCallerIdentity


def presigned(lab: LabFacts, *, cluster: str, secret: str | None = None, age: dt.timedelta = dt.timedelta()) -> str:
    """The URL in an EKS token, for the Region's own STS host."""
    key, own_secret = lab_key(lab)
    url = f"https://sts.{lab.region}.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15"
    request = AWSRequest(method="GET", url=url, headers={"x-k8s-aws-id": cluster})
    signer = SigV4QueryAuth(Credentials(key, secret or own_secret), "sts", lab.region, expires=60)
    request.context["timestamp"] = (dt.datetime.now(dt.UTC) - age).strftime("%Y%m%dT%H%M%SZ")
    query = signer._modify_request_before_signing  # botocore takes the time of day itself: sign by its parts
    query(request)
    request.url = str(request.url).replace(
        urllib.parse.parse_qs(urllib.parse.urlsplit(str(request.url)).query)["X-Amz-Date"][0],
        request.context["timestamp"],
    )
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return f"{request.url}&X-Amz-Signature={signer.signature(text, request)}"


def ask_sts(lab: LabFacts, url: str, *, cluster: str, accept: str = "application/json") -> urllib3.BaseHTTPResponse:
    """Ask as the API server's token check does: the address is the lab's, the name is the Region's."""
    parts = urllib.parse.urlsplit(url)
    headers = {"Host": parts.netloc, "x-k8s-aws-id": cluster, "Accept": accept}
    return urllib3.request("GET", f"{lab.aws_url}/?{parts.query}", headers=headers, retries=False)


def test_an_eks_token_says_who_signed_it(lab: LabFacts) -> None:
    answer = ask_sts(lab, presigned(lab, cluster="lab"), cluster="lab")
    result = answer.json()["GetCallerIdentityResponse"]["GetCallerIdentityResult"]
    assert (result["Account"], result["Arn"]) == (lab.account, "arn:aws:iam::111122223333:user/lab-operator")


def test_sts_answers_in_xml_unless_json_is_asked_for(lab: LabFacts) -> None:
    answer = ask_sts(lab, presigned(lab, cluster="lab"), cluster="lab", accept="*/*")
    assert b"<Arn>arn:aws:iam::111122223333:user/lab-operator</Arn>" in answer.data


def test_a_token_for_another_cluster_is_refused(lab: LabFacts) -> None:
    answer = ask_sts(lab, presigned(lab, cluster="other"), cluster="lab")
    assert (answer.status, b"SignatureDoesNotMatch" in answer.data) == (403, True)


def test_a_token_signed_with_another_key_is_refused(lab: LabFacts) -> None:
    answer = ask_sts(lab, presigned(lab, cluster="lab", secret="not the operator's"), cluster="lab")
    assert answer.status == 403


def test_a_token_lives_fifteen_minutes_whatever_it_says(lab: LabFacts) -> None:
    young = ask_sts(lab, presigned(lab, cluster="lab", age=dt.timedelta(minutes=14)), cluster="lab")
    old = ask_sts(lab, presigned(lab, cluster="lab", age=dt.timedelta(minutes=16)), cluster="lab")
    assert (young.status, old.status) == (200, 403)


# --- the cluster and its access entries


def test_the_cluster_says_what_the_site_file_says(lab: LabFacts, site: Site) -> None:
    cluster = boto_client(lab, "eks").describe_cluster(name="lab")["cluster"]
    assert cluster["endpoint"] == site.cluster.endpoint
    assert base64.b64decode(cluster["certificateAuthority"]["data"]) == site.cluster.ca_pem
    assert cluster["kubernetesNetworkConfig"]["serviceIpv4Cidr"] == site.cluster.service_cidr
    assert cluster["accessConfig"]["authenticationMode"] == "API_AND_CONFIG_MAP"


def test_the_endpoint_has_a_certificate_of_the_clusters_authority(site: Site) -> None:
    context = ssl.create_default_context(cadata=site.cluster.ca_pem.decode())
    with urllib3.PoolManager(ssl_context=context) as pool:
        assert pool.request("GET", f"{site.cluster.endpoint}/readyz", retries=False).status == 401


def test_an_entry_for_nodes_has_their_groups_and_names(lab: LabFacts) -> None:
    iam, eks, name = boto_client(lab, "iam"), boto_client(lab, "eks"), unique("node")
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    eks.create_access_entry(clusterName="lab", principalArn=role, type="EC2_LINUX", tags={"bundle": "x"})
    entry = eks.describe_access_entry(clusterName="lab", principalArn=role)["accessEntry"]
    assert (entry["type"], entry["kubernetesGroups"]) == ("EC2_LINUX", ["system:nodes"])
    assert entry["username"] == "system:node:{{EC2PrivateDNSName}}"
    assert entry["tags"] == {"bundle": "x"}
    assert role in eks.list_access_entries(clusterName="lab")["accessEntries"]
    create = {"clusterName": "lab", "principalArn": role, "type": "EC2_LINUX"}
    assert code_of(eks.create_access_entry, **create) == "ResourceInUseException"
    policy = {"policyArn": ADMIN, "accessScope": {"type": "cluster"}}
    refused = code_of(eks.associate_access_policy, clusterName="lab", principalArn=role, **policy)
    assert refused == "InvalidRequestException"
    eks.delete_access_entry(clusterName="lab", principalArn=role)
    gone = code_of(eks.describe_access_entry, clusterName="lab", principalArn=role)
    assert gone == "ResourceNotFoundException"


def test_a_role_with_a_path_has_an_entry_of_its_own(lab: LabFacts) -> None:
    iam, eks, name = boto_client(lab, "iam"), boto_client(lab, "eks"), unique("node")
    role = iam.create_role(RoleName=name, Path="/team/data/", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    eks.create_access_entry(clusterName="lab", principalArn=role, type="EC2_LINUX")
    assert eks.describe_access_entry(clusterName="lab", principalArn=role)["accessEntry"]["principalArn"] == role


def test_an_entry_needs_somebody_to_be_for(lab: LabFacts) -> None:
    eks, nobody = boto_client(lab, "eks"), "arn:aws:iam::111122223333:role/nobody"
    asked = {"clusterName": "lab", "principalArn": nobody, "type": "EC2_LINUX"}
    assert code_of(eks.create_access_entry, **asked) == "InvalidParameterException"
    unknown = code_of(eks.list_access_entries, clusterName="unknown")
    assert unknown == "ResourceNotFoundException"


def test_people_get_policies_and_groups_of_their_own(lab: LabFacts) -> None:
    iam, eks = boto_client(lab, "iam"), boto_client(lab, "eks")
    user = iam.create_user(UserName=unique("person"))["User"]["Arn"]
    asked: dict[str, Any] = {"clusterName": "lab", "principalArn": user}
    system = code_of(eks.create_access_entry, **asked, kubernetesGroups=["system:masters"])
    assert system == "InvalidParameterException"
    eks.create_access_entry(**asked, kubernetesGroups=["team"])
    eks.associate_access_policy(**asked, policyArn=ADMIN, accessScope={"type": "cluster"})
    found = eks.list_associated_access_policies(**asked)["associatedAccessPolicies"]
    assert [item["policyArn"] for item in found] == [ADMIN]
    eks.disassociate_access_policy(**asked, policyArn=ADMIN)
    assert not eks.list_associated_access_policies(**asked)["associatedAccessPolicies"]


def test_who_made_the_cluster_administers_it(lab: LabFacts) -> None:
    asked = {"clusterName": "lab", "principalArn": "arn:aws:iam::111122223333:user/lab-operator"}
    found = boto_client(lab, "eks").list_associated_access_policies(**asked)["associatedAccessPolicies"]
    assert [item["policyArn"] for item in found] == [ADMIN]


def test_entries_need_an_authentication_mode_with_them(lab: LabFacts, site: Site) -> None:
    eks, name = boto_client(lab, "eks"), unique("old")
    eks.create_cluster(
        name=name,
        roleArn="arn:aws:iam::111122223333:role/lab-cluster",
        resourcesVpcConfig={"subnetIds": list(site.subnets)},
        accessConfig={"authenticationMode": "CONFIG_MAP"},
    )
    assert code_of(eks.list_access_entries, clusterName=name) == "InvalidRequestException"
    update = eks.update_cluster_config(name=name, accessConfig={"authenticationMode": "API"})["update"]["id"]
    assert eks.describe_update(name=name, updateId=update)["update"]["status"] == "Successful"
    assert eks.list_access_entries(clusterName=name)["accessEntries"] == []


# --- images, templates, groups


def test_an_ami_is_what_was_registered(lab: LabFacts, site: Site) -> None:
    image = boto_client(lab, "ec2").describe_images(ImageIds=[site.node_groups[0].ami])["Images"][0]
    assert (image["Architecture"], image["RootDeviceName"], image["EnaSupport"]) == ("x86_64", "/dev/xvda", True)
    assert (image["ImdsSupport"], image["RootDeviceType"], image["State"]) == ("v2.0", "ebs", "available")
    (mapping,) = image["BlockDeviceMappings"]
    assert mapping["DeviceName"] == "/dev/xvda"
    assert mapping["Ebs"]["VolumeSize"] == 8
    assert mapping["Ebs"]["SnapshotId"].startswith("snap-")


def test_an_ami_name_is_taken_once_and_needs_its_snapshot(lab: LabFacts) -> None:
    ec2, name = boto_client(lab, "ec2"), unique("ami")
    ec2.register_image(Name=name, Architecture="arm64")
    assert code_of(ec2.register_image, Name=name) == "InvalidAMIName.Duplicate"
    mapping = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}]
    missing = code_of(ec2.register_image, Name=unique("ami"), BlockDeviceMappings=mapping)
    assert missing == "InvalidSnapshot.NotFound"


def template_data(site: Site, user_data: str) -> dict[str, Any]:
    group = site.node_groups[0]
    root = {"VolumeSize": 40, "VolumeType": "gp3", "Encrypted": True, "KmsKeyId": group.volume.kms_key}
    return {
        "ImageId": group.ami,
        "InstanceType": group.instance_type,
        "UserData": base64.b64encode(user_data.encode()).decode(),
        "IamInstanceProfile": {"Arn": group.instance_profile},
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 3, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": root | {"DeleteOnTermination": True}}],
        "NetworkInterfaces": [
            {"DeviceIndex": 0, "AssociatePublicIpAddress": False, "Groups": list(group.security_groups)}
        ],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "node"}]}],
    }


def test_a_launch_template_reads_back_as_it_was_written(lab: LabFacts, site: Site) -> None:
    ec2, name, first, second = boto_client(lab, "ec2"), unique("lt"), *(template_data(site, x) for x in "ab")
    tags = [{"ResourceType": "launch-template", "Tags": [{"Key": "bundle", "Value": "x"}]}]
    made = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=first, TagSpecifications=tags)
    assert made["LaunchTemplate"]["Tags"] == [{"Key": "bundle", "Value": "x"}]
    ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData=second, VersionDescription="two")
    found = ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
    assert [item["LaunchTemplateData"] for item in found] == [first, second]
    both = ["$Latest", "2"]
    once = ec2.describe_launch_template_versions(LaunchTemplateName=name, Versions=both)["LaunchTemplateVersions"]
    assert [(item["VersionNumber"], item["VersionDescription"]) for item in once] == [(2, "two")]


def test_a_version_can_start_from_another(lab: LabFacts, site: Site) -> None:
    ec2, name, data = boto_client(lab, "ec2"), unique("lt"), template_data(site, "base")
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    ec2.create_launch_template_version(
        LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={"InstanceType": "m6i.xlarge"}
    )
    (latest,) = ec2.describe_launch_template_versions(LaunchTemplateName=name, Versions=["$Latest"])[
        "LaunchTemplateVersions"
    ]
    assert latest["LaunchTemplateData"] == data | {"InstanceType": "m6i.xlarge"}


def test_more_than_fifteen_templates_are_listed(lab: LabFacts) -> None:
    ec2, hint = boto_client(lab, "ec2"), unique("many")
    for number in range(17):
        ec2.create_launch_template(LaunchTemplateName=f"{hint}-{number}", LaunchTemplateData={})
    names = [f"{hint}-{number}" for number in range(17)]
    assert len(ec2.describe_launch_templates(LaunchTemplateNames=names)["LaunchTemplates"]) == 17


def instances_of(lab: LabFacts, group: str) -> list[dict[str, Any]]:
    found = boto_client(lab, "autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    ids = [item["InstanceId"] for item in found["AutoScalingGroups"][0]["Instances"]]
    pages = boto_client(lab, "ec2").describe_instances(InstanceIds=ids)["Reservations"]
    return [instance for page in pages for instance in page["Instances"]]


@pytest.fixture
def group(lab: LabFacts, site: Site) -> str:
    """A group of two, on the second version of a template whose first is the default."""
    name = unique("group")
    ec2 = boto_client(lab, "ec2")
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=template_data(site, "first"))
    second = template_data(site, "second") | {"InstanceType": "m6i.xlarge"}
    ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData=second)
    boto_client(lab, "autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchTemplate={"LaunchTemplateName": name, "Version": "2"},
        MinSize=1,
        MaxSize=4,
        DesiredCapacity=2,
        VPCZoneIdentifier=",".join(site.subnets),
        Tags=[{"Key": "bundle", "Value": "x", "PropagateAtLaunch": True}],
    )
    return name


def test_instances_carry_what_their_template_version_says(lab: LabFacts, site: Site, group: str) -> None:
    instances = instances_of(lab, group)
    assert {item["SubnetId"] for item in instances} == set(site.subnets)
    for item in instances:
        assert (item["InstanceType"], item["ImageId"]) == ("m6i.xlarge", site.node_groups[0].ami)
        assert item["MetadataOptions"]["HttpTokens"] == "required"
        assert item["MetadataOptions"]["HttpPutResponseHopLimit"] == 3
        assert item["IamInstanceProfile"]["Arn"] == site.node_groups[0].instance_profile
        assert [one["GroupId"] for one in item["SecurityGroups"]] == list(site.node_groups[0].security_groups)
        assert "PublicIpAddress" not in item
        assert [one["DeviceName"] for one in item["BlockDeviceMappings"]] == ["/dev/xvda"]
        assert item["PrivateDnsName"].endswith(f".{lab.region}.compute.internal")
        tags = {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        assert (tags["Name"], tags["bundle"], tags["aws:autoscaling:groupName"]) == ("node", "x", group)


def test_the_root_volume_is_what_the_template_says(lab: LabFacts, site: Site, group: str) -> None:
    ids = [item["BlockDeviceMappings"][0]["Ebs"]["VolumeId"] for item in instances_of(lab, group)]
    for volume in boto_client(lab, "ec2").describe_volumes(VolumeIds=ids)["Volumes"]:
        assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (40, "gp3", True)
        assert volume["KmsKeyId"] == site.node_groups[0].volume.kms_key


def test_user_data_can_be_read_from_an_instance(lab: LabFacts, group: str) -> None:
    instance = instances_of(lab, group)[0]["InstanceId"]
    found = boto_client(lab, "ec2").describe_instance_attribute(InstanceId=instance, Attribute="userData")
    assert base64.b64decode(found["UserData"]["Value"]) == b"second"


def test_a_group_tells_which_version_each_instance_has(lab: LabFacts, site: Site, group: str) -> None:
    client = boto_client(lab, "autoscaling")
    boto_client(lab, "ec2").create_launch_template_version(
        LaunchTemplateName=group, LaunchTemplateData=template_data(site, "third")
    )
    template = {"LaunchTemplateName": group, "Version": "3"}
    client.update_auto_scaling_group(AutoScalingGroupName=group, LaunchTemplate=template, DesiredCapacity=3)
    found = client.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"][0]
    assert found["LaunchTemplate"]["Version"] == "3"
    assert sorted(item["LaunchTemplate"]["Version"] for item in found["Instances"]) == ["2", "2", "3"]


# --- S3


def test_a_multipart_upload_can_be_left_and_finished(lab: LabFacts) -> None:
    s3, key = boto_client(lab, "s3"), unique("bundle")
    parts = [b"a" * (5 << 20), b"b" * (5 << 20), b"c" * 1000]
    upload = s3.create_multipart_upload(Bucket=lab.bucket, Key=key)["UploadId"]
    where: dict[str, Any] = {"Bucket": lab.bucket, "Key": key, "UploadId": upload}
    for number in (2, 1):
        s3.upload_part(**where, PartNumber=number, Body=parts[number - 1])
    assert [part["PartNumber"] for part in s3.list_parts(**where)["Parts"]] == [1, 2]
    s3.upload_part(**where, PartNumber=3, Body=parts[2])
    listed = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in s3.list_parts(**where)["Parts"]]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": listed})
    head = s3.head_object(Bucket=lab.bucket, Key=key)
    assert (head["ContentLength"], head["ETag"][-3:]) == (len(b"".join(parts)), '-3"')
    assert s3.get_object(Bucket=lab.bucket, Key=key)["Body"].read() == b"".join(parts)


def test_a_small_part_in_the_middle_is_refused(lab: LabFacts) -> None:
    s3, key = boto_client(lab, "s3"), unique("small")
    where: dict[str, Any] = {"Bucket": lab.bucket, "Key": key}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    etags = [s3.upload_part(**where, PartNumber=number, Body=b"x")["ETag"] for number in (1, 2)]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    assert code_of(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": parts}) == "EntityTooSmall"
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"0"'}]}
    assert code_of(s3.complete_multipart_upload, **where, MultipartUpload=wrong) == "InvalidPart"


def test_ranges_are_read_and_held_to_the_etag(lab: LabFacts) -> None:
    s3, key, content = boto_client(lab, "s3"), unique("range"), bytes(range(256)) * 40
    etag = s3.put_object(Bucket=lab.bucket, Key=key, Body=content)["ETag"]
    answer = s3.get_object(Bucket=lab.bucket, Key=key, Range="bytes=100-299", IfMatch=etag)
    assert (answer["ContentRange"], answer["Body"].read()) == ("bytes 100-299/10240", content[100:300])
    s3.put_object(Bucket=lab.bucket, Key=key, Body=b"another")
    changed = {"Bucket": lab.bucket, "Key": key, "Range": "bytes=0-9", "IfMatch": etag}
    assert code_of(s3.get_object, **changed) == "PreconditionFailed"
    assert code_of(s3.get_object, Bucket=lab.bucket, Key=key, Range="bytes=900-") == "InvalidRange"


def test_a_write_can_depend_on_what_is_there(lab: LabFacts) -> None:
    s3, key = boto_client(lab, "s3"), unique("lock")
    etag = s3.put_object(Bucket=lab.bucket, Key=key, Body=b"one", IfNoneMatch="*")["ETag"]
    put: dict[str, Any] = {"Bucket": lab.bucket, "Key": key, "Body": b"two"}
    assert code_of(s3.put_object, **put, IfNoneMatch="*") == "PreconditionFailed"
    s3.put_object(**put, IfMatch=etag)
    assert code_of(s3.put_object, **put, IfMatch=etag) == "PreconditionFailed"


def test_a_body_with_another_checksum_is_refused(lab: LabFacts) -> None:
    s3 = boto_client(lab, "s3")
    wrong = base64.b64encode(b"0" * 32).decode()
    asked = {"Bucket": lab.bucket, "Key": unique("sum"), "Body": b"x", "ChecksumSHA256": wrong}
    assert code_of(s3.put_object, **asked) == "BadDigest"


def test_a_name_with_any_letters_is_one_name(lab: LabFacts) -> None:
    s3, key = boto_client(lab, "s3"), f"a b/ü+={uuid.uuid4().hex}%2F"
    s3.put_object(Bucket=lab.bucket, Key=key, Body=b"x")
    listed = s3.list_objects_v2(Bucket=lab.bucket, Prefix="a b/ü+=")["Contents"]
    assert key in [item["Key"] for item in listed]


def test_a_presigned_url_reads_an_object(lab: LabFacts) -> None:
    s3, key = boto_client(lab, "s3"), unique("presigned")
    s3.put_object(Bucket=lab.bucket, Key=key, Body=b"read me")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": lab.bucket, "Key": key}, ExpiresIn=60)
    assert urllib3.request("GET", url, retries=False).data == b"read me"
    assert urllib3.request("GET", url.replace(key, key + "x"), retries=False).status == 403


# --- the request log and planned faults


def test_the_log_tells_what_could_change_something(fresh_lab: LabFacts) -> None:
    assert list(read_requests(fresh_lab.requests_file)) == []
    ecr, ec2, s3 = (boto_client(fresh_lab, name) for name in ("ecr", "ec2", "s3"))
    ecr.describe_repositories()
    ec2.describe_vpcs()
    s3.list_objects_v2(Bucket=fresh_lab.bucket)
    assert mutations(fresh_lab.requests_file) == []
    ecr.create_repository(repositoryName="one")
    s3.put_object(Bucket=fresh_lab.bucket, Key="k", Body=b"x")
    assert code_of(ecr.create_repository, repositoryName="one") == "RepositoryAlreadyExistsException"
    done = [(line["service"], line["operation"]) for line in mutations(fresh_lab.requests_file)]
    assert done == [("ecr", "CreateRepository"), ("s3", "PutObject")]
    names = [line["operation"] for line in read_requests(fresh_lab.requests_file)]
    assert names[:3] == ["DescribeRepositories", "DescribeVpcs", "ListObjectsV2"]


def test_a_dry_run_changes_nothing(fresh_lab: LabFacts) -> None:
    ec2 = boto_client(fresh_lab, "ec2")
    asked = {"LaunchTemplateName": "dry", "LaunchTemplateData": {}, "DryRun": True}
    assert code_of(ec2.create_launch_template, **asked) == "DryRunOperation"
    assert not [line for line in read_requests(fresh_lab.requests_file) if line["mutating"]]


@pytest.mark.parametrize(
    ("service", "operation", "kind", "code"),
    [
        ("ecr", "DescribeRepositories", "denied", "AccessDeniedException"),
        ("ecr", "DescribeRepositories", "throttled", "ThrottlingException"),
        ("ec2", "DescribeVpcs", "denied", "UnauthorizedOperation"),
        ("ec2", "DescribeVpcs", "throttled", "RequestLimitExceeded"),
        ("s3", "ListBuckets", "throttled", "SlowDown"),
        ("sts", "GetCallerIdentity", "denied", "AccessDenied"),
        ("eks", "ListClusters", "expired", "ExpiredTokenException"),
        ("autoscaling", "DescribeAutoScalingGroups", "expired", "ExpiredToken"),
    ],
)
def test_a_call_can_be_made_to_fail(lab: LabFacts, service: str, operation: str, kind: str, code: str) -> None:
    client = boto_client(lab, service)
    call = getattr(client, {value: key for key, value in client.meta.method_to_api_mapping.items()}[operation])
    lab_control(lab, "POST", "faults", {"service": service, "operation": operation, "kind": kind, "nth": 2})
    try:
        call()
        assert code_of(call) == code
        call()
    finally:
        lab_control(lab, "DELETE", "faults")


def test_a_connection_can_be_made_to_break(lab: LabFacts) -> None:
    lab_control(lab, "POST", "faults", {"service": "ec2", "operation": "DescribeVpcs", "kind": "reset"})
    ec2 = boto_client(lab, "ec2")
    with pytest.raises(Exception, match=r"Connection was closed|Could not connect") as failed:
        ec2.describe_vpcs()
    assert type(failed.value).__module__ == "botocore.exceptions"
    assert ec2.describe_vpcs()["Vpcs"]


def test_a_fault_that_is_none_is_refused(lab: LabFacts) -> None:
    answer = urllib3.request("POST", f"{lab.aws_url}/_lab/faults", body=b'{"kind":"unknown"}', retries=False)
    assert answer.status == 400
