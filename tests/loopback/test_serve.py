"""`bundle serve` on a real port: what goes over the wire, to clients that mean well and to others."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import re
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from bundler.adapters.archive_file import ArchiveFile
from bundler.adapters.serve_connections import Limits, Service, listen, serve_connections
from bundler.archive.reader import open_archive
from bundler.cli.serve import serve
from bundler.domain.http_message import MAX_HEAD_BYTES, Exchange
from bundler.errors import BundleError
from bundler.lab.tls import Subject, issue, make_authority
from bundler.stages.serve import Served
from bundler.transfer import parallel_map
from tests.fakes.archives import Sample, locked_image, sample
from tests.fakes.images import image
from tests.journey import BUNDLE, clean_environment
from tests.serving import Running, serving, write_bundle

pytestmark = pytest.mark.loopback
MIB = 1 << 20
HEAVY = bytes(range(256)) * (24 * MIB // 256)
PASSWORD = "s3cret-PASSWORD"
HTPASSWD = "user:$2b$04$u/7TEA5nz5EcAGrPs/Ov7.WgpDXSWfQ/4wbrSHm8kgMEyf/gKZmUe\n"  # bcrypt of PASSWORD
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def heavy() -> Sample:
    """The sample with one layer of 24 MiB in its Docker image."""
    made = sample()
    blobs = dict(made.blobs)
    large = image("metrics", layers=[HEAVY], docker=True)
    locked = locked_image("registry.k8s.io/metrics-server/metrics-server:v0.7", large, blobs)
    kept = [locked if one.reference == locked.reference else one for one in made.lock.images]
    return replace(made, lock=made.lock.model_copy(update={"images": tuple(kept)}), blobs=blobs)


MADE = heavy()
METRICS = next(one for one in MADE.lock.images if one.reference.repository.startswith("metrics"))
PAUSE = next(one for one in MADE.lock.images if one.reference.repository == "pause")
LARGE = f"/v2/{METRICS.reference.name}/blobs/{METRICS.manifests[0].blobs[1].digest}"
MANIFEST = f"/v2/{PAUSE.reference.name}/manifests/3.10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    write_bundle(MADE, made)
    return made


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    return folder / "sample-7.tar"


@pytest.fixture(scope="module")
def running(folder: Path, archive: Path) -> Iterator[Running]:
    with serving(archive, folder) as started:
        yield started


def get(running: Running, path: str, *, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.request(method, running.url + path, headers=named, retries=False, timeout=30)


def talk(port: int, sent: bytes) -> bytes:
    """Everything that comes back until the far side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


