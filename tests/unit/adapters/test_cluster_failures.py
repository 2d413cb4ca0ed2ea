"""What kubectl and helm say, as errors with exit codes."""

from __future__ import annotations

import pytest

from bundler.adapters.cluster_failures import cluster_failure
from bundler.adapters.kubernetes import client_environment
from bundler.adapters.process import Completed


def failed(said: str) -> Completed:
    return Completed(program="helm", returncode=1, stdout=b"", stderr=said.encode())


@pytest.mark.parametrize(
    ("said", "exit_code"),
    [
        ("error: You must be logged in to the server (Unauthorized)", 4),
        ("Unable to connect to the server: getting credentials: exec: executable bundle failed with exit code 4", 4),
        ("Error: Kubernetes cluster unreachable: the server has asked for the client to provide credentials", 4),
        ('Error: query: failed: secrets is forbidden: User "x" cannot list resource "secrets" in API group ""', 4),
        ("Unable to connect to the server: tls: failed to verify certificate: x509: unknown authority", 5),
        ("Error: Kubernetes cluster unreachable: Get https://x: dial tcp 10.0.0.1:443: i/o timeout", 5),
        ("The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?", 5),
        ("Error from server (ServiceUnavailable): the server is currently unable to handle the request", 5),
        ("Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress", 7),
        ("Error: Unable to continue with install: it cannot be imported into the current release", 7),
        ("Error: UPGRADE FAILED: invalid ownership metadata; label validation error", 7),
        ("Error: UPGRADE FAILED: context deadline exceeded", 8),
        ("Error: INSTALLATION FAILED: resource Deployment/demo/web not ready. status: InProgress", 8),
        ("Error: UPGRADE FAILED: timed out waiting for the condition", 8),
    ],
)  # fmt: skip
def test_known_words_have_their_exit_code_and_a_hint(said: str, exit_code: int) -> None:
    failure = cluster_failure(failed(said), "release web")
    assert failure is not None
    assert (failure.exit_code, failure.subject) == (exit_code, "release web")
    assert failure.hint


def test_other_words_are_left_to_the_caller() -> None:
    assert cluster_failure(failed("Error: pods is forbidden: violates PodSecurity"), "x") is None


def test_helm_and_kubectl_see_only_what_the_token_plugin_needs() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "AWS_PROFILE": "p", "https_proxy": "http://p", "SSL_CERT_FILE": "/ca"}
    dropped = {
        "HELM_PLUGINS": "/x",
        "HELM_KUBETOKEN": "secret",
        "KUBECONFIG": "/y",
        "GITHUB_TOKEN": "z",
        "LD_PRELOAD": "w",
    }
    assert client_environment({**kept, **dropped}) == kept
