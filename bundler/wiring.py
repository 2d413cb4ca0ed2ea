"""Picks the adapters: `connected` for the outside, `archive_source` and `registry_client` for both sides."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.adapters.documents import read_document
from bundler.cache import Cache
from bundler.domain.definition import Definition, parse_definition
from bundler.domain.events import Emit, silent
from bundler.domain.lock import Lock, parse_lock
from bundler.domain.oci import Platform
from bundler.domain.site import Site, parse_site
from bundler.errors import FormatError, LocalResourceError, MissingToolError, RefusedError, UsageError
from bundler.transfer import Pace

if TYPE_CHECKING:
    from bundler.adapters.aws.clients import Aws
    from bundler.adapters.helm import Helm
    from bundler.adapters.http import Transport
    from bundler.adapters.http_files import HttpFiles
    from bundler.adapters.kubernetes import Kubectl
    from bundler.adapters.oci_registry import RegistryClient
    from bundler.adapters.registries_config import Registries
    from bundler.adapters.registry_auth import CredentialProvider
    from bundler.archive.reader import Archive
    from bundler.domain.definition import LocalSource
    from bundler.domain.digest import Digest
    from bundler.domain.image_map import ImageMap
    from bundler.domain.release import Rendering
    from bundler.domain.shipment import S3Address
    from bundler.journal import Place, Session
    from bundler.ports import ByteSource, ImageSource
    from bundler.retry import RetryPolicy
    from bundler.stages.preflight import Probes
    from bundler.stages.resolve import Origin
    from bundler.workflows.install import Inside
    from bundler.workflows.lock import Connected
    from bundler.workflows.status import SiteStatus


QUICK_CONNECT_TIMEOUT_S = 3.0
QUICK_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command runs in; `quick` gives up soon, as checks do."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    ca_file: Path | None = None
    jobs: int = 8
    emit: Emit = silent
    quick: bool = False

    @property
    def pace(self) -> Pace:
        """Transfers at a time, and who hears of them."""
        return Pace(workers=self.jobs, emit=self.emit)


def read_definition(path: Path) -> Definition:
    """Return the definition in `path`."""
    return parse_definition(read_document(path))


def read_site(path: Path) -> Site:
    """Return the site in `path`."""
    return parse_site(read_document(path))


def read_lock(path: Path) -> Lock | None:
    """Return the lock in `path`, None where there is none."""
    raw = _read(path)
    return None if raw is None else parse_lock(raw, source=str(path))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalResourceError(str(path), f"cannot be read: {error.strerror}") from error


def lock_path(definition: Path) -> Path:
    """Return where the lock of a definition stands: `bundle.lock.json` beside `bundle.yaml`."""
    return definition.with_name(f"{definition.stem}.lock.json")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the cache."""
    named = environ.get("BUNDLE_CACHE_DIR")
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("eks-bundler")


def aws_for(surroundings: Surroundings, site: Site | None = None) -> Aws:
    """Return AWS as a site (its Region and endpoints) or the environment says."""
    from bundler.adapters.aws.clients import Aws, AwsSettings, site_endpoints

    return Aws(
        AwsSettings(
            region=None if site is None else site.region,
            endpoints={} if site is None else site_endpoints(site),
            ca_file=surroundings.ca_file,
            environ=surroundings.environ,
            quick=surroundings.quick,
        )
    )


def transport_for(surroundings: Surroundings, site: Site | None = None) -> Transport:
    """Return the guarded transport; a site's `ecr.dkr` override changes a TCP address in it."""
    from bundler.adapters.http import Transport, TransportSettings
    from bundler.adapters.network import CONNECT_TIMEOUT_S
    from bundler.adapters.proxies import Proxies

    return Transport(
        TransportSettings(
            ca_files=() if surroundings.ca_file is None else (str(surroundings.ca_file),),
            proxies=Proxies.from_environment(surroundings.environ),
            connect_to={} if site is None else _overrides(site),
            connect_timeout_s=QUICK_CONNECT_TIMEOUT_S if surroundings.quick else CONNECT_TIMEOUT_S,
        )
    )


def _overrides(site: Site) -> dict[str, tuple[str, int]]:
    if site.endpoints.ecr_dkr is None:
        return {}
    host, _, port = site.endpoints.ecr_dkr.rpartition(":")
    return {site.registry_host: (host, int(port))}


