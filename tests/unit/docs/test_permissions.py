"""The operator guide lists the IAM permissions that our calls to AWS need, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bundler.adapters.aws.failures import Asked
from tests.documents import GUIDE, Table, tables
from tests.terminal import ROOT

AWS = ROOT / "bundler" / "adapters" / "aws"
_SERVICES = {
    "autoscaling": "autoscaling", "ebs": "ebs", "ec2": "ec2", "ec2_builders": "ec2", "ec2_images": "ec2", "ecr": "ecr",
    "eks": "eks", "iam": "iam", "journal_mirror": "s3", "s3_object": "s3", "s3_store": "s3", "ssm": "ssm",
    "probe": "", "clients": "", "token": "",
}  # fmt: skip
BESIDE = {
    "ec2:CreateTags", "ec2:RunInstances", "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:ListImages",
    "ecr:PutImage", "ecr:TagResource", "ecr:UploadLayerPart", "eks:TagResource",
    "iam:CreateServiceLinkedRole", "iam:PassRole",
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
    return {action for path in AWS.glob("*.py") for action in actions_in(path, parsed(path))}


def actions_in(path: Path, tree: ast.AST) -> Iterator[str]:
    """The IAM action of every call to AWS below a node."""
    for node in ast.walk(tree):
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
        yield asked.action


def actions_of(path: Path, methods: set[str]) -> set[str]:
    """The IAM actions of some methods of an adapter, with those of the methods that they call."""
    functions = {node.name: node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)}
    assert methods <= functions.keys()
    reached: set[str] = set()
    left = [*methods]
    while left:
        name = left.pop()
        reached.add(name)
        left += (called_on(functions[name], "self") & functions.keys()) - reached
    return {action for name in reached for action in actions_in(path, functions[name])}


def called_on(tree: ast.AST, receiver: str) -> set[str]:
    """The names of the methods that are called on a name or an attribute of that name."""
    found = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        func.attr
        for func in found
        if isinstance(func, ast.Attribute) and receiver == getattr(func.value, "attr", getattr(func.value, "id", ""))
    }


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def told_in(table: Table) -> set[str]:
    return {action for row in table.rows for action in re.findall(r"`([a-z0-9]+:[A-Z][A-Za-z]+)`", " ".join(row))}


def test_the_guide_lists_what_verify_installed_calls() -> None:
    (table,) = (one for one in tables(GUIDE) if one.title.startswith("`bundle verify --installed`"))
    images = called_on(parsed(ROOT / "bundler" / "workflows" / "verify_installed.py"), "images")
    blocks = called_on(parsed(ROOT / "bundler" / "stages" / "read_back.py"), "reader")
    assert (images, blocks) == ({"image", "own_tagged", "snapshots", "uefi_data"}, {"blocks", "read"})
    called = actions_of(AWS / "ec2_images.py", images) | actions_of(AWS / "ebs.py", blocks)
    registry = {"ecr:GetAuthorizationToken", "ecr:BatchGetImage"}
    assert told_in(table) == called | registry | {"kms:Decrypt"}


def test_the_guide_lists_what_a_receipt_calls() -> None:
    (table,) = (one for one in tables(GUIDE) if one.title.startswith("`bundle receipt`"))
    workflow = parsed(ROOT / "bundler" / "workflows" / "receipt.py")
    images, repositories = called_on(workflow, "images"), called_on(workflow, "repositories")
    assert (images, repositories) == ({"own_with_tag", "snapshots"}, {"below", "held"})
    called = actions_of(AWS / "ec2_images.py", images) | actions_of(AWS / "ecr.py", repositories)
    assert told_in(table) == called | {"ecr:GetAuthorizationToken", "ecr:BatchGetImage"}


def test_the_guide_lists_the_permission_for_every_call_and_no_others() -> None:
    told = {action for table in tables(GUIDE) for action in told_in(table)}
    free = {"sts:GetCallerIdentity", "s3:ListAllMyBuckets"}  # needs no permission; a denial is an answer
    assert len(called_actions()) > 20
    assert told - free == (called_actions() | BESIDE | PACKERS) - free
