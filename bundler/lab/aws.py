"""The AWS APIs of the lab: moto in this process, with our corrections, behind the gate that checks signatures."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.lab.ecr import EcrRules, EcrSettings, Tokens
from bundler.lab.faults import Faults
from bundler.lab.place import AccessKey, Place
from bundler.lab.registry import Registry
from bundler.lab.registry_store import RegistryStore
from bundler.lab.request_log import RequestLog
from bundler.lab.settings import ImageSettings

if TYPE_CHECKING:
    from bundler.lab.machines import Machines, Network
    from bundler.lab.moto_ebs import SnapshotStore

OPERATOR = "lab-operator"
_OBJECT_IN_MEMORY_BYTES = 256 << 10  # moto's 16 MiB, times the parts of a bundle, would be all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedEcr:
    """The registry and what its API half shares with it."""

    registry: Registry
    store: RegistryStore
    rules: EcrRules
    settings: EcrSettings
    tokens: Tokens


def prepare_moto(place: Place, folder: Path) -> None:
    """Set what moto reads when it is imported; spooled objects go below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder)
    os.environ.update(
        MOTO_ACCOUNT_ID=place.account,
        MOTO_EC2_LOAD_DEFAULT_AMIS="false",
        MOTO_DISABLE_GLOBAL_CORS="true",
        MOTO_ALLOW_NONEXISTENT_REGION="true",
        MOTO_S3_DEFAULT_KEY_BUFFER_SIZE=str(_OBJECT_IN_MEMORY_BYTES),
    )


def embedded_ecr(place: Place, folder: Path, *, faults: Faults, log: RequestLog) -> EmbeddedEcr:
    """Return ECR, empty; call `prepare_moto` before."""
    from bundler.lab.moto_ecr import correct_ecr, find_settings

    settings, store = EcrSettings(), RegistryStore(folder)
    store.prepare()
    tokens = Tokens(settings)
    find = find_settings(place.account, place.region)
    rules = EcrRules(place, store, settings=settings, tokens=tokens, find=find)
    registry = Registry(store, rules, faults=faults, log=log)
    correct_ecr(registry, store, rules, settings=settings, tokens=tokens)
    return EmbeddedEcr(registry=registry, store=store, rules=rules, settings=settings, tokens=tokens)


def correct_moto(
    folder: Path, *, images: ImageSettings, machines: Machines | None = None, network: Network | None = None
) -> SnapshotStore:
    """Apply the corrections that need no facts; blocks of snapshots are kept below `folder`."""
    from bundler.lab.moto_autoscaling import correct_autoscaling
    from bundler.lab.moto_ebs import correct_ebs
    from bundler.lab.moto_ec2 import correct_ec2
    from bundler.lab.moto_s3 import correct_s3

    store = correct_ebs(folder)
    correct_ec2(store, machines, network, images)
    correct_autoscaling()
    correct_s3()
    return store


def make_operator(place: Place) -> AccessKey:
    """Make the IAM user whose key the site's operator has."""
    from moto.iam.models import iam_backends

    backend = iam_backends[place.account][place.partition]
    backend.create_user(region_name=place.region, user_name=OPERATOR)
    key = backend.create_access_key(user_name=OPERATOR)
    return AccessKey(id=key.access_key_id, secret=key.secret_access_key)


class AwsServer:
    """Moto behind the gate, on one port of 127.0.0.1."""

    def __init__(
        self, place: Place, *, faults: Faults, log: RequestLog, control: Callable[[str, str, bytes], tuple[int, object]]
    ) -> None:
        self._place = place
        self._faults = faults
        self._log = log
        self._control = control

    def start(self) -> str:
        """Serve in a thread, to the end of the process, and return the URL."""
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        from bundler.lab.aws_gate import AwsGate

        class Handler(MotoRequestHandler):
            timeout = 600

            def handle(self) -> None:
                with suppress(OSError):  # a connection that a planned fault has ended
                    super().handle()

            def log(self, _kind: str, message: str, *args: object) -> None:
                logging.getLogger("bundler.lab.aws").debug(message, *args)

        gate = AwsGate(self._place, faults=self._faults, log=self._log, control=self._control)
        server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=Handler)
        threading.Thread(target=server.serve_forever, name="aws", daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"
