"""The operator guide lists the IAM permissions that our calls to AWS need, and no others."""

from __future__ import annotations

import ast
import re

from bundler.adapters.aws.failures import Asked
from tests.documents import GUIDE, tables
from tests.terminal import ROOT

AWS = ROOT / "bundler" / "adapters" / "aws"
_SERVICES = {
    "autoscaling": "autoscaling", "ebs": "ebs", "ec2": "ec2", "ec2_builders": "ec2", "ec2_images": "ec2", "ecr": "ecr",
    "eks": "eks", "iam": "iam", "journal_mirror": "s3", "s3_object": "s3", "s3_store": "s3", "ssm": "ssm",
    "probe": "", "clients": "", "token": "",
}  # fmt: skip
BESIDE = {
    "ec2:CreateTags", "ec2:RunInstances", "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage",
    "ecr:TagResource", "ecr:UploadLayerPart", "eks:TagResource", "iam:CreateServiceLinkedRole", "iam:PassRole",
    "kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext",
    "s3:ListBucket",
}  # fmt: skip
"""What AWS asks for beside the action of a call: tags, roles that are passed, the registry's own protocol, keys."""
PACKERS = {
    "ec2:CreateImage", "ec2:CreateKeyPair", "ec2:DeleteVolume", "ec2:DescribeInstanceStatus", "ec2:DescribeRegions",
    "ec2:DescribeVolumes", "ec2:ModifyImageAttribute", "ec2:ModifySnapshotAttribute", "ec2:StopInstances",
}  # fmt: skip
"""What Packer's amazon-ebs builder calls besides (its plugin's documentation, "IAM Task or Instance Role")."""


def called_actions() -> set[str]:
    """The IAM action of every call that the AWS adapters make."""
    found = set()
    for path in AWS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            operation = node.args[0]
            if node.func.attr not in ("call", "ask", "list", "_find", "_unless_gone") or not isinstance(
                operation, ast.Constant
            ):
                continue
            asked_of = node.func.value
            named = asked_of.args[0] if isinstance(asked_of, ast.Call) and asked_of.args else None
            service = named.value if isinstance(named, ast.Constant) else _SERVICES[path.stem]
            assert service, f"{path.name}:{node.lineno}: which service?"
            asked = Asked(service=service, operation=str(operation.value), resource="", endpoint="", setting="")
            found.add(asked.action)
    return found


def test_the_guide_lists_the_permission_for_every_call_and_no_others() -> None:
    told = {
        action
        for table in tables(GUIDE)
        for row in table.rows
        for action in re.findall(r"`([a-z0-9]+:[A-Z][A-Za-z]+)`", " ".join(row))
    }
    free = {"sts:GetCallerIdentity", "s3:ListAllMyBuckets"}  # needs no permission; a denial is an answer
    assert len(called_actions()) > 20
    assert told - free == (called_actions() | BESIDE | PACKERS) - free
