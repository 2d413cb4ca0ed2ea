"""What registries answer and must not get away with. D01-D28 are the rows of the catalogue of bad inputs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.adapters.http import TransportSettings
from bundler.adapters.network import Zone, zone_of
from bundler.adapters.oci_registry import RegistryClient
from bundler.adapters.registry_upload import UploadSettings
from bundler.domain.digest import Digest
from bundler.domain.oci import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from bundler.domain.reference import Reference
from bundler.errors import (
    AccessError,
    BundleError,
    DigestError,
    FormatError,
    LimitError,
    NetworkError,
    TransientError,
)
from bundler.lab.tls import make_authority, server_context
from tests.fakes.images import blob_descriptor, image, layer_bytes
from tests.fakes.scripted_server import Asked, Reply, Script, Wallet, client_of, serving

pytestmark = pytest.mark.loopback

GOOD = image("good")
BLOB = layer_bytes("blob", 5000)
OTHER = layer_bytes("other", 5000)
SECRET = "hunter2-CANARY"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One bad answer: who gives it, who asks, which error comes of it after at most how many requests."""

    id: str
    script: Script
    act: Callable[[RegistryClient, str], object]
    error: type[BundleError]
    requests: int = 1
    says: str = ""


def by_tag(client: RegistryClient, authority: str) -> object:
    return client.manifest(Reference.parse(f"{authority}/app:1"))


def by_digest(client: RegistryClient, authority: str) -> object:
    return client.manifest(Reference.parse(f"{authority}/app:1").pinned(GOOD.digest))


def read(client: RegistryClient, authority: str) -> object:
    got = bytearray()
    client.read_blob(Reference.parse(f"{authority}/app"), blob_descriptor(BLOB), got.extend, restart=got.clear)
    return bytes(got)


def head_then_get(client: RegistryClient, authority: str) -> object:
    reference = Reference.parse(f"{authority}/app:1")
    digest = client.manifest_digest(reference)
    assert digest is not None
    return client.manifest(reference.pinned(digest))


def upload(client: RegistryClient, authority: str) -> object:
    return client.upload_blob(Reference.parse(f"{authority}/app"), blob_descriptor(BLOB), pieces_of(BLOB))


def store(client: RegistryClient, authority: str) -> object:
    return client.put_manifest(Reference.parse(f"{authority}/app:1"), GOOD.raw, OCI_MANIFEST)


def pieces_of(content: bytes, size: int = 1024) -> Callable[[int], Iterator[memoryview]]:
    def reopen(start: int) -> Iterator[memoryview]:
        for place in range(start, len(content), size):
            yield memoryview(content)[place : place + size]

    return reopen


def always(reply: Reply | bytes | None) -> Script:
    return lambda asked: reply


def manifest(document: object, media_type: str = OCI_MANIFEST, **headers: str) -> Script:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return always(Reply(headers={"Content-Type": media_type, **headers}, body=raw))


def with_layer(**fields: object) -> dict[str, object]:
    layer = {"mediaType": LAYER, "digest": str(Digest.of(BLOB)), "size": len(BLOB)} | fields
    return json.loads(GOOD.raw) | {"layers": [layer]}


def challenge(text: str) -> Script:
    return always(Reply(status=401, headers={"WWW-Authenticate": text}))


