"""`closed`: everything that install and status reach inside."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.domain.events import Emit, Noted
from bundler.errors import MissingToolError, UsageError
from bundler.wiring.clients import BLOCK_CONNECTIONS, aws_for, registry_client
from bundler.wiring.surroundings import Surroundings, make_private, own_platform, retry_policy, site_folder

if TYPE_CHECKING:
    from bundler.adapters.aws.clients import Aws
    from bundler.adapters.aws.ebs import EbsDirect
    from bundler.adapters.helm import Helm
    from bundler.adapters.kubernetes import Kubectl
    from bundler.archive.reader import Archive
    from bundler.domain.record import Record
    from bundler.domain.site import Site
    from bundler.journal import Place, Session
    from bundler.stages.preflight import Probes
    from bundler.workflows.inside import Inside
    from bundler.workflows.receipt import ReceiptSources
    from bundler.workflows.restore import Machines
    from bundler.workflows.status import SiteStatus
    from bundler.workflows.verify_installed import Installed


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
    from bundler.workflows.inside import Inside

    aws = aws_for(surroundings, site, connections=BLOCK_CONNECTIONS)
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
        machines=machines(aws, surroundings),
        templates=ec2,
        groups=AutoScaling(aws.service("autoscaling")),
        helm=helm,
        cluster=kubectl,
        place=_journal_place(site, aws, work),
        session=_journal_session(archive, options, surroundings),
        patience=Patience(deadline_s=options.deadline_s, emit=surroundings.emit),
        pace=surroundings.pace,
    )


def machines(aws: Aws, surroundings: Surroundings) -> Machines:
    """Return EC2 and EBS direct of a site, for its AMIs."""
    from bundler.adapters.aws.ec2_images import Ec2Images
    from bundler.workflows.restore import Machines

    return Machines(images=Ec2Images(aws.service("ec2")), blocks=_blocks(aws, surroundings))


def installed(site: Site, surroundings: Surroundings) -> Installed:
    """Return what `bundle verify --installed` reads."""
    from bundler.adapters.aws.ec2_images import Ec2Images
    from bundler.workflows.verify_installed import Installed

    aws = aws_for(surroundings, site, connections=BLOCK_CONNECTIONS)
    return Installed(
        images=Ec2Images(aws.service("ec2")),
        blocks=_blocks(aws, surroundings),
        registry=registry_client(surroundings, site),
    )


def receipt_sources(site: Site, surroundings: Surroundings) -> ReceiptSources:
    """Return what `bundle receipt` reads."""
    from bundler.adapters.aws.ec2_images import Ec2Images
    from bundler.adapters.aws.ecr import EcrRepositories
    from bundler.workflows.receipt import ReceiptSources

    aws = aws_for(surroundings, site)
    return ReceiptSources(
        repositories=EcrRepositories(aws.service("ecr"), account=site.account),
        registry=registry_client(surroundings, site),
        images=Ec2Images(aws.service("ec2")),
    )


def _blocks(aws: Aws, surroundings: Surroundings) -> EbsDirect:
    from bundler.adapters.aws.ebs import EbsDirect

    return EbsDirect(service=aws.service("ebs"), policy=retry_policy(surroundings))


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
    from bundler.adapters.kubernetes import Kubectl, KubectlSettings
    from bundler.atomic import publish
    from bundler.domain.kubeconfig import kubeconfig

    make_private(work)
    file = work / "kubeconfig"
    environ = _program_environment(surroundings, work)
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
            policy=retry_policy(surroundings),
        )
    )
    return helm, kubectl


def _program_environment(surroundings: Surroundings, work: Path) -> dict[str, str]:
    """Return what helm, kubectl and the `bundle token` that they run may see, `--ca-file` included.

    Raises:
        UsageError: a proxy that they would print whole, because they cannot read it.
    """
    from bundler.adapters.authorities import believing
    from bundler.adapters.kubernetes import client_environment
    from bundler.adapters.proxies import Proxies

    Proxies.from_environment(surroundings.environ)
    return believing(client_environment(surroundings.environ), surroundings.ca_file, work=work)


def status_of(site: Site, surroundings: Surroundings, options: InstallOptions) -> SiteStatus:
    """Return what runs at a site, by the kubectl that the last install from this host carried, else the one on PATH.

    Raises:
        MissingToolError: there is neither.
    """
    from bundler.adapters.kubernetes import Kubectl, KubectlSettings
    from bundler.atomic import publish
    from bundler.domain.kubeconfig import kubeconfig
    from bundler.workflows.status import site_status

    work = site_folder(site, surroundings.environ)
    make_private(work)
    publish(work / "kubeconfig", kubeconfig(site, command=options.token_command), mode=0o600)
    kubectl = Kubectl(
        KubectlSettings(
            binary=_installed_kubectl(work),
            kubeconfig=work / "kubeconfig",
            work=work,
            environ=_program_environment(surroundings, work),
            policy=retry_policy(surroundings),
        )
    )
    place = _journal_place(site, aws_for(replace(surroundings, quick=True), site), work)
    records = known_records(place, surroundings.emit)
    return site_status(site, version=kubectl.version(), seen=kubectl.snapshot(), records=records)


def known_records(place: Place, emit: Emit) -> tuple[Record, ...]:
    """Return what is recorded here and in S3; of what cannot be read, who looks is told, and sees the rest."""
    from bundler.journal import look_into

    records, problems = look_into(place)
    for problem in problems:
        emit(Noted(text=problem, warning=True))
    return records


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


def _journal_session(archive: Archive, options: InstallOptions, surroundings: Surroundings) -> Session:
    import uuid

    from bundler.journal import Session

    return Session(
        id=uuid.uuid4().hex,
        owner=f"{os.environ.get('USER', os.getuid())}@{os.uname().nodename} pid {os.getpid()}",
        bundle=archive.root.digest,
        break_lock=options.break_lock,
        emit=surroundings.emit,
    )
