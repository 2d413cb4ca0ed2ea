"""registries.yaml: where upstream hosts are really asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.adapters.documents import parse_document
from bundler.adapters.registries_config import Registries, load_registries, parse_registries
from bundler.errors import BundleError, DefinitionError, UsageError

TEXT = """\
registry.k8s.io:
  url: http://127.0.0.1:5000/registry.k8s.io
docker.io:
  url: https://mirror.example/hub
  caFile: corporate.pem
  realms: [https://login.example, https://login.example:8443/token]
charts.example:
  url: https://mirror.example
"""


def parse(text: str, folder: Path = Path()) -> Registries:
    return parse_registries(parse_document(text.encode(), source="registries.yaml"), folder=folder)


def test_hosts_are_mapped_to_urls_with_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "corporate.pem").write_text("pem")
    registries = parse(TEXT, tmp_path)
    kubernetes = registries.endpoint("registry.k8s.io")
    assert (str(kubernetes.origin), kubernetes.repository("pause")) == (
        "http://127.0.0.1:5000",
        "registry.k8s.io/pause",
    )
    assert kubernetes.login == "127.0.0.1:5000"
    hub = registries.endpoint("docker.io")
    assert {str(realm) for realm in hub.realms} == {"https://login.example", "https://login.example:8443"}
    assert hub.ca_files == (str(tmp_path / "corporate.pem"),)
    plain = registries.endpoint("charts.example")
    assert (plain.prefix, plain.repository("a/b"), plain.login) == ("", "a/b", "mirror.example")


def test_hosts_that_are_not_mapped_are_asked_under_their_own_name() -> None:
    registries = Registries()
    hub = registries.endpoint("docker.io")
    assert (str(hub.origin), hub.login) == ("https://registry-1.docker.io", "docker.io")
    assert [str(realm) for realm in hub.realms] == ["https://auth.docker.io"]
    assert str(registries.endpoint("quay.io").origin) == "https://quay.io"
    assert str(registries.endpoint("reg.example:5000").origin) == "https://reg.example:5000"


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "[::1]:5000", "127.0.0.1"])
def test_only_loopback_speaks_plain_http_by_itself(host: str) -> None:
    assert Registries().endpoint(host).origin.scheme == "http"
    assert Registries().endpoint("localhost.example:5000").origin.scheme == "https"


def test_urls_of_files_and_chart_repositories_are_located() -> None:
    registries = parse("charts.example:\n  url: http://127.0.0.1:8080/mirror\n")
    located, _ = registries.locate("https://charts.example/stable/index.yaml?x=1")
    assert str(located) == "http://127.0.0.1:8080/mirror/stable/index.yaml?x=1"
    located, endpoint = registries.locate("https://other.example:8443/a.tgz")
    assert str(located) == "https://other.example:8443/a.tgz"
    assert endpoint.ca_files == ()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[]\n", "1:1"),
        ("a.example: text\n", "1:1"),
        ("a.example:\n  url: https://b\n  ca: x\n", "3:3"),
        ("a.example:\n  caFile: x\n", "2:3"),
        ("a.example:\n  url: ftp://b\n", "2:3"),
        ("a.example:\n  url: https://user:pw@b\n", "2:3"),
        ("a.example:\n  url: https://b/UPPER\n", "2:3"),
        ("a.example:\n  url: https://b/c?d\n", "2:3"),
        ("a.example:\n  url: https://b\n  caFile: absent.pem\n", "3:3"),
        ("a.example:\n  url: https://b\n  realms: https://c\n", "3:3"),
        ("a.example:\n  url: https://b\n  realms: [https://c, c]\n", "3:23"),
        ("A b:\n  url: https://b\n", "1:1"),
        ("a.example:\n  url: https://b\na.example:\n  url: https://b\n", "3:1"),
    ],
)
def test_mistakes_are_found_with_their_place(text: str, place: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(text)
    assert caught.value.subject == f"registries.yaml:{place}"
    assert "pw" not in caught.value.cause


def test_the_file_is_found_where_it_is_named_or_usually_stands(tmp_path: Path) -> None:
    usual = tmp_path / "config" / "eks-bundler" / "registries.yaml"
    assert load_registries({"XDG_CONFIG_HOME": str(tmp_path / "config")}) == Registries()
    assert load_registries({}) == Registries()
    usual.parent.mkdir(parents=True)
    usual.write_text("a.example:\n  url: https://usual\n")
    named = tmp_path / "named.yaml"
    named.write_text("a.example:\n  url: https://named\n")
    usually = load_registries({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    by_name = load_registries({"XDG_CONFIG_HOME": str(tmp_path / "config"), "BUNDLE_REGISTRIES": str(named)})
    assert [each.endpoint("a.example").login for each in (usually, by_name)] == ["usual", "named"]
    with pytest.raises(UsageError):
        load_registries({"BUNDLE_REGISTRIES": str(tmp_path / "absent")})


def test_a_host_that_is_no_host_is_refused() -> None:
    with pytest.raises(BundleError):
        Registries().endpoint("a b")


def test_a_host_may_keep_its_own_address_and_get_realms_alone() -> None:
    endpoint = parse("harbor.example:8443:\n  realms: [https://login.example]\n").endpoint("harbor.example:8443")
    assert (str(endpoint.origin), endpoint.login, endpoint.prefix) == (
        "https://harbor.example:8443",
        "harbor.example:8443",
        "",
    )
    assert [str(realm) for realm in endpoint.realms] == ["https://login.example"]


def test_a_host_with_realms_of_its_own_keeps_them() -> None:
    endpoint = parse("docker.io:\n  realms: [https://login.example]\n").endpoint("docker.io")
    assert {str(realm) for realm in endpoint.realms} == {"https://auth.docker.io", "https://login.example"}
    assert endpoint.login == "docker.io"
