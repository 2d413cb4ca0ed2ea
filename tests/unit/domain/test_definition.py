from __future__ import annotations

import json

import jsonschema
import pytest

from bundler.adapters.documents import parse_document
from bundler.domain.definition import Definition, definition_schema, parse_definition
from bundler.errors import BundleError, DefinitionError, PolicyError

GOOD = f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: site-a
kubernetesVersion: 1.30
source: {{region: eu-central-1}}
platforms: [linux/amd64]
operatorPlatforms: [linux/amd64]
core:
  kubeProxy: {{image: "602401143452.dkr.ecr.eu-central-1.amazonaws.com/eks/kube-proxy:v1.35.0"}}
addons:
  - name: metrics-server
    chart: {{repository: "https://charts.example/ms", name: metrics-server, version: 3.13.0}}
    values: {{replicas: 2, tag: 1.30}}
images:
  - {{image: "quay.io/a/b:1", reason: started by an operator}}
tools:
  helm: {{version: 3.19.0, platforms: {{linux/amd64: {{path: helm, sha256: "{"0" * 64}"}}}}}}
  kubectl: {{version: 1.35.2, platforms: {{linux/amd64: {{path: kubectl, sha256: "{"1" * 64}"}}}}}}
"""


def parse(text: str) -> Definition:
    return parse_definition(parse_document(text.encode(), source="bundle.yaml"))


def test_a_definition_keeps_versions_and_accounts_as_text() -> None:
    definition = parse(GOOD)
    assert definition.kubernetes_version == "1.30"
    assert definition.addons[0].values == {"replicas": 2, "tag": "1.30"}


def test_comments_and_layout_do_not_change_the_digest_but_meaning_does() -> None:
    assert (
        parse(GOOD).digest
        == parse("# a comment\n" + GOOD.replace("{region: eu-central-1}", "{ region: 'eu-central-1' }")).digest
    )
    assert parse(GOOD).digest != parse(GOOD.replace("replicas: 2", "replicas: 3")).digest


@pytest.mark.parametrize(
    ("old", "new", "line", "cause"),
    [
        ("name: site-a", "nmae: site-a", 3, "unknown key 'nmae'; did you mean 'name'?"),
        ("name: site-a", "name: Site A", 3, "name: String should match pattern"),
        (", version: 3.13.0", "", 12, "version is missing"),
        ("version: 3.13.0", "version: ^3.13", 12, "version"),
        ("quay.io/a/b:1", "../../x", 15, "is not an image reference"),
        ("quay.io/a/b:1", "127.0.0.1:99999/a/b:1", 15, "no registry can be at 127.0.0.1:99999"),
        ("quay.io/a/b:1", "quay.io/A/b:1", 15, "is not an image reference"),
        ("quay.io/a/b:1", "a/b@sha256:XYZ", 15, "is not an image reference"),
        ("quay.io/a/b:1", "quay.io/a/b:" + "x" * 300, 15, "is not an image reference"),
        ("name: metrics-server, ver", "name: .., ver", 12, "name"),
        ("name: metrics-server, ver", "name: a/b, ver", 12, "name"),
        ("platforms: [linux/amd64]\nop", "platforms: [linux]\nop", 6, "is not a platform"),
        ("platforms: [linux/amd64]\nop", "platforms: []\nop", 6, "at least 1 item"),
        ("linux/amd64: {path: helm", "linux/arm64: {path: helm", 1, "tools.helm has no entry"),
        ("name: metrics-server\n", "name: coredns\n", 1, "the name 'coredns' stands twice"),
        ('"' + "0" * 64, '"' + "0" * 63 + "G", 17, "sha256"),
        ("https://charts.example", "https://user:pw@charts.example", 12, "repository"),
        ("v1.35.0", "REPLACE_ME", 9, "placeholder"),
    ],
)
def test_a_mistake_is_refused_with_file_line_and_column(old: str, new: str, line: int, cause: str) -> None:
    assert old in GOOD
    with pytest.raises(DefinitionError) as caught:
        parse(GOOD.replace(old, new, 1))
    assert caught.value.subject.startswith(f"bundle.yaml:{line}:")
    assert cause in caught.value.cause
    assert caught.value.hint


def test_a_placeholder_names_the_aws_call_that_lists_the_versions() -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(GOOD.replace("v1.35.0", "REPLACE_ME"))
    assert "aws eks describe-addon-versions --kubernetes-version 1.30 --addon-name kube-proxy" in caught.value.hint


def test_a_literal_secret_is_refused_wherever_it_stands() -> None:
    with pytest.raises(PolicyError, match=r"addons\[0\].values.key") as caught:
        parse(GOOD.replace("replicas: 2", "key: AKIAABCDEFGHIJKLMNOP"))
    assert caught.value.exit_code == 3
    assert caught.value.subject.startswith("bundle.yaml:13:")
    assert "AKIA" not in str(caught.value)


def test_a_key_that_says_what_holds_without_it_does_not_change_the_digest() -> None:
    """So that a key which a later version adds leaves the locks of older definitions alone."""
    said = GOOD.replace("{region: eu-central-1}", "{region: eu-central-1, partition: aws}")
    said = said.replace("  - name: metrics-server\n", "  - name: metrics-server\n    timeoutMinutes: 10\n")
    assert parse(said).digest == parse(GOOD).digest
    assert str(parse(GOOD).digest) == "sha256:87de99ad147902be1fae6ca35e60f697da60d632f95745a9dc5a12adf5dae6a4"


def test_null_is_a_value_of_helm_and_of_nothing_else() -> None:
    assert parse(GOOD.replace("replicas: 2", "replicas: null")).addons[0].values["replicas"] is None
    with pytest.raises(DefinitionError, match=r"addons\[0\].namespace has no value"):
        parse(GOOD.replace("  - name: metrics-server\n", "  - name: metrics-server\n    namespace: null\n"))


def test_a_source_in_another_partition_is_refused() -> None:
    with pytest.raises(DefinitionError, match="is in the partition aws-cn"):
        parse(GOOD.replace("{region: eu-central-1}", "{region: cn-north-1}"))


def test_the_published_schema_agrees_with_the_parser() -> None:
    schema = definition_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads(json.dumps(parse(GOOD).model_dump(mode="json", by_alias=True, exclude_none=True)))
    validator.validate(document)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document | {"nmae": "x"})


def test_every_error_is_one_of_ours_whatever_type_stands_where() -> None:
    for wrong in ("[]", "{}", "x", '""', "[[1]]"):
        for key in ("name", "source", "platforms", "core", "addons", "images", "tools"):
            lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key}:")]
            text = "\n".join(
                line for line in lines if not line.startswith(" ") or key not in ("core", "addons", "images", "tools")
            )
            with pytest.raises(BundleError):
                parse(f"{text}\n{key}: {wrong}\nunknown: 1\n")


AMIS = """\
builder: {region: eu-west-1, subnet: subnet-0123456789abcdef0, kmsKey: alias/x,
  sshInterface: public_ip, volumeSizeGiB: 40}
