"""The lab's background process, `python -m bundler.lab.daemon --state DIR`: serves until SIGTERM or its parent ends."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bundler.domain.partition import partition_of
from bundler.errors import ConflictError, UsageError
from bundler.lab.aws import (
    AwsServer,
    EmbeddedEcr,
    correct_moto,
    embedded_ecr,
    make_operator,
    prepare_moto,
)
from bundler.lab.charts import repository_files
from bundler.lab.faults import Faults, parse_fault
from bundler.lab.http_server import Answer, Request, Server
from bundler.lab.lab import (
    ACCOUNT,
    CLUSTER,
    LOCK_FILE,
    REGION,
    REQUESTS_FILE,
    LabFacts,
    MachineFacts,
    write_facts,
)
from bundler.lab.place import AccessKey, Place
from bundler.lab.plain import PlainRegistry
from bundler.lab.request_log import RequestLog
from bundler.lab.settings import ImageSettings
from bundler.lab.source import Source, fill, lab_content, write_registries
from bundler.lab.tls import Authority, make_authority, server_context
from bundler.lab.wheels import wheel_folder

if TYPE_CHECKING:
    from bundler.lab.kubernetes import KubernetesFacts
    from bundler.lab.machines import Machines, Network
    from bundler.lab.moto_ebs import SnapshotStore
    from bundler.lab.moto_eks import ClusterFacts

_LOG = logging.getLogger(__name__)
_PARENT_POLL_S = 1.0
_LOCK_S, _LOCK_POLL_S = 1.0, 0.05
_FRESH = ("ecr", "source", "tmp", "tls", "kubernetes", "snapshots", "machines")
_SERVICE_CIDR = "10.100.0.0/16"
_KUBERNETES_VERSION = "1.36"  # where no control plane runs
_ECR_SETTINGS = {"token_life_s": float, "expired_as": str, "same_digest": str, "blob_mounting": bool}
_IMAGE_SETTINGS = {"image_pending_s": float}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    state: Path
    account: str
    region: str
    source: bool
    machines: bool
    kube_assets: Path | None
    parent: int | None


def main() -> None:
    """Serve a lab."""
    parser = argparse.ArgumentParser(prog="bundler.lab.daemon")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--account", default=ACCOUNT)
    parser.add_argument("--region", default=REGION)
    for flag in ("--source", "--machines"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--kube-assets", type=Path)
    parser.add_argument("--parent", type=int)
    options = Options(**vars(parser.parse_args()))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with _locked(options.state), ExitStack() as stack:
        facts = Lab(options, stack).start()
        write_facts(facts)
        _wait(stop, options.parent)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / LOCK_FILE).open("wb") as lock:
        ends = time.monotonic() + _LOCK_S
        while not _try_lock(lock):
            if time.monotonic() > ends:
                raise ConflictError(str(state), "a lab runs with this folder already")
            time.sleep(_LOCK_POLL_S)
        yield


def _try_lock(lock: IO[bytes]) -> bool:
    """Take the lock that says a lab runs here; who asks for the status holds it for a moment, too."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(stop: threading.Event, parent: int | None) -> None:
    while not stop.wait(_PARENT_POLL_S):
        if parent is not None and os.getppid() != parent:
            return


