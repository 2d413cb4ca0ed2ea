"""`foundry`: where AMIs are found, baked and read out."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.atomic import publish
from bundler.cache import Cache
from bundler.data import data_folder
from bundler.wiring.clients import BLOCK_CONNECTIONS, aws_for
from bundler.wiring.surroundings import Surroundings, retry_policy

if TYPE_CHECKING:
    from bundler.adapters.aws.clients import Aws
    from bundler.adapters.aws.ebs import EbsDirect
    from bundler.adapters.packer import PackerAccess, PackerSettings
    from bundler.domain.definition import Definition
    from bundler.exports import ExportFolder
    from bundler.stages.bake import Bakery
    from bundler.stages.pin import Sights
    from bundler.workflows.bakes import Foundry

TEMPLATE = "al2023"
BAKE_LIMIT_S = 3600.0
_KEPT = frozenset(
    ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "PACKER_PLUGIN_PATH", "PACKER_CONFIG_DIR", "XDG_CONFIG_HOME")
)
_NO_TAG = re.compile(r"[^A-Za-z0-9 +=._:/@-]")
"""What EC2 may refuse in a tag, and Packer take for an expression of its own."""
_OWNER_CHARACTERS = 200
_PROXIES = frozenset(("http_proxy", "https_proxy", "no_proxy"))


def foundry(definition: Definition, cache: Cache, surroundings: Surroundings) -> Foundry:
    """Return the foundry; nothing of AWS or Packer is touched before it is needed."""
    from bundler.workflows.bakes import Foundry

    region = definition.builder.region or definition.source.region
    aws = functools.cache(lambda: aws_for(surroundings, region=region, connections=BLOCK_CONNECTIONS))
    return Foundry(
        sights=lambda folder: _sights(aws, region, folder),
        account=functools.cache(lambda: _account(aws())),
        region=region,
        bakery=functools.cache(lambda: _bakery(aws(), region, cache, surroundings)),
        reader=lambda: _reader(aws(), surroundings),
        place=lambda key: _export_folder(cache, key),
        template=data_folder("packer") / TEMPLATE,
    )


def _reader(aws: Aws, surroundings: Surroundings) -> EbsDirect:
    from bundler.adapters.aws.ebs import EbsDirect

    return EbsDirect(service=aws.service("ebs"), policy=retry_policy(surroundings))


def _export_folder(cache: Cache, key: str) -> ExportFolder:
    from bundler.exports import ExportFolder

    return ExportFolder(cache, key=key)


def _account(aws: Aws) -> str:
    return aws.service("sts").ask("GetCallerIdentity", lambda answer: str(answer["Account"]), about="caller")


def _sights(aws: Callable[[], Aws], region: str, folder: Path) -> Sights:
    from bundler.adapters.aws.ec2_images import Ec2Images
    from bundler.adapters.aws.ssm import Parameters
    from bundler.archive.payload import folder_digest
    from bundler.stages.pin import Sights

    return Sights(
        region=region,
        parameters=lambda: Parameters(aws().service("ssm")),
        images=lambda: Ec2Images(aws().service("ec2")),
        folder=folder,
        digest_of=folder_digest,
    )


def _bakery(aws: Aws, region: str, cache: Cache, surroundings: Surroundings) -> Bakery:
    from bundler.adapters.aws.ec2_builders import Ec2Builders
    from bundler.adapters.aws.ec2_images import Ec2Images
    from bundler.adapters.packer import Packer
    from bundler.adapters.packer_builds import PackerBuilds
    from bundler.retry import Patience
    from bundler.stages.bake import Bakery
    from bundler.transfer import pause

    ec2 = aws.service("ec2")
    patience = Patience(deadline_s=BAKE_LIMIT_S, sleep=pause, emit=surroundings.emit)
    work = cache.folder / "packer"
    owner = _owner(work, surroundings)
    builders = Ec2Builders(ec2, patience, owner=owner)
    builds = PackerBuilds(
        Packer(_packer_settings(aws, region, work, surroundings)),
        work=work,
        region=region,
        endpoint=aws.own_endpoint("ec2"),
        emit=surroundings.emit,
        beat=builders.beat,
    )
    return Bakery(
        images=Ec2Images(ec2, patience),
        builders=builders,
        packer=builds,
        patience=patience,
        owner=owner,
        emit=surroundings.emit,
    )


def _owner(work: Path, surroundings: Surroundings) -> str:
    """Who bakes: an id of all that share the locks in one folder of one host, and a name for people."""
    from bundler.wiring.surroundings import make_private

    make_private(work)
    host, path = os.uname().nodename, work / "owner"
    machine = Path("/etc/machine-id").read_bytes() if os.access("/etc/machine-id", os.R_OK) else b""
    shared = hashlib.sha256(machine + f" {host} {_secret_of(path)}".encode()).hexdigest()
    name = f"{surroundings.environ.get('USER', os.getuid())}@{host}"
    return f"{shared[:16]} {_NO_TAG.sub('-', name)[:_OWNER_CHARACTERS]}"


def _secret_of(path: Path) -> str:
    """What a folder has of its own, made once: two hosts made of one image have the same names and inodes."""
    if not path.exists():
        publish(path, secrets.token_hex(16).encode())
    return path.read_text()


def _packer_access(aws: Aws) -> PackerAccess:
    """Packer gets the credentials that boto3 has now: it knows fewer ways to them, and an old one none of the new."""
    from bundler.adapters.packer import PackerAccess

    found = aws.credentials()
    environ = {
        "AWS_ACCESS_KEY_ID": found.access_key,
        "AWS_SECRET_ACCESS_KEY": found.secret_key,
        **({"AWS_SESSION_TOKEN": found.token} if found.token else {}),
    }
    return PackerAccess(environ=environ, secrets=aws.secrets())


def _packer_settings(aws: Aws, region: str, work: Path, surroundings: Surroundings) -> PackerSettings:
    from bundler.adapters.packer import PackerSettings

    environ = surroundings.environ
    own = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    kept = {key: value for key, value in environ.items() if key in _KEPT or key.lower() in _PROXIES}
    return PackerSettings(
        binary=Path(shutil.which("packer", path=environ.get("PATH")) or "packer"),
        work=work,
        environ=_believing(kept | own, surroundings, work),
        access=functools.partial(_packer_access, aws),
    )


def _believing(environ: Mapping[str, str], surroundings: Surroundings, work: Path) -> dict[str, str]:
    from bundler.adapters.authorities import believing
    from bundler.wiring.surroundings import make_private

    make_private(work)
    return believing(environ, surroundings.ca_file, work=work)
