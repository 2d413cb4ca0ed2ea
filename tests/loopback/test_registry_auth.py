"""How the client logs in: basic up front, bearer tokens by scope, token servers it may trust."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bundler.adapters.docker_credentials import DockerCredentials
from bundler.adapters.http import TransportSettings
from bundler.domain.credentials import Credentials, Secret
from bundler.domain.oci import OCI_MANIFEST
from bundler.domain.reference import Reference
from bundler.errors import AccessError, FormatError
from bundler.transfer import parallel_map
from tests.fakes.images import blob_descriptor, image, layer_bytes
from tests.fakes.scripted_server import Asked, Reply, ScriptedServer, Wallet, client_of, mapped, serving
from tests.fakes.uploading_registry import UploadingRegistry

pytestmark = pytest.mark.loopback

GOOD = image("good")
BLOB = layer_bytes("blob", 50_000)


class TokenRegistry:
    """A registry with a token server of its own (or elsewhere): tokens are numbered and end when told."""

    def __init__(self, realm: str = "") -> None:
        self.realm = realm
        self.tokens: dict[str, str] = {}
        self.life = 300
        self.asked_scopes: list[str] = []
        self.logins: list[str | None] = []
        self.forms: list[dict[str, str]] = []
        self.refuse = False
        self.uploads = UploadingRegistry()

    def token(self, asked: Asked) -> Reply:
        header = asked.headers.get("authorization")
        self.logins.append(b64decode(header.removeprefix("Basic ")).decode() if header else None)
        query = parse_qs(urlsplit(asked.target).query)
        if asked.method == "POST":
            query = parse_qs(asked.body.decode())
            self.forms.append({key: values[0] for key, values in query.items()})
        if self.refuse:
            return Reply(status=401, body=b'{"details":"incorrect username or password"}')
        scope = " ".join(query.get("scope", []))
        self.asked_scopes.append(scope)
        name = f"token-{len(self.asked_scopes)}"
        self.tokens[name] = scope
        key = "access_token" if asked.method == "POST" else "token"
        return Reply(body=json.dumps({key: name, "expires_in": self.life}).encode())

    def __call__(self, asked: Asked) -> Reply | None:
        if asked.path == "/token":
            return self.token(asked)
        held = self.tokens.get(asked.headers.get("authorization", "").removeprefix("Bearer "), "")
        name = asked.path.removeprefix("/v2/").rsplit("/", 2)[0].removesuffix("/blobs")
        action = "pull" if asked.method in ("GET", "HEAD") else "pull,push"
        if not any(scope.startswith(f"repository:{name}:{action}") for scope in held.split()):
            text = f'Bearer realm="{self.realm}",service="registry",scope="repository:{name}:{action}"'
            return Reply(status=401, headers={"WWW-Authenticate": text})
        if "/manifests/" in asked.path:
            return Reply(headers={"Content-Type": OCI_MANIFEST}, body=GOOD.raw)
        return self.uploads(asked)


@pytest.fixture
def registry() -> TokenRegistry:
    return TokenRegistry()


@pytest.fixture
def server(registry: TokenRegistry) -> Iterator[ScriptedServer]:
    with serving(registry) as running:
        registry.realm = running.url + "/token"
        yield running


def test_a_public_image_is_read_with_an_anonymous_token(registry: TokenRegistry, server: ScriptedServer) -> None:
    assert client_of().manifest(Reference.parse(f"{server.authority}/app:1")).raw == GOOD.raw
    assert registry.logins == [None]
    assert registry.asked_scopes == ["repository:app:pull"]


def test_one_token_serves_all_workers_of_a_scope(registry: TokenRegistry, server: ScriptedServer) -> None:
    client = client_of(provider=Wallet("pw"))
    references = [Reference.parse(f"{server.authority}/app:{number}") for number in range(40)]
    parallel_map(client.manifest, references, workers=8)
    assert registry.asked_scopes == ["repository:app:pull"]
    assert registry.logins == ["user:pw"]


def test_a_second_repository_gets_its_token_without_a_refused_request(
    registry: TokenRegistry, server: ScriptedServer
) -> None:
    client = client_of(provider=Wallet("pw"))
    client.manifest(Reference.parse(f"{server.authority}/a:1"))
    client.manifest(Reference.parse(f"{server.authority}/b:1"))
    assert registry.asked_scopes == ["repository:a:pull", "repository:b:pull"]
    assert len([target for target in server.asked("GET") if target.startswith("/v2/b/")]) == 1


def test_no_body_is_uploaded_twice_for_want_of_a_token(registry: TokenRegistry, server: ScriptedServer) -> None:
    client = client_of(provider=Wallet("pw"))
    name = Reference.parse(f"{server.authority}/app")
    for number in range(3):
        blob = layer_bytes(f"b{number}", 50_000)
        client.upload_blob(name, blob_descriptor(blob), lambda start, blob=blob: iter([memoryview(blob)[start:]]))
    assert registry.uploads.received == 150_000
    assert registry.asked_scopes == ["repository:app:pull,push"]


def test_a_token_is_renewed_before_it_expires(registry: TokenRegistry, server: ScriptedServer) -> None:
    now = [1000.0]
    client = client_of(TransportSettings(clock=lambda: now[0]), provider=Wallet("pw"))
    reference = Reference.parse(f"{server.authority}/app:1")
    client.manifest(reference)
    now[0] += 280
    client.manifest(reference)
    assert len(registry.asked_scopes) == 1
    now[0] += 10
    client.manifest(reference)
    assert len(registry.asked_scopes) == 2
    assert len(server.asked("GET")) == 1 + 3 + 2


def test_a_revoked_token_is_fetched_again_once(registry: TokenRegistry, server: ScriptedServer) -> None:
    client = client_of(provider=Wallet("pw"))
    reference = Reference.parse(f"{server.authority}/app:1")
    client.manifest(reference)
    registry.tokens.clear()
    assert client.manifest(reference).raw == GOOD.raw
    assert len(registry.asked_scopes) == 2


def test_refused_passwords_are_refreshed_once(registry: TokenRegistry, server: ScriptedServer) -> None:
    registry.refuse = True
    wallet = Wallet("old", "new")
    with pytest.raises(AccessError, match="incorrect username or password") as caught:
        client_of(provider=wallet).manifest(Reference.parse(f"{server.authority}/app:1"))
    assert registry.logins == ["user:old", "user:new"]
    assert "log in" in caught.value.hint.lower()


def test_an_identity_token_is_traded_by_oauth2(registry: TokenRegistry, server: ScriptedServer) -> None:
    class Identity(Wallet):
        def credentials(self, host: str) -> Credentials:
            return Credentials(username="", password=Secret("refresh-me"), is_identity_token=True)

    client_of(provider=Identity("-")).manifest(Reference.parse(f"{server.authority}/app:1"))
    assert registry.forms == [
        {
            "grant_type": "refresh_token",
            "client_id": "eks-bundler",
            "refresh_token": "refresh-me",
            "service": "registry",
            "scope": "repository:app:pull",
        }
    ]
    assert registry.logins == [None]


def test_a_token_server_elsewhere_is_asked_when_it_is_on_the_list(
    registry: TokenRegistry, server: ScriptedServer
) -> None:
    with serving(registry.token) as elsewhere:
        registry.realm = elsewhere.url + "/token"
        reference = Reference.parse("reg.example/app:1")
        allowed = mapped("reg.example", server.url, elsewhere.url)
        assert client_of(provider=Wallet("pw"), registries=allowed).manifest(reference).raw == GOOD.raw
        assert registry.logins == ["user:pw"]
        with pytest.raises(AccessError):
            client_of(provider=Wallet("pw"), registries=mapped("reg.example", server.url)).manifest(reference)
        assert len(elsewhere.requests) == 1


def test_a_mapped_host_is_asked_under_its_prefix_and_with_its_own_credentials() -> None:
    def script(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return Reply(headers={"Content-Type": OCI_MANIFEST}, body=GOOD.raw)

    wallet = Wallet("pw")
    with serving(script) as server:
        registries = mapped("registry.k8s.io", server.url + "/registry.k8s.io")
        client_of(provider=wallet, registries=registries).manifest(Reference.parse("registry.k8s.io/a/b:1"))
        assert server.requests[-1].target == "/v2/registry.k8s.io/a/b/manifests/1"
        assert wallet.hosts == [server.authority]


def test_basic_credentials_are_sent_up_front_after_the_first_question() -> None:
    def before(asked: Asked) -> Reply | None:
        if "authorization" in asked.headers:
            return None
        return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    uploads = UploadingRegistry(before)
    with serving(uploads) as server:
        client = client_of(provider=Wallet("pw"))
        for name in ("a", "b"):
            client.upload_blob(
                Reference.parse(f"{server.authority}/{name}"),
                blob_descriptor(BLOB),
                lambda start: iter([memoryview(BLOB)[start:]]),
            )
        assert uploads.received == 2 * len(BLOB)
        assert ["authorization" in asked.headers for asked in server.requests] == [False, True, True, True, True]


def test_credentials_are_wanted_and_there_are_none() -> None:
    refusal = Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    with serving(lambda asked: refusal) as server:
        with pytest.raises(AccessError, match="wants credentials"):
            client_of().manifest(Reference.parse(f"{server.authority}/app:1"))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token":1}',
        b'{"token":""}',
        b'{"token":"a\\nb"}',
        b'{"token":"a","token":"b"}',
        b"\x1f\x8b",
    ],
)
def test_a_token_answer_without_a_token_is_refused(body: bytes) -> None:
    def script(asked: Asked) -> Reply:
        if asked.path == "/token":
            return Reply(body=body)
        return Reply(status=401, headers={"WWW-Authenticate": f'Bearer realm="{server.url}/token"'})

    with serving(script) as server, pytest.raises(FormatError):
        client_of(provider=Wallet("pw")).manifest(Reference.parse(f"{server.authority}/app:1"))


def test_what_the_registry_echoes_of_a_secret_is_hidden() -> None:
    def script(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(status=401, headers={"WWW-Authenticate": "Basic"})
        return Reply(status=403, body=b"you sent " + asked.headers["authorization"].encode())

    with serving(script) as server:
        with pytest.raises(AccessError) as caught:
            client_of(provider=Wallet("CANARY")).manifest(Reference.parse(f"{server.authority}/app:1"))
        encoded = server.requests[-1].headers["authorization"].removeprefix("Basic ")
        assert encoded not in str(caught.value)
        assert "you sent Basic ***" in str(caught.value)


def test_a_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(lambda asked: Reply(headers={"Content-Type": OCI_MANIFEST}, body=GOOD.raw)) as server:
        client_of(provider=DockerCredentials({"HOME": str(tmp_path)})).manifest(
            Reference.parse(f"{server.authority}/app:1")
        )
        assert "authorization" not in server.requests[0].headers