def registry_client(
    surroundings: Surroundings, site: Site | None = None, registries: Registries | None = None
) -> RegistryClient:
    """Return the client for every registry: ECR by its API's tokens, others by docker's configuration."""
    from bundler.adapters.aws.ecr import EcrTokens
    from bundler.adapters.docker_credentials import DockerCredentials
    from bundler.adapters.oci_registry import RegistryClient
    from bundler.adapters.registries_config import Registries
    from bundler.adapters.registry_auth import FirstOf

    known = Registries() if registries is None else registries
    tokens = EcrTokens(aws_for(surroundings, site))
    provider: CredentialProvider = FirstOf(DockerCredentials(surroundings.environ), tokens) if site is None else tokens
    return RegistryClient(
        transport_for(surroundings, site),
        provider=provider,
        registries=known,
        policy=_policy(surroundings),
    )


def connected(definition: Definition, folder: Path, surroundings: Surroundings) -> Connected:
    """Return the outside for lock and build.

    Args:
        definition: names helm, which renders.
        folder: of the definition.
        surroundings: what the command runs in.
    """
    from bundler.adapters.charts import ChartFinder, built_in_chart
    from bundler.adapters.http_files import HttpFiles
    from bundler.adapters.registries_config import load_registries
    from bundler.workflows.lock import Connected

    cache = Cache(cache_folder(surroundings.environ))
    registries = load_registries(surroundings.environ)
    client = registry_client(surroundings, registries=registries)
    urls = HttpFiles(transport_for(surroundings), registries=registries, policy=_policy(surroundings))
    finder = ChartFinder(folder=folder, urls=urls, images=client)
    return Connected(
        folder=folder,
        cache=cache,
        registry=client,
        local=lambda source: local_source(source, folder=folder, cache=cache, environ=surroundings.environ),
        urls=urls,
        find_chart=finder.find,
        wrap_manifest=finder.wrap,
        built_in_chart=built_in_chart,
        renderer=_LazyHelm(lambda: _own_helm(definition, folder, cache, urls)),
        pace=surroundings.pace,
    )


class _LazyHelm:
    """The definition's helm, fetched when the first chart is rendered."""

    def __init__(self, make: Callable[[], Helm]) -> None:
        self._make = functools.cache(make)

    def render(self, chart: bytes, rendering: Rendering, *, images: ImageMap | None = None) -> str:
        """Return what the chart renders to."""
        return self._make().render(chart, rendering, images=images)


def _own_helm(definition: Definition, folder: Path, cache: Cache, urls: HttpFiles) -> Helm:
    """Return the definition's helm for this host.

    Raises:
        UsageError: the definition has none for this platform.
    """
    from bundler.adapters.helm import Helm, HelmSettings
    from bundler.adapters.tool_files import tool_file
    from bundler.stages.obtain import obtain_one

    platform = own_platform()
    pinned = definition.tools.helm.platforms.get(platform)
    if pinned is None:
        raise UsageError(
            "tools.helm", f"has no entry for {platform}, which this host needs to render charts", hint="Add one."
        )
    blob = obtain_one(pinned, folder=folder, cache=cache, urls=urls)
    binary = tool_file(cache.folder / "tools", "helm", blob.digest, cache.read(blob.digest))
    work = cache.folder / "work"
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    helm = Helm(HelmSettings(binary=binary, work=work))
    helm.version()
    return helm


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOptions:
    """How an install goes about it.

    Attributes:
        token_command: what helm and kubectl run for a token: `bundle token --site FILE`.
        deadline_s: how long to wait for nodes, and for health.
        break_lock: id of an expired lock to take over.
    """

    token_command: tuple[str, ...]
    deadline_s: float
    break_lock: str | None = None


def closed(archive: Archive, site: Site, surroundings: Surroundings, options: InstallOptions) -> Inside:
    """Return the closed side for install; helm and kubectl come out of the verified archive."""
    from bundler.adapters.aws.autoscaling import AutoScaling
    from bundler.adapters.aws.ec2 import Ec2
    from bundler.adapters.aws.ecr import EcrRepositories
    from bundler.adapters.aws.eks import Eks
    from bundler.adapters.aws.iam import Iam
    from bundler.retry import Patience
    from bundler.workflows.install import Inside

    aws = aws_for(surroundings, site)
    ec2 = Ec2(aws.service("ec2"))
    work = site_folder(site, surroundings.environ)
    registry = registry_client(surroundings, site)
    helm, kubectl = _cluster_tools(archive, site, surroundings, work, options)
    return Inside(
        site=site,
        registry=registry,
        repositories=EcrRepositories(aws.service("ecr"), account=site.account),
        network=ec2,
        profiles=None if site.endpoints.iam is None else Iam(aws.service("iam")),
        probes=_probes(site, surroundings),
        access=Eks(aws.service("eks"), cluster=site.cluster.name),
        templates=ec2,
        groups=AutoScaling(aws.service("autoscaling")),
        helm=helm,
        cluster=kubectl,
        place=_journal_place(site, aws, work),
        session=_journal_session(archive, options),
        patience=Patience(deadline_s=options.deadline_s, emit=surroundings.emit),
        pace=surroundings.pace,
    )