class SilentApi:
    """Stands for a cluster's API where there is no control plane: it says 401 to everybody."""

    def answer(self, _request: Request) -> Answer:
        """Refuse, as an API server refuses the unknown."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Unauthorized", "code": 401}
        return Answer(status=401, headers={"Content-Type": "application/json"}, body=json.dumps(status).encode())


class Control:
    """What tests may ask of a running lab under `/_lab/`."""

    def __init__(self, faults: Faults, *, ecr: EmbeddedEcr, images: ImageSettings, snapshots: SnapshotStore) -> None:
        self._faults = faults
        self._ecr = ecr
        self._images = images
        self._snapshots = snapshots

    def __call__(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Answer a control request with a status and a JSON value."""
        actions = {
            ("POST", "/_lab/faults"): self._plan,
            ("DELETE", "/_lab/faults"): self._clear,
            ("PATCH", "/_lab/settings"): self._change,
            ("POST", "/_lab/tokens/expire"): self._expire,
            ("POST", "/_lab/uploads/drop"): self._drop,
            ("POST", "/_lab/snapshots/fail"): self._fail,
        }
        action = actions.get((method, path))
        if action is None:
            return 404, {"error": f"no {method} {path}"}
        try:
            action(json.loads(body or b"{}"))
        except (UsageError, ValueError) as error:
            return 400, {"error": str(error)}
        return 200, {}

    def _plan(self, value: object) -> None:
        self._faults.plan(parse_fault(value))

    def _clear(self, _: object) -> None:
        self._faults.clear()

    def _change(self, value: object) -> None:
        known = {**_ECR_SETTINGS, **_IMAGE_SETTINGS}
        if not isinstance(value, dict) or not value.keys() <= known.keys():
            raise UsageError("settings", f"must be some of {', '.join(known)}")
        for name, item in value.items():
            settings = self._images if name in _IMAGE_SETTINGS else self._ecr.settings
            setattr(settings, name, known[name](item))

    def _expire(self, _: object) -> None:
        self._ecr.tokens.expire_all()

    def _fail(self, value: object) -> None:
        if not isinstance(value, dict) or value.keys() != {"id", "why"}:
            raise UsageError("snapshot", "needs id and why")
        self._snapshots.fail(str(value["id"]), str(value["why"]))

    def _drop(self, _: object) -> None:
        self._ecr.store.drop_uploads()