def asking(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: here", *fields, "", ""]).encode()


# What is served


def test_every_image_and_chart_is_there_byte_for_byte(running: Running) -> None:
    pushed = [(one.reference.name, one.reference.tag, one.target, one.manifests) for one in MADE.lock.images]
    pushed += [(f"charts/{one.name}", "1.0.0_a", one.manifest, (one.manifest,)) for one in MADE.lock.charts]
    for name, tag, target, manifests in pushed:
        answer = get(running, f"/v2/{name}/manifests/{tag}")
        assert answer.data == MADE.blobs[target.digest]
        assert answer.headers["Content-Type"] == target.media_type
        for manifest in manifests:
            assert get(running, f"/v2/{name}/manifests/{manifest.digest}").data == MADE.blobs[manifest.digest]
            for blob in manifest.blobs:
                assert get(running, f"/v2/{name}/blobs/{blob.digest}").data == MADE.blobs[blob.digest]


def test_head_says_how_much_a_get_would_bring(running: Running) -> None:
    answer = get(running, LARGE, method="HEAD")
    assert (answer.status, answer.headers["Content-Length"], answer.data) == (200, str(len(HEAVY)), b"")


@pytest.mark.parametrize(
    ("value", "status", "part"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        (f"bytes={MIB - 3}-{2 * MIB + 5}", 206, slice(MIB - 3, 2 * MIB + 6)),
        (f"bytes={len(HEAVY) - 10}-", 206, slice(len(HEAVY) - 10, None)),
        ("bytes=-7", 206, slice(-7, None)),
        (f"bytes={len(HEAVY)}-", 416, None),
        ("bytes=0-1,5-6", 200, slice(None)),
    ],
)
def test_a_range_is_that_part(running: Running, value: str, status: int, part: slice | None) -> None:
    answer = get(running, LARGE, range=value)
    assert answer.status == status
    if part is not None:
        assert answer.data == HEAVY[part]


def test_an_answer_bears_its_date_and_what_is_known_is_not_sent(running: Running) -> None:
    answer = get(running, MANIFEST)
    assert answer.headers["Date"].endswith(" GMT")
    again = get(running, MANIFEST, if_none_match=answer.headers["ETag"])
    assert (again.status, again.data) == (304, b"")


def test_one_connection_bears_many_requests(running: Running) -> None:
    back = talk(running.port, asking("/v2/") * 20 + asking("/v2/", "Connection: close"))
    assert back.count(b"HTTP/1.1 200 OK\r\n") == 21


def test_thirty_clients_at_once_get_what_each_asked_for(running: Running) -> None:
    blobs = [(one.reference.name, blob) for one in MADE.lock.images for m in one.manifests for blob in m.blobs]

    def pull(number: int) -> int:
        name, blob = blobs[number % len(blobs)]
        answer = get(running, f"/v2/{name}/blobs/{blob.digest}")
        assert answer.data == MADE.blobs[blob.digest]
        return len(answer.data)

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        moved = sum(pool.map(pull, range(90)))
    assert moved == sum(blobs[number % len(blobs)][1].size for number in range(90))


# Damage


def test_a_damaged_blob_breaks_the_connection_and_is_logged(folder: Path, archive: Path, tmp_path: Path) -> None:
    with ArchiveFile.open(archive) as source:
        members = open_archive(source, MADE.trust).blobs
    large = members[METRICS.manifests[0].blobs[1].digest]
    manifest = members[PAUSE.target.digest]
    copy = tmp_path / "damaged.tar"
    copy.write_bytes(archive.read_bytes())
    with copy.open("r+b") as file:
        for offset in (large.offset + large.size - 1, manifest.offset + 5):
            file.seek(offset)
            file.write(b"\0")
    (tmp_path / "trust").symlink_to(folder / "trust")
    with serving(copy, tmp_path) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
            client.sendall(asking(LARGE))
            received: list[int] = []
            with pytest.raises(ConnectionResetError):
                received.extend(map(len, iter(lambda: client.recv(1 << 16), b"")))
        assert sum(received) < len(HEAVY)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            get(running, LARGE)
        for path, value in ((MANIFEST, ""), (LARGE, "bytes=0-9")):
            answer = get(running, path, range=value)
            assert (answer.status, answer.json()["errors"][0]["code"]) == (500, "UNKNOWN")
        assert get(running, "/v2/").status == 200
        log = running.log.read_text()
    assert log.count("FAILED") == 4
    assert "is damaged" in log


# Clients that do not mean well


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2/ now\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (asking("/v2/", "X" * (MAX_HEAD_BYTES + 1)), 431),
        (asking("/v2/", *["a: b"] * 200), 431),
        (b"G" * (MAX_HEAD_BYTES * 3), 431),
        (asking("/v2/", "Host: two"), 400),
        (asking("/v2/../../../etc/passwd", "Connection: close"), 404),
        (asking("/v2/%2e%2e/%2e%2e/etc/passwd/manifests/x%00", "Connection: close"), 404),
        (b"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nGET /v2/ ", 405),
        (b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /", 405),
    ],
)
def test_it_is_refused_once_and_the_connection_ends(running: Running, sent: bytes, status: int) -> None:
    with suppress(ConnectionResetError):
        back = talk(running.port, sent)
        assert back.startswith(f"HTTP/1.1 {status} ".encode())
        assert back.count(b"HTTP/1.1 ") == 1
    assert get(running, "/v2/").status == 200


def test_a_log_line_is_one_line_and_has_no_query(running: Running) -> None:
    talk(running.port, asking("/v2/a%0A2026%20forged%1b[31m/tags/list?secret=CANARY", "Connection: close"))
    log = running.log.read_text()
    assert r"GET /v2/a\x0a2026 forged\x1b[31m/tags/list" in log
    assert "CANARY" not in log
    assert all(line[:2] == "20" for line in log.splitlines())


class _DoneError(Exception):
    """The client has seen what it wanted."""


def beside(archive: Path, limits: Limits, client: Callable[[int], None], *, connections: int = 1) -> list[Exchange]:
    """Run `client` beside a server in this process; return what that logged."""
    log: list[Exchange] = []

    def work() -> None:
        client(listener.getsockname()[1])
        raise _DoneError

    with ArchiveFile.open(archive) as source, listen("127.0.0.1", 0) as listener:
        service = Service(handle=Served(open_archive(source, MADE.trust)).answer, log=log.append, limits=limits)

        def attend() -> None:
            serve_connections(listener, service, connections=connections)

        with pytest.raises(_DoneError):
            parallel_map(lambda run: run(), [attend, work], workers=2)
    return log


