"""One server of each kind for the whole suite; every case has repositories of its own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bundler.lab.lab import LabFacts
from bundler.lab.plain import plain_registry
from tests.contract.registries import DOCKER, ECR, PLAIN, Registry
from tests.peers import StartRegistry, boto_client


@pytest.fixture(scope="session")
def pools() -> Iterator[Callable[..., urllib3.PoolManager]]:
    made: list[urllib3.PoolManager] = []

    def make(**options: Any) -> urllib3.PoolManager:
        made.append(urllib3.PoolManager(**options))
        return made[-1]

    yield make
    for pool in made:
        pool.clear()


@pytest.fixture(scope="session")
def docker_peer(shared_docker_registry: StartRegistry, pools: Callable[..., urllib3.PoolManager]) -> Registry:
    url = f"http://{shared_docker_registry()}"
    return Registry(name=DOCKER, url=url, pool=pools(), skopeo=("--tls-verify=false",))


@pytest.fixture(scope="session")
def plain_peer(
    tmp_path_factory: pytest.TempPathFactory, pools: Callable[..., urllib3.PoolManager]
) -> Iterator[Registry]:
    with plain_registry(tmp_path_factory.mktemp("plain")) as url:
        yield Registry(name=PLAIN, url=url, pool=pools(), skopeo=("--tls-verify=false",))


@pytest.fixture(scope="session")
def ecr_peer(
    lab: LabFacts, tmp_path_factory: pytest.TempPathFactory, pools: Callable[..., urllib3.PoolManager]
) -> Registry:
    client = boto_client(lab, "ecr")
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    certificates = tmp_path_factory.mktemp("certs")
    Path(certificates / "lab.crt").write_bytes(lab.ca_file.read_bytes())

    def create(name: str) -> None:
        client.create_repository(repositoryName=name)

    return Registry(
        name=ECR,
        url=f"https://{lab.ecr_address}",
        pool=pools(ca_certs=str(lab.ca_file)),
        user=user,
        password=password,
        create=create,
        skopeo=(f"--creds={user}:{password}", f"--cert-dir={certificates}"),
        ecr=client,
    )


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Registry:
    peers = {DOCKER: "docker_peer", PLAIN: "plain_peer", ECR: "ecr_peer"}
    found: Registry = request.getfixturevalue(peers[request.param])
    return found