class Lab:
    """Builds the lab part by part; what is started is put on `stack`."""

    def __init__(self, options: Options, stack: ExitStack) -> None:
        self._options = options
        self._state = options.state
        self._stack = stack
        self._place = Place(account=options.account, region=options.region, partition=partition_of(options.region))
        self._faults = Faults()
        self._log = RequestLog(self._state / REQUESTS_FILE)
        self._network: Network | None = None
        self._snapshots: SnapshotStore | None = None

    def start(self) -> LabFacts:
        """Start everything and return where it is."""
        self._make_folders()
        prepare_moto(self._place, self._state / "tmp")
        authority = make_authority("eks-bundler lab")
        ca_file = self._state / "ca.pem"
        ca_file.write_bytes(authority.pem)
        ecr = embedded_ecr(self._place, self._state / "ecr", faults=self._faults, log=self._log)
        registry = self._serve(Server(ecr.registry, tls=self._registry_tls(authority)))
        source_url = self._start_source()
        aws_url = self._start_aws(ecr)
        kubernetes = self._start_kubernetes(aws_url, ecr)
        cluster = self._cluster_facts(kubernetes)
        ecr_address = f"127.0.0.1:{registry.port}"
        version = _KUBERNETES_VERSION if kubernetes is None else _minor(kubernetes.version)
        key = make_operator(self._place)
        machines = self._seed_machines(aws_url, key, version)
        bucket, site_file, credentials_file = self._seed(key, aws_url, ecr_address, cluster, version=version)
        return LabFacts(
            state=self._state,
            pid=os.getpid(),
            account=self._place.account,
            region=self._place.region,
            partition=self._place.partition,
            aws_url=aws_url,
            ecr_address=ecr_address,
            registry_host=self._place.registry_host,
            ca_file=ca_file,
            source_url=source_url,
            bucket=bucket,
            site_file=site_file,
            credentials_file=credentials_file,
            kubernetes=kubernetes,
            machines=machines,
        )

    def _make_folders(self) -> None:
        """Begin anew: moto forgets at each start, so the rest must too."""
        for name in _FRESH:
            shutil.rmtree(self._state / name, ignore_errors=True)
        (self._state / REQUESTS_FILE).unlink(missing_ok=True)
        for name in ("tmp", "snapshots"):
            self._stack.callback(shutil.rmtree, self._state / name, ignore_errors=True)

    def _serve(self, server: Server) -> Server:
        threading.Thread(target=server.serve_forever, daemon=True).start()  # ends with the process
        return server

    def _registry_tls(self, authority: Authority) -> ssl.SSLContext:
        suffix = self._place.registry_host.partition(".")[2]
        return server_context(authority, (f"*.{suffix}", "localhost", "127.0.0.1"), folder=self._state / "tls" / "ecr")

    def _start_source(self) -> str:
        if not self._options.source:
            return ""
        registry = PlainRegistry(self._state / "source", faults=self._faults, log=self._log)
        registry.store.prepare()
        fill(registry.store, lab_content(wheel_folder()))
        url = f"http://127.0.0.1:{self._serve(Server(Source(registry, repository_files()))).port}"
        write_registries(self._state, url)
        return url

    def _start_aws(self, ecr: EmbeddedEcr) -> str:
        machines = self._make_machines()
        images = ImageSettings()
        folder = self._state / "snapshots"
        self._snapshots = correct_moto(folder, images=images, machines=machines, network=self._network)
        control = Control(self._faults, ecr=ecr, images=images, snapshots=self._snapshots)
        server = AwsServer(self._place, faults=self._faults, log=self._log, control=control)
        return server.start()

    def _make_machines(self) -> Machines | None:
        from bundler.lab.machines import Machines, claim_network
        from bundler.lab.programs import Programs

        if not self._options.machines:
            return None
        self._network = claim_network()
        self._stack.callback(self._network.close)
        machines = Machines(self._state / "machines", Programs(self._state / "logs"))
        self._stack.callback(machines.close)
        return machines

    def _seed_machines(self, aws_url: str, key: AccessKey, minor: str) -> MachineFacts | None:
        from bundler.lab.public_images import seed_public_images
        from bundler.lab.seed import seed_builder

        if self._network is None or self._snapshots is None:
            return None
        seed_public_images(self._place, self._snapshots, minor=minor, folder=self._state / "snapshots")
        made = seed_builder(self._place, key, aws_url=aws_url, network=self._network)
        return MachineFacts(
            vpc=made.vpc, subnet=made.subnet, security_group=made.security_group, kubernetes_minor=minor
        )

    def _start_kubernetes(self, aws_url: str, ecr: EmbeddedEcr) -> KubernetesFacts | None:
        from bundler.lab.cluster import ClusterOptions, LabCluster, holds_image

        if self._options.kube_assets is None:
            return None
        options = ClusterOptions(
            name=CLUSTER, state=self._state / "kubernetes", assets=self._options.kube_assets, aws_url=aws_url
        )
        host = self._place.registry_host
        cluster = LabCluster(
            self._place, options, image_exists=lambda reference: holds_image(ecr.store, host, reference)
        )
        self._stack.callback(cluster.stop)
        return cluster.start()

    def _cluster_facts(self, kubernetes: KubernetesFacts | None) -> ClusterFacts:
        from bundler.lab.moto_eks import ClusterFacts

        if kubernetes is not None:
            return ClusterFacts(
                endpoint=kubernetes.endpoint,
                ca_pem=kubernetes.ca_file.read_bytes(),
                service_cidr=kubernetes.service_cidr,
            )
        authority = make_authority("kubernetes")
        tls = server_context(authority, ("localhost", "127.0.0.1"), folder=self._state / "tls" / "kubernetes")
        server = self._serve(Server(SilentApi(), tls=tls))
        endpoint = f"https://127.0.0.1:{server.port}"
        return ClusterFacts(endpoint=endpoint, ca_pem=authority.pem, service_cidr=_SERVICE_CIDR)

    def _seed(
        self, key: AccessKey, aws_url: str, ecr_address: str, cluster: ClusterFacts, *, version: str
    ) -> tuple[str, Path, Path]:
        from bundler.lab.moto_eks import correct_eks
        from bundler.lab.seed import Addresses, seed, site_document, write_credentials, write_site

        correct_eks(cluster)
        credentials, site = self._state / "credentials", self._state / "site.yaml"
        write_credentials(credentials, key)
        seeded = seed(self._place, key, aws_url=aws_url, cluster=CLUSTER, version=version)
        addresses = Addresses(aws_url=aws_url, ecr=ecr_address)
        document = site_document(self._place, seeded, cluster, cluster=CLUSTER, addresses=addresses)
        write_site(site, document)
        self._log.clear()
        return seeded.bucket, site, credentials


def _minor(version: str) -> str:
    """Return 1.36 of v1.36.3."""
    return ".".join(version.lstrip("v").split(".")[:2])


if __name__ == "__main__":
    main()