def test_a_body_is_never_taken_for_a_request(archive: Path) -> None:
    inner = asking("/v2/smuggled/tags/list")
    head = f"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\nContent-Length: {len(inner)}\r\n\r\n".encode()

    def client(port: int) -> None:
        assert talk(port, head + inner).count(b"HTTP/1.1 ") == 1
        talk(port, asking("/v2/", "Connection: close"))  # answered by the same worker, after all of that

    assert [one.asked for one in beside(archive, Limits(), client)] == ["PUT /v2/a/manifests/b", "GET /v2/"]


@pytest.mark.parametrize("sent", [b"", b"GET /v2/ HT", asking("/v2/")])
def test_who_says_nothing_more_makes_room_for_the_next(archive: Path, sent: bytes) -> None:
    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as first:
            first.sendall(sent)
            back = talk(port, asking("/v2/", "Connection: close"))
            assert back.startswith(b"HTTP/1.1 200 OK")

    beside(archive, Limits(idle_s=0.2, head_s=0.2), client)


def test_a_head_in_drops_has_one_deadline(archive: Path) -> None:
    drops = 0

    def client(port: int) -> None:
        nonlocal drops
        with socket.create_connection(("127.0.0.1", port), timeout=30) as first, suppress(ConnectionError):
            first.settimeout(0.05)
            while drops < 400:
                first.sendall(b"G")
                drops += 1
                with suppress(TimeoutError):
                    assert first.recv(1) == b""
                    break

    beside(archive, Limits(head_s=0.5), client)
    assert 4 < drops < 400  # neither turned away at once, nor listened to for ever


def test_who_takes_nothing_is_given_up(archive: Path) -> None:
    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
            slow.sendall(asking(LARGE))
            assert talk(port, asking("/v2/", "Connection: close")).startswith(b"HTTP/1.1 200 OK")

    log = beside(archive, Limits(send_s=0.3), client)
    given_up = next(one for one in log if "/blobs/" in one.asked)
    assert given_up.failure is not None
    assert given_up.sent_bytes < len(HEAVY)


def test_who_takes_it_slowly_gets_it_and_memory_does_not_grow(folder: Path, archive: Path) -> None:
    """Eight clients with 24 MiB each under way: what is held for each is a buffer of 1 MiB."""
    with serving(archive, folder) as running:
        assert get(running, "/v2/").status == 200
        before = peak_mib(running)
        clients = []
        for _ in range(8):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(30)
            client.connect(("127.0.0.1", running.port))
            client.sendall(asking(LARGE, "Connection: close"))
            clients.append(client)
        for _ in range(50):
            for client in clients:
                assert client.recv(1024)
        clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        rest = b"".join(iter(lambda: clients[0].recv(MIB), b""))
        assert HEAVY.endswith(rest)
        assert len(rest) > len(HEAVY) - 50 * 1024 - 1024
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert peak_mib(running) - before < 24