def endless(size: int) -> Iterable[bytes]:
    return (b" " * 65536 for _ in range(size // 65536))


def short(asked: Asked) -> Reply:
    """The first half, then never any more."""
    if "range" in asked.headers:
        headers = {"Content-Range": asked.headers["range"].replace("=", " ") + "/5000"}
        return Reply(status=206, headers=headers, length=2500, cut=True)
    return Reply(body=BLOB[:2500], length=5000, cut=True)


def short_without_length(asked: Asked) -> Reply:
    if "range" in asked.headers:
        return Reply(status=416)
    return Reply(body=BLOB[:2500], length=None)


def two_digests(asked: Asked) -> Reply:
    headers = {"Content-Type": OCI_MANIFEST}
    if asked.method == "HEAD":
        return Reply(headers={**headers, "Docker-Content-Digest": str(Digest.of(OTHER))})
    return Reply(headers=headers, body=GOOD.raw)


def stored_as_other(asked: Asked) -> Reply:
    if asked.method == "PUT":
        return Reply(status=201)
    return Reply(headers={"Docker-Content-Digest": str(Digest.of(OTHER))})


INDEX_ENTRY = {"mediaType": OCI_INDEX, "digest": str(GOOD.digest), "size": len(GOOD.raw)}
TINY_ENTRY = {"mediaType": OCI_MANIFEST, "digest": str(GOOD.digest), "size": 1}
SCHEMA_1 = {"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": [], "history": []}
BEARER = 'Bearer realm="{}",service="x"'

CASES = [
    Case(
        id="D01 other content for a digest", script=always(Reply(body=OTHER)), act=read, error=DigestError, requests=3
    ),
    Case(
        id="D01 other manifest for a digest",
        script=manifest(image("bad").raw),
        act=by_digest,
        error=DigestError,
        requests=3,
    ),
    Case(id="D02 longer than stated", script=always(Reply(body=BLOB + b"!")), act=read, error=DigestError, requests=3),
    Case(
        id="D02 longer, no length",
        script=always(Reply(body=BLOB + b"!", length=None)),
        act=read,
        error=DigestError,
        requests=3,
    ),
    Case(id="D03 shorter, cut", script=short, act=read, error=TransientError, requests=9),
    Case(id="D03 shorter, no length", script=short_without_length, act=read, error=TransientError, requests=9),
    Case(
        id="D04 manifest of 100 MB",
        script=always(Reply(body=endless(100 << 20), length=None)),
        act=by_tag,
        error=LimitError,
    ),
    Case(id="D04 Content-Length 1 TB", script=always(Reply(length=1 << 40, cut=True)), act=by_tag, error=LimitError),
    Case(
        id="D05 digest with a path",
        script=manifest(GOOD.raw, **{"Docker-Content-Digest": "sha256:../../x"}),
        act=by_tag,
        error=FormatError,
        says="/app:1: ",
    ),
    Case(
        id="D06 Content-Type is not mediaType",
        script=manifest(GOOD.raw, DOCKER_MANIFEST),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D06 no known type",
        script=manifest({"schemaVersion": 2, "config": {}, "layers": []}, "text/html"),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D07 manifests and layers",
        script=manifest(with_layer(manifests=[]) | {"manifests": []}),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D08 index of an index",
        script=manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [INDEX_ENTRY]}, OCI_INDEX),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D08 too many entries",
        script=manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [TINY_ENTRY] * 20_000}, OCI_INDEX),
        act=by_tag,
        error=LimitError,
    ),
    *(
        Case(id=f"D10 layer size {size}", script=manifest(with_layer(size=size)), act=by_tag, error=error)
        for size, error in (
            (0, FormatError),
            (-1, FormatError),
            (1 << 63, LimitError),
            (1.5, FormatError),
            ("1", FormatError),
        )
    ),
    Case(
        id="D12 schema 1",
        script=manifest(SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        act=by_tag,
        error=FormatError,
        says="/app:1: is not a schema 2 manifest",
    ),
    Case(id="D13 HEAD and GET differ", script=two_digests, act=head_then_get, error=DigestError, requests=4),
    Case(
        id="D13 header and content differ",
        script=manifest(GOOD.raw, **{"Docker-Content-Digest": str(Digest.of(OTHER))}),
        act=by_tag,
        error=DigestError,
        requests=3,
    ),
    *(
        Case(id=f"D15 realm {realm}", script=challenge(BEARER.format(realm)), act=by_tag, error=AccessError)
        for realm in (
            "https://elsewhere.example/token",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "http://user@127.0.0.1/token",
            "",
        )
    ),
    Case(
        id="D19 redirects without end",
        script=lambda asked: Reply(status=307, headers={"Location": asked.target + "x"}),
        act=by_tag,
        error=NetworkError,
        requests=6,
    ),
    Case(id="D19 redirect to nowhere", script=always(Reply(status=302)), act=by_tag, error=NetworkError),
    Case(
        id="D19 redirect to what is no URL",
        script=always(Reply(status=302, headers={"Location": "http://a b/"})),
        act=by_tag,
        error=NetworkError,
    ),
    Case(
        id="D19 redirect to a file",
        script=always(Reply(status=302, headers={"Location": "file:///etc/passwd"})),
        act=by_tag,
        error=NetworkError,
    ),
    Case(
        id="D19 redirected upload",
        script=always(Reply(status=307, headers={"Location": "/other"})),
        act=upload,
        error=NetworkError,
    ),
    Case(
        id="D21 layer at a foreign URL",
        script=manifest(with_layer(urls=["http://127.0.0.1:1/x"])),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D22 a challenge of 1 MB",
        script=challenge('Bearer realm="' + "x" * (1 << 20) + '"'),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D22 a challenge of 20 KB",
        script=challenge('Bearer realm="' + "x" * 20_000 + '"'),
        act=by_tag,
        error=FormatError,
    ),
    Case(id="D22 two challenges", script=challenge('Basic realm="a", Bearer realm="b"'), act=by_tag, error=FormatError),
    Case(
        id="D22 unterminated quote", script=challenge('Bearer realm="http://127.0.0.1'), act=by_tag, error=FormatError
    ),
    Case(id="D22 realm twice", script=challenge('Bearer realm="a",realm="b"'), act=by_tag, error=FormatError),
    Case(id="D22 unknown scheme", script=challenge("Negotiate abc"), act=by_tag, error=FormatError),
    Case(id="D22 no challenge", script=always(Reply(status=401)), act=by_tag, error=FormatError),
    Case(
        id="D22 too many headers",
        script=always(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
        act=by_tag,
        error=FormatError,
    ),
    Case(
        id="D25 encoded manifest",
        script=manifest(b"\x1f\x8b" + b"\0" * 100, **{"Content-Encoding": "gzip"}),
        act=by_tag,
        error=LimitError,
    ),
    Case(
        id="D25 encoded blob is not decoded",
        script=always(Reply(headers={"Content-Encoding": "gzip"}, body=OTHER)),
        act=read,
        error=DigestError,
        requests=3,
    ),
    Case(
        id="D27 stored under another digest",
        script=always(Reply(status=201, headers={"Docker-Content-Digest": str(Digest.of(OTHER))})),
        act=store,
        error=DigestError,
    ),
    Case(id="D27 other content when asked again", script=stored_as_other, act=store, error=DigestError, requests=2),
    Case(
        id="wrong Content-Range",
        script=lambda asked: (
            short(asked)
            if "range" not in asked.headers
            else Reply(status=206, headers={"Content-Range": "bytes 0-2499/5000"}, body=BLOB[:2500])
        ),
        act=read,
        error=NetworkError,
        requests=2,
    ),
    Case(id="not HTTP", script=always(b"SSH-2.0-OpenSSH_9.2\r\n"), act=by_tag, error=NetworkError, requests=8),
    Case(id="upload without Location", script=always(Reply(status=202)), act=upload, error=FormatError),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_answer_is_refused_by_name_and_in_time(case: Case) -> None:
    wallet = Wallet(SECRET)
    began = time.monotonic()
    with serving(case.script) as server:
        with pytest.raises(case.error) as caught:
            case.act(client_of(provider=wallet), server.authority)
        took_s = time.monotonic() - began
        assert took_s < 2
        time.sleep(0.02)
        assert len(server.requests) <= case.requests
        assert not any("authorization" in asked.headers for asked in server.requests)
    assert case.says in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value.hint}"


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{sink}/up", "http://localhost:{own}/up", "https://127.0.0.1:{own}/up"]
)
def test_d16_an_upload_is_not_continued_elsewhere(location: str) -> None:
    with serving(always(Reply(status=201))) as sink, serving(lambda asked: None) as server:
        text = location.format(sink=sink.port, own=server.port)
        server.script = lambda asked: Reply(status=202, headers={"Location": text})
        with pytest.raises(AccessError, match="not its own"):
            upload(client_of(provider=Wallet(SECRET)), server.authority)
        assert sink.requests == []
        assert len(server.requests) == 1