def site_folder(site: Site, environ: Mapping[str, str]) -> Path:
    """Return where this host keeps a site's journal, tools and kubeconfig: no secret is in any of them."""
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "/")) / ".local" / "state"
    return Path(home) / "eks-bundler" / "sites" / f"{site.account}-{site.region}-{site.cluster.name}"


def _probes(site: Site, surroundings: Surroundings) -> Probes:
    from bundler.adapters.aws.probe import AwsProbe
    from bundler.adapters.tls_probe import TlsProbe
    from bundler.stages.preflight import Probes

    quick = replace(surroundings, quick=True)
    return Probes(
        aws=AwsProbe(aws_for(quick, site), cluster=site.cluster.name),
        api=TlsProbe(),
        registry=registry_client(quick, site),
    )


def _cluster_tools(
    archive: Archive, site: Site, surroundings: Surroundings, work: Path, options: InstallOptions
) -> tuple[Helm, Kubectl]:
    """Write the carried programs and a kubeconfig (0600) below `work`."""
    from bundler.adapters.helm import Helm, HelmSettings
    from bundler.adapters.kubernetes import Kubectl, KubectlSettings, client_environment
    from bundler.atomic import publish
    from bundler.domain.kubeconfig import kubeconfig

    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = work / "kubeconfig"
    environ = client_environment(surroundings.environ)
    publish(file, kubeconfig(site, command=options.token_command), mode=0o600)
    helm = Helm(
        HelmSettings(
            binary=_carried(archive, "helm", work),
            work=work,
            kubeconfig=file,
            environ=environ,
            emit=surroundings.emit,
        )
    )
    kubectl = Kubectl(
        KubectlSettings(
            binary=_carried(archive, "kubectl", work),
            kubeconfig=file,
            work=work,
            environ=environ,
            policy=_policy(surroundings),
        )
    )
    return helm, kubectl


def status_of(site: Site, surroundings: Surroundings, options: InstallOptions) -> SiteStatus:
    """Return what runs at a site, by the kubectl that the last install from this host carried, else the one on PATH.

    Raises:
        MissingToolError: there is neither.
    """
    from bundler.adapters.kubernetes import Kubectl, KubectlSettings, client_environment
    from bundler.atomic import publish
    from bundler.domain.kubeconfig import kubeconfig
    from bundler.journal import Place, read_journal
    from bundler.workflows.status import site_status

    work = site_folder(site, surroundings.environ)
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    publish(work / "kubeconfig", kubeconfig(site, command=options.token_command), mode=0o600)
    kubectl = Kubectl(
        KubectlSettings(
            binary=_installed_kubectl(work),
            kubeconfig=work / "kubeconfig",
            work=work,
            environ=client_environment(surroundings.environ),
            policy=_policy(surroundings),
        )
    )
    records = read_journal(Place(folder=work, site=f"{site.account}/{site.region}/{site.cluster.name}"))
    return site_status(site, version=kubectl.version(), seen=kubectl.snapshot(), records=records)


def _installed_kubectl(work: Path) -> Path:
    carried = sorted(work.glob("tools/*/kubectl"), key=lambda path: path.stat().st_mtime)
    found = carried[-1] if carried else shutil.which("kubectl")
    if found is None:
        raise MissingToolError("kubectl", "no install was made from this host, and there is none on PATH")
    return Path(found)


def _carried(archive: Archive, name: str, work: Path) -> Path:
    from bundler.adapters.tool_files import tool_file

    platform = own_platform()
    tool = next((t for t in archive.lock.tools if t.name == name and t.platform == platform), None)
    if tool is None:
        carried = ", ".join(sorted({str(t.platform) for t in archive.lock.tools}))
        raise UsageError(
            archive.source.name,
            f"carries {name} for {carried}; this host is {platform}",
            hint=f"Install from such a host, or build again with {platform} in operatorPlatforms.",
        )
    return tool_file(work / "tools", name, tool.content.digest, archive.stream(tool.content.digest))