def peak_mib(running: Running) -> float:
    found = _PEAK.search(Path(f"/proc/{running.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


# TLS and passwords


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Authority, certificate and key."""
    made, authority = tmp_path_factory.mktemp("tls"), make_authority("an authority")
    issued = issue(authority, Subject(common_name="serve"), names=("127.0.0.1", "localhost"))
    paths = made / "ca.pem", made / "cert.pem", made / "key.pem"
    for path, content in zip(paths, (authority.pem, issued.certificate_pem, issued.key_pem), strict=True):
        path.write_bytes(content)
    return paths


def test_tls_and_passwords(folder: Path, archive: Path, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    authority, certificate, key = pair
    users = tmp_path / "htpasswd"
    users.write_text(HTPASSWD)
    options = ("--tls", str(certificate), str(key), "--htpasswd", str(users))
    with serving(archive, folder, *options) as running, urllib3.PoolManager(ca_certs=str(authority)) as pool:
        assert running.url == f"https://{running.address}"
        right = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        wrong = base64.b64encode(b"user:CANARY").decode()
        for value, status in (("", 401), (f"Basic {wrong}", 401), (f"Basic {right}", 200)):
            for path in ("/v2/", MANIFEST):
                answer = pool.request("GET", running.url + path, headers={"Authorization": value}, retries=False)
                assert answer.status == status
                if status == 401:
                    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
                    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
        large = pool.request("GET", running.url + LARGE, headers={"Authorization": f"Basic {right}"})
        assert large.data == HEAVY
        with suppress(ConnectionResetError):
            assert talk(running.port, asking("/v2/")) == b"", "plain HTTP on a port with TLS"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(authority)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as plain, pytest.raises(OSError):
            old.wrap_socket(plain, server_hostname="127.0.0.1")
        log = running.log.read_text()
        assert running.stop() == 130
    for secret in (PASSWORD, right, wrong, "CANARY"):
        assert secret not in log


# Starting and ending


def test_ctrl_c_ends_it_while_clients_are_served(folder: Path, archive: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with serving(archive, folder) as running:
            with (
                socket.create_connection(("127.0.0.1", running.port), timeout=30) as slow,
                socket.create_connection(("127.0.0.1", running.port), timeout=30) as idle,
            ):
                slow.sendall(asking(LARGE))
                idle.sendall(asking("/v2/"))
                assert slow.recv(1024)
                assert idle.recv(1024)
                assert running.stop(number) == code
            assert "Traceback" not in running.log.read_text()


def test_a_log_on_a_full_disk_costs_no_client_its_connection(folder: Path, archive: Path) -> None:
    argv = [*BUNDLE, "serve", str(archive), "--trust", str(folder / "trust"), "--listen", "127.0.0.1:0", "-o", "json"]
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(argv, env=clean_environment(), stdout=subprocess.PIPE, stderr=full) as process,
    ):
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])
            assert talk(port, asking("/v2/") * 3 + asking("/v2/", "Connection: close")).count(b" 200 OK") == 4
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
        finally:
            process.kill()


def refused(folder: Path, *options: str | Path) -> BundleError:
    """The error of a `bundle serve` that does not begin."""
    argv = [str(one) for one in (folder / "sample-7.tar", "--trust", folder / "trust", *options)]
    result = CliRunner().invoke(serve, argv, standalone_mode=False)
    assert isinstance(result.exception, BundleError), result.exception
    assert result.stdout == ""
    return result.exception


def test_a_port_that_is_taken_is_named(running: Running, folder: Path) -> None:
    error = refused(folder, "--listen", running.address)
    assert (error.exit_code, error.subject) == (6, running.address)
    assert "--listen" in error.hint


@pytest.mark.parametrize("value", ["5000", "127.0.0.1:70000", ":5000", "[::1:5000", "a b:1", "127.0.0.1:"])
def test_an_address_without_host_or_port_is_usage(value: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, ["x.tar", "--listen", value])
    assert result.exit_code == 2
    assert "is not HOST:PORT" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "host.invalid:0"), "has no address"),
        (("--listen", "a..b:0"), "has no address"),
        (("--listen", f"{'a' * 64}.example:0"), "has no address"),
        (("--tls", "{key}", "{cert}"), "are no certificate and its key"),
        (("--tls", "{cert}", "absent"), "are no certificate and its key"),
        (("--htpasswd", "{cert}"), "line 1 is no user"),
    ],
)
def test_what_cannot_be_served_is_usage(
    folder: Path, pair: tuple[Path, Path, Path], options: tuple[str, ...], said: str
) -> None:
    error = refused(folder, "--listen", "127.0.0.1:0", *(one.format(cert=pair[1], key=pair[2]) for one in options))
    assert error.exit_code == 2
    assert said in error.cause


def test_a_key_with_a_password_is_refused_without_asking(
    folder: Path, pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    key = load_pem_private_key(pair[2].read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"CANARY")))
    assert refused(folder, "--listen", "127.0.0.1:0", "--tls", pair[1], locked).exit_code == 2


def test_an_archive_that_nobody_here_trusts_is_not_served(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "trust").mkdir()
    (tmp_path / archive.name).symlink_to(archive)
    assert refused(tmp_path, "--listen", "127.0.0.1:0").exit_code == 3


def test_text_says_where_it_is(folder: Path, archive: Path) -> None:
    argv = [*BUNDLE, "serve", str(archive), "--trust", str(folder / "trust"), "--listen", "localhost:0"]
    with subprocess.Popen(argv, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        process.kill()
    assert re.fullmatch(r"sample-7 is at http://localhost:[0-9]+ \(4 repositories\); Ctrl-C ends it\n", line)


def test_certificate_and_key_come_from_the_environment_too(folder: Path, pair: tuple[Path, Path, Path]) -> None:
    with serving(folder / "sample-7.tar", folder, BUNDLE_SERVE_TLS=f"{pair[1]}:{pair[2]}") as running:
        assert running.url.startswith("https://")