targets:
  - {account: "012345670123", region: eu-central-1, prefix: team/eks}
amis:
  - name: workers
    ami: {release: v20261101}
    preload: ["quay.io/a/b:1"]
    floors: {containerd: "2.0", runc: "1.3.0"}
  - {name: own, architectures: [arm64], ami: {id: ami-0123456789abcdef0}}
  - {name: team, architectures: [amd64], ami: {template: {folder: packer, variables: {a: "1"}}}}
  - {name: rocket, ami: {bottlerocket: {variant: fips, version: 1.50.0}}}
"""


def test_amis_targets_and_builder_are_read_as_they_are_written() -> None:
    definition = parse(GOOD + AMIS)
    workers, own, team, rocket = definition.amis
    assert (workers.ami.release, workers.floors.containerd, workers.architectures) == ("v20261101", "2.0", None)
    assert own.ami.id == "ami-0123456789abcdef0"
    assert team.ami.template is not None
    assert (team.ami.template.file, team.ami.template.builder_user) == ("template.json", "ec2-user")
    assert rocket.ami.bottlerocket is not None
    assert (definition.builder.region, definition.builder.volume_size_gib) == ("eu-west-1", 40)
    assert definition.builder.instance_types["amd64"] == "m6i.large"
    assert (definition.targets[0].account, definition.targets[0].partition) == ("012345670123", "aws")


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("{release: v", "{variant: nvidia, id: ami-0123456789abcdef0, release: v", "give only one of variant, id"),
        ("{release: v20261101}", "{release: latest}", "release"),
        ("{id: ami-0123456789abcdef0}", "{id: ami-0123456789abcdef0, release: v20261101}", "not with id"),
        ("variant: fips, version: 1.50.0}", "variant: fips}, release: v20261101", "not with bottlerocket"),
        ("variant: fips", "variant: metal", "variant"),
        ("version: 1.50.0", "version: latest", "version"),
        ("name: own", "name: ami-own", "must not look like the id of an AMI"),
        ("name: own", "name: team", "amis: the name 'team' stands twice"),
        ("[arm64], ami: {id", "[arm64, amd64], ami: {id", "has exactly one"),
        ("architectures: [arm64], ami: {id", "ami: {id", "has exactly one"),
        ("architectures: [amd64], ami: {template", "ami: {template", "has exactly one"),
        ("{name: rocket,", "{name: rocket, architectures: [arm64, arm64],", "architectures: one stands twice"),
        ("{name: rocket,", "{name: rocket, architectures: [],", "at least 1 item"),
        ("{name: rocket,", "{name: rocket, architectures: [riscv64],", "architectures"),
        ("{name: rocket,", "{name: rocket, preload: ['a/b:1'],", "go with an AMI that is baked"),
        ("{name: own,", "{name: own, certificates: ca.pem,", "go with an AMI that is baked"),
        ("{name: own,", "{name: own, registryHosts: hosts,", "go with an AMI that is baked"),
        ("{name: own,", "{name: own, floors: {runc: '1.3'},", "floors go with an AMI that is baked"),
        ('containerd: "2.0"', "containerd: newest", "containerd"),
        ("id: ami-0123456789abcdef0", "id: AMI-1", "id"),
        ("folder: packer,", "folder: packer, file: ../x.json,", "file"),
        ("variables: {a:", "variables: {a b:", "a b"),
        ('account: "012345670123"', 'account: "12345670123"', "account"),
        ("region: eu-central-1, prefix", "region: cn-north-1, prefix", "is in the partition aws-cn, not in aws"),
        ("region: eu-central-1, prefix", "partition: aws-nowhere, region: eu-central-1, prefix", "not in aws-nowhere"),
        ("prefix: team/eks", "prefix: /eks", "prefix"),
        ("subnet-0123456789abcdef0", "subnet-x", "subnet"),
        ("sshInterface: public_ip", "sshInterface: session_manager", "sshInterface"),
        ("volumeSizeGiB: 40", "volumeSizeGiB: 4", "volumeSizeGiB"),
        ("kmsKey:", "kms_key:", "unknown key 'kms_key'"),
    ],
)
def test_a_mistake_among_the_amis_is_refused_with_its_place(old: str, new: str, cause: str) -> None:
    text = GOOD + AMIS
    assert text.count(old) == 1, old
    with pytest.raises(DefinitionError) as caught:
        parse(text.replace(old, new))
    assert caught.value.subject.startswith("bundle.yaml:")
    assert cause in caught.value.cause
