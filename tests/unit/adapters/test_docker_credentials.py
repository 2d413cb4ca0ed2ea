"""Credentials of docker, podman and skopeo: files and helpers."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from pathlib import Path

import pytest

from bundler.adapters import docker_credentials
from bundler.adapters.docker_credentials import DockerCredentials
from bundler.adapters.registry_auth import FirstOf
from bundler.domain.credentials import Credentials, Secret
from bundler.errors import AccessError, MissingToolError, ProgramError


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": b64encode(f"{user}:{password}".encode()).decode()}


def config(path: Path, **content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def from_file(tmp_path: Path, **content: object) -> DockerCredentials:
    path = config(tmp_path / "auth.json", **content)
    return DockerCredentials({"REGISTRY_AUTH_FILE": str(path), "PATH": f"{tmp_path}:{os.environ['PATH']}"})


def helper(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_first_file_that_knows_a_host_decides(tmp_path: Path) -> None:
    environ = {
        "REGISTRY_AUTH_FILE": str(config(tmp_path / "one.json", auths={"a.example": auth("one", "1")})),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "HOME": str(tmp_path / "home"),
    }
    config(tmp_path / "run/containers/auth.json", auths={"a.example": auth("two", "2"), "b.example": auth("two", "2")})
    config(tmp_path / "docker/config.json", auths={"b.example": auth("three", "3"), "c.example": auth("three", "3")})
    config(tmp_path / "home/.docker/config.json", auths={"d.example": auth("four", "4")})
    provider = DockerCredentials(environ)
    found = [provider.credentials(f"{name}.example") for name in "abcd"]
    assert [each.username if each else None for each in found] == ["one", "two", "three", None]
    del environ["DOCKER_CONFIG"]
    assert DockerCredentials(environ).credentials("d.example") == Credentials(username="four", password=Secret("4"))
    assert DockerCredentials({}).credentials("d.example") is None


@pytest.mark.parametrize(
    ("key", "host", "is_known"),
    [
        ("a.example", "a.example", True),
        ("https://a.example", "a.example", True),
        ("https://a.example/v1/", "a.example", True),
        ("a.example:5000", "a.example:5000", True),
        ("a.example:5000", "a.example", False),
        ("a.example", "a.example:5000", False),
        ("a.example", "b.a.example", False),
        ("a.example/team", "a.example", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("[", "a.example", False),
    ],
)
def test_keys_name_whole_hosts(tmp_path: Path, key: str, host: str, is_known: bool) -> None:
    found = from_file(tmp_path, auths={key: auth("u", "p")}).credentials(host)
    assert (found is not None) is is_known


def test_all_forms_of_entries_are_understood(tmp_path: Path) -> None:
    provider = from_file(
        tmp_path,
        auths={
            "a": {"username": "u", "password": "p"},
            "b": {"identitytoken": "t", **auth("u", "p")},
            "c": auth("u", "p:with:colons"),
            "d": {},
            "e": {"auth": ""},
        },
    )
    assert provider.credentials("a") == Credentials(username="u", password=Secret("p"))
    assert provider.credentials("b") == Credentials(username="", password=Secret("t"), is_identity_token=True)
    assert provider.credentials("c") == Credentials(username="u", password=Secret("p:with:colons"))
    assert provider.credentials("d") is None
    assert provider.credentials("e") is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths":{"a":{"auth":"%%"}}}', '{"auths":{"a":{"auth":"Zm9v"}}}', "[" * 9000]
)
def test_what_cannot_be_understood_is_named_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)
    with pytest.raises(AccessError) as caught:
        DockerCredentials({"REGISTRY_AUTH_FILE": str(path)}).credentials("a")
    assert str(path) in str(caught.value)
    assert "Zm9v" not in str(caught.value)


def test_a_helper_is_asked_for_its_hosts(tmp_path: Path) -> None:
    helper(tmp_path, "one", 'read server; echo "{\\"Username\\":\\"$server\\",\\"Secret\\":\\"s\\"}"')
    helper(tmp_path, "two", 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"t\\"}"')
    provider = from_file(
        tmp_path,
        credHelpers={"a.example": "one", "docker.io": "one"},
        credsStore="two",
        auths={"a.example": auth("no", "no")},
    )
    assert provider.credentials("a.example") == Credentials(username="a.example", password=Secret("s"))
    hub = provider.credentials("docker.io")
    assert hub is not None
    assert hub.username == "https://index.docker.io/v1/"
    assert provider.credentials("other.example") == Credentials(
        username="", password=Secret("t"), is_identity_token=True
    )


def test_a_helper_that_knows_nothing_is_no_error(tmp_path: Path) -> None:
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    assert from_file(tmp_path, credsStore="none").credentials("a.example") is None


def test_a_helper_that_fails_is_named_without_what_it_said(tmp_path: Path) -> None:
    helper(tmp_path, "bad", "echo hunter2; exit 3")
    with pytest.raises(AccessError, match="docker-credential-bad ended with 3") as caught:
        from_file(tmp_path, credsStore="bad").credentials("a.example")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_a_helper_that_is_missing_hanging_or_no_name_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingToolError, match="docker-credential-absent"):
        from_file(tmp_path, credsStore="absent").credentials("a.example")
    with pytest.raises(AccessError, match="which is not a name"):
        from_file(tmp_path, credsStore="../../bin/sh").credentials("a.example")
    helper(tmp_path, "slow", "sleep 60")
    monkeypatch.setattr(docker_credentials, "HELPER_TIMEOUT_S", 0.1)
    with pytest.raises(ProgramError):
        from_file(tmp_path, credsStore="slow").credentials("a.example")


def test_an_answer_is_kept_until_it_is_refreshed(tmp_path: Path) -> None:
    helper(tmp_path, "count", f'echo x >> {tmp_path}/count; echo "{{\\"Username\\":\\"u\\",\\"Secret\\":\\"s\\"}}"')
    provider = from_file(tmp_path, credsStore="count")
    for _ in range(3):
        provider.credentials("a.example")
    assert (tmp_path / "count").read_text() == "x\n"
    provider.refresh("a.example")
    provider.credentials("a.example")
    assert (tmp_path / "count").read_text() == "x\nx\n"


def test_the_first_provider_that_knows_a_host_decides(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.mkdir()
    two.mkdir()
    both = FirstOf(
        from_file(one, auths={"a": auth("one", "1")}),
        from_file(two, auths={"a": auth("two", "2"), "b": auth("two", "2")}),
    )
    assert [found.username if found else None for found in map(both.credentials, "abc")] == ["one", "two", None]


def test_secrets_do_not_show() -> None:
    credentials = Credentials(username="u", password=Secret("hunter2"))
    for text in (repr(credentials), str(credentials), f"{credentials.password}", "%s" % credentials.password):  # noqa: UP031
        assert "hunter2" not in text
    assert Secret("hunter2").hidden_in("it was hunter2!") == "it was ***!"
    assert Secret("").hidden_in("text") == "text"