def test_d15_credentials_never_reach_a_realm_elsewhere() -> None:
    with serving(always(Reply(body=b'{"token":"t"}'))) as sink, serving(challenge(BEARER.format("-"))) as server:
        server.script = challenge(BEARER.format(sink.url + "/token"))
        with pytest.raises(AccessError, match="nothing was sent") as caught:
            by_tag(client_of(provider=Wallet(SECRET)), server.authority)
        assert sink.requests == []
        assert f"realms: [{sink.url}]" in caught.value.hint


@pytest.fixture
def authority_tls(tmp_path: Path):  # type: ignore[no-untyped-def]
    authority = make_authority("scripted")
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    return server_context(authority, ("127.0.0.1", "localhost", "reg.example"), folder=tmp_path / "pair"), str(path)


def test_d17_a_redirect_from_https_to_http_is_not_followed(authority_tls) -> None:  # type: ignore[no-untyped-def]
    context, ca_file = authority_tls
    with serving(always(Reply())) as sink:
        reply = Reply(status=302, headers={"Location": sink.url + "/blob"})
        with serving(always(reply), tls=context) as server:
            settings = TransportSettings(ca_files=(ca_file,), connect_to={"reg.example": (server.host, server.port)})
            with pytest.raises(NetworkError, match="plain http"):
                read(client_of(settings), "reg.example")
        assert sink.requests == []


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1:{sink}/",
        "http://localhost:{sink}/",
        "http://169.254.169.254/",
        "http://10.1.2.3/",
        "http://2130706433:{sink}/",
    ],
)
def test_d18_a_public_host_cannot_redirect_inwards(place: str) -> None:
    def zones(address: str) -> Zone:
        return Zone.PUBLIC if address == "127.0.0.2" else zone_of(address)

    with serving(always(Reply(body=BLOB))) as sink:
        reply = Reply(status=307, headers={"Location": place.format(sink=sink.port)})
        with serving(always(reply), host="127.0.0.2") as server, pytest.raises(NetworkError, match="refused"):
            read(client_of(TransportSettings(zone_of=zones)), server.authority)
        assert sink.requests == []


