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