def _journal_place(site: Site, aws: Aws, work: Path) -> Place:
    from bundler.adapters.aws.journal_mirror import S3State
    from bundler.domain.shipment import S3Address
    from bundler.journal import Place

    mirror = None
    if site.state is not None:
        mirror = S3State(aws.service("s3"), S3Address.parse(site.state.s3))
    return Place(folder=work, site=f"{site.account}/{site.region}/{site.cluster.name}", mirror=mirror)


def _journal_session(archive: Archive, options: InstallOptions) -> Session:
    import getpass
    import uuid

    from bundler.journal import Session

    return Session(
        id=uuid.uuid4().hex,
        owner=f"{getpass.getuser()}@{os.uname().nodename} pid {os.getpid()}",
        bundle=archive.root.digest,
        break_lock=options.break_lock,
    )


def local_source(
    source: LocalSource, *, folder: Path, cache: Cache, environ: Mapping[str, str]
) -> tuple[ImageSource, Origin]:
    """Return the images of an OCI layout, a `docker save` archive or the local daemon."""
    if source.layout is not None:
        from bundler.adapters.oci_layout import OciLayout

        return OciLayout(folder / source.layout), "layout"
    if source.docker_archive is not None:
        from bundler.adapters.docker_archive import DockerArchive

        return DockerArchive(folder / source.docker_archive, cache=cache), "docker-archive"
    from bundler.adapters.docker_daemon import DockerDaemon

    return DockerDaemon(environ, cache=cache), "docker"


@contextmanager
def archive_source(name: str, surroundings: Surroundings, site: Site | None = None) -> Iterator[ByteSource]:
    """Yield the bytes of an archive: a local file, or an object in S3 (s3://bucket/key) read by ranges."""
    if name.startswith("s3://"):
        from bundler.adapters.aws.s3_object import open_s3_object
        from bundler.domain.shipment import S3Address

        service = aws_for(surroundings, site).service("s3")
        yield open_s3_object(S3Address.parse(name), service=service, policy=_policy(surroundings))
        return
    from bundler.adapters.archive_file import ArchiveFile

    with ArchiveFile.open(Path(name)) as source:
        yield source


def ship_file(path: Path, destination: S3Address, *, clean: bool, surroundings: Surroundings) -> Path:
    """Send an archive to S3; return the path of the slip."""
    from bundler.adapters.archive_file import ArchiveFile
    from bundler.adapters.aws.s3_store import S3Store
    from bundler.archive.identity import self_consistent
    from bundler.workflows.ship import Identity, ShipRequest, ship_archive

    def identify(archive: Path) -> Identity:
        with ArchiveFile.open(archive) as source:
            opened = self_consistent(source)
            return Identity(root=opened.root.digest, trust=opened.trust_digest)

    request = ShipRequest(archive=path, destination=destination, clean=clean)
    store = S3Store(aws_for(surroundings).service("s3"))
    return ship_archive(request, store=store, identify=identify, pace=surroundings.pace)


def complete_root(path: Path, surroundings: Surroundings) -> Digest | None:
    """Return the root digest of an archive that is right in every byte; None where it is not there or not right."""
    from bundler.adapters.archive_file import ArchiveFile
    from bundler.archive.identity import self_consistent

    if not path.is_file():
        return None
    try:
        with ArchiveFile.open(path) as source:
            opened = self_consistent(source)
            opened.verify_all(emit=surroundings.emit, workers=surroundings.jobs)
            return opened.root.digest
    except RefusedError:
        return None


def root_of(text: str) -> Digest:
    """Return the root digest that `text` is, or that the archive at the path `text` has.

    Raises:
        UsageError: neither a digest nor a file.
        RefusedError: a file, but no archive.
    """
    from bundler.adapters.archive_file import ArchiveFile
    from bundler.archive.identity import self_consistent
    from bundler.domain.digest import Digest

    if text.startswith("sha256:"):
        try:
            return Digest.parse(text)
        except FormatError as error:
            raise UsageError("--previous", str(error)) from None
    with ArchiveFile.open(Path(text)) as source:
        return self_consistent(source).root.digest


def own_platform() -> Platform:
    """Return the platform of this host, as tools are named."""
    machine = os.uname().machine
    return Platform(os="linux", architecture={"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))


def _policy(surroundings: Surroundings) -> RetryPolicy:
    from bundler.retry import RetryPolicy
    from bundler.transfer import pause

    if surroundings.quick:
        return RetryPolicy(tries=QUICK_TRIES, sleep=pause)
    return RetryPolicy(sleep=pause, emit=surroundings.emit)