def test_d18_a_private_registry_may_redirect_to_its_neighbour_and_outwards_but_never_to_link_local() -> None:
    def zones(address: str) -> Zone:
        return {"127.0.0.2": Zone.PRIVATE, "127.0.0.3": Zone.PRIVATE, "127.0.0.4": Zone.PUBLIC}.get(
            address, zone_of(address)
        )

    settings = TransportSettings(zone_of=zones)
    for target in ("127.0.0.3", "127.0.0.4"):
        with serving(always(Reply(body=BLOB)), host=target) as store_:
            reply = Reply(status=307, headers={"Location": store_.url + "/b?X-Amz-Signature=abc"})
            with serving(always(reply), host="127.0.0.2") as server:
                assert read(client_of(settings), server.authority) == BLOB
    reply = Reply(status=307, headers={"Location": "http://169.254.169.254/"})
    with serving(always(reply)) as server, pytest.raises(NetworkError, match="link-local"):
        read(client_of(), server.authority)


def test_d20_a_redirect_target_gets_no_credentials_and_cannot_ask_for_any() -> None:
    def registry(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return Reply(status=307, headers={"Location": sink.url + "/b?token=SIGNED"})

    wallet = Wallet(SECRET)
    with serving(always(Reply(body=BLOB))) as sink, serving(registry) as server:
        assert read(client_of(provider=wallet), server.authority) == BLOB
        assert [sorted(asked.headers) for asked in sink.requests] == [["accept-encoding", "host", "user-agent"]]
        sink.script = challenge(f'Bearer realm="{sink.url}/token"')
        with pytest.raises(NetworkError, match="asks for credentials") as caught:
            read(client_of(provider=wallet), server.authority)
        assert "SIGNED" not in str(caught.value)
        assert not any("authorization" in asked.headers for asked in sink.requests)
        assert set(wallet.hosts) == {server.authority}


def test_d20_a_same_origin_redirect_carries_no_credentials_either() -> None:
    def registry(asked: Asked) -> Reply:
        if asked.path == "/moved":
            return Reply(body=BLOB)
        if "authorization" not in asked.headers:
            return Reply(status=401, headers={"WWW-Authenticate": "Basic"})
        return Reply(status=307, headers={"Location": "/moved"})

    with serving(registry) as server:
        assert read(client_of(provider=Wallet(SECRET)), server.authority) == BLOB
        assert "authorization" not in server.requests[-1].headers


def test_d24_a_certificate_of_an_unknown_authority_names_the_flag(authority_tls) -> None:  # type: ignore[no-untyped-def]
    context, ca_file = authority_tls
    with serving(manifest(GOOD.raw), tls=context) as server:
        address = {"reg.example": (server.host, server.port)}
        with pytest.raises(NetworkError) as caught:
            by_tag(client_of(TransportSettings(connect_to=address)), "reg.example")
        assert "--ca-file" in caught.value.hint
        assert not isinstance(caught.value, TransientError)
        assert server.requests == []
        by_tag(client_of(TransportSettings(connect_to=address, ca_files=(ca_file,))), "reg.example")


def test_the_name_is_kept_where_only_the_address_is_overridden(authority_tls) -> None:  # type: ignore[no-untyped-def]
    context, ca_file = authority_tls
    with serving(manifest(GOOD.raw), tls=context) as server:
        for key in ("reg.example", "reg.example:443"):
            settings = TransportSettings(connect_to={key: (server.host, server.port)}, ca_files=(ca_file,))
            by_tag(client_of(settings), "reg.example")
        assert {asked.headers["host"] for asked in server.requests} == {"reg.example"}
        wrong = TransportSettings(connect_to={"other.example": (server.host, server.port)}, ca_files=(ca_file,))
        with pytest.raises(NetworkError, match="certificate is refused"):
            by_tag(client_of(wrong), "other.example")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_d26_only_200_means_present(status: int) -> None:
    name = Reference.parse("127.0.0.1:1/app:1")
    with serving(always(Reply(status=status))) as server:
        name = Reference.parse(f"{server.authority}/app:1")
        with pytest.raises(TransientError):
            client_of().has_blob(name, GOOD.digest)
        with pytest.raises(TransientError):
            client_of().manifest_digest(name)
        server.script = always(Reply(status=404))
        assert client_of().has_blob(name, GOOD.digest) is False
        assert client_of().manifest_digest(name) is None


@pytest.mark.parametrize("status", [204, 206, 405, 410, 418])
def test_d26_an_unclear_answer_means_absent(status: int) -> None:
    with serving(always(Reply(status=status))) as server:
        assert client_of().has_blob(Reference.parse(f"{server.authority}/app"), GOOD.digest) is False


def test_d26_a_head_that_is_not_allowed_is_asked_as_a_get() -> None:
    def script(asked: Asked) -> Reply:
        if asked.method == "HEAD":
            return Reply(status=405)
        return Reply(headers={"Content-Type": OCI_MANIFEST}, body=GOOD.raw)

    with serving(script) as server:
        assert client_of().manifest_digest(Reference.parse(f"{server.authority}/app:1")) == GOOD.digest


@pytest.mark.parametrize("stated", ["0-100", "0-99999", "0--5", "nonsense", "7-1999"])
def test_d28_a_wrong_count_of_an_upload_begins_it_again_and_then_fails(stated: str) -> None:
    def script(asked: Asked) -> Reply:
        if asked.method == "HEAD":
            return Reply(status=404)
        if asked.method == "POST":
            return Reply(status=202, headers={"Location": "/v2/app/blobs/uploads/1"})
        if asked.method == "PUT":
            return Reply(status=413)
        return Reply(status=202, headers={"Location": "/v2/app/blobs/uploads/1", "Range": stated})

    with serving(script) as server:
        client = client_of(uploads=UploadSettings(chunk_bytes=2000))
        with pytest.raises(TransientError):
            upload(client, server.authority)
        assert len(server.asked("POST")) == 8
        assert len(server.asked("PUT")) == 1


def test_d02_a_length_that_is_too_long_is_refused_before_the_first_byte() -> None:
    got: list[int] = []
    with serving(always(Reply(body=BLOB[:100], length=len(BLOB) + 1, cut=True))) as server:
        name = Reference.parse(f"{server.authority}/app")
        with pytest.raises(DigestError, match="5001 bytes where 5000 are stated"):
            client_of().read_blob(name, blob_descriptor(BLOB), lambda piece: got.append(len(piece)), restart=list)
    assert got == []


def test_d20_what_a_redirect_target_says_of_tokens_refreshes_none_of_ours() -> None:
    wallet = Wallet(SECRET)
    with serving(always(Reply(status=403, body=b"<Code>ExpiredToken</Code>"))) as sink:

        def registry(asked: Asked) -> Reply:
            if "authorization" not in asked.headers:
                return Reply(status=401, headers={"WWW-Authenticate": "Basic"})
            return Reply(status=307, headers={"Location": sink.url + "/b"})

        with serving(registry) as server:
            client = client_of(provider=wallet)
            for _ in range(2):
                with pytest.raises(AccessError):
                    read(client, server.authority)
    assert wallet.refreshed == 0


def test_d18_even_a_link_local_host_cannot_redirect_to_another() -> None:
    def zones(address: str) -> Zone:
        return Zone.LINK_LOCAL if address in ("127.0.0.5", "127.0.0.6") else zone_of(address)

    with serving(always(Reply(body=BLOB)), host="127.0.0.6") as sink:
        reply = Reply(status=307, headers={"Location": sink.url})
        with serving(always(reply), host="127.0.0.5") as server, pytest.raises(NetworkError, match="link-local"):
            read(client_of(TransportSettings(zone_of=zones)), server.authority)
        assert sink.requests == []


@pytest.mark.parametrize("is_token", [False, True])
def test_d04_no_more_is_read_of_an_endless_answer_than_its_limit(is_token: bool) -> None:
    """A limit of 4 MiB for a manifest, 256 KiB for a token: what follows stays at the server."""

    def pieces() -> Iterator[bytes]:
        for number in range(64 << 4):
            sent[-1] = number << 16
            yield b" " * 65536

    def script(asked: Asked) -> Reply:
        sent.append(0)
        if is_token and asked.path != "/token":
            return Reply(status=401, headers={"WWW-Authenticate": f'Bearer realm="{server.url}/token"'})
        return Reply(body=pieces(), length=None)

    sent: list[int] = []
    with serving(script) as server, pytest.raises(LimitError):
        by_tag(client_of(), server.authority)
    assert sent[-1] < 24 << 20  # what the sockets of both sides hold, and not 64 MiB


def test_tags_without_end_are_refused() -> None:
    def script(asked: Asked) -> Reply:
        return Reply(headers={"Link": f'<{asked.path}?n=1&last=x>; rel="next"'}, body=b'{"tags":["a"]}')

    with serving(script) as server, pytest.raises(LimitError):
        client_of().tags(Reference.parse(f"{server.authority}/app"))


def test_tags_do_not_go_on_at_another_registry() -> None:
    reply = Reply(headers={"Link": '<http://127.0.0.1:9/v2/app/tags/list>; rel="next"'}, body=b'{"tags":[]}')
    with serving(always(reply)) as server, pytest.raises(FormatError):
        client_of().tags(Reference.parse(f"{server.authority}/app"))


def test_content_of_a_wrong_digest_is_never_completed() -> None:
    """The last piece is held back, so that the registry gets a cut request."""

    def script(asked: Asked) -> Reply:
        return Reply(status=202, headers={"Location": "/up"}) if asked.method == "POST" else Reply(status=201)

    wrong = Descriptor(media_type=LAYER, digest=Digest.of(BLOB), size=len(OTHER))
    for content in (OTHER, OTHER[:-1], b""):
        with serving(script) as server:
            with pytest.raises(DigestError):
                client_of().upload_blob(Reference.parse(f"{server.authority}/app"), wrong, pieces_of(content))
            time.sleep(0.05)
            assert all(asked.was_cut for asked in server.requests if asked.method == "PUT")
