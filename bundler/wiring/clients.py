"""The clients that both sides use: AWS, registries, archives on disk and in S3."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.domain.ecr_host import EcrHost
from bundler.errors import FormatError, LocalResourceError, RefusedError, UnreadableError, UsageError
from bundler.transfer import Once
from bundler.wiring.surroundings import Surroundings, retry_policy, uploads_folder

if TYPE_CHECKING:
    from bundler.adapters.aws.clients import Aws
    from bundler.adapters.http import Transport
    from bundler.adapters.oci_registry import RegistryClient
    from bundler.adapters.registries_config import Registries
    from bundler.adapters.registry_auth import CredentialProvider
    from bundler.domain.contents import Contents
    from bundler.domain.credentials import Credentials
    from bundler.domain.delta import Against
    from bundler.domain.digest import Digest
    from bundler.domain.lock import Lock
    from bundler.domain.receipt import Receipt
    from bundler.domain.shipment import S3Address
    from bundler.domain.site import Site
    from bundler.ports import ByteSource
    from bundler.workflows.ship import LocalPart


QUICK_CONNECT_TIMEOUT_S = 3.0


S3_LANES = 4
"""Connections that read ahead, beside one for each job."""

BLOCK_CONNECTIONS = 64
"""As many as export and restore have threads."""


def aws_for(
    surroundings: Surroundings, site: Site | None = None, *, region: str | None = None, connections: int = 16
) -> Aws:
    """Return AWS as a site (its Region and endpoints), `region` or the environment says.

    AWS_REGION is what the AWS SDKs agree on, and botocore alone does not read it (AWS SDKs and Tools Reference Guide,
    "AWS Region"); after it come AWS_DEFAULT_REGION and the profile.
    """
    from bundler.adapters.aws.clients import Aws, AwsSettings, site_endpoints
    from bundler.adapters.proxies import Proxies

    return Aws(
        AwsSettings(
            region=region or surroundings.environ.get("AWS_REGION") or None if site is None else site.region,
            endpoints={} if site is None else site_endpoints(site),
            ca_file=surroundings.ca_file,
            environ=surroundings.environ,
            quick=surroundings.quick,
            proxies=Proxies.from_environment(surroundings.environ),
            emit=surroundings.emit,
            connections=connections,
        )
    )


def cluster_credential(site: Site, surroundings: Surroundings, *, now: Callable[[], dt.datetime]) -> dict[str, object]:
    """Return a token for the site's cluster as kubectl and helm read it from an exec plugin."""
    from bundler.adapters.aws.token import cluster_token, exec_credential

    return exec_credential(cluster_token(aws_for(surroundings, site), site, now=now))


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
    from bundler.adapters.docker_credentials import DockerCredentials
    from bundler.adapters.kept_uploads import KeptUploads
    from bundler.adapters.oci_registry import RegistryClient
    from bundler.adapters.registries_config import Registries
    from bundler.adapters.registry_auth import FirstOf
    from bundler.adapters.registry_upload import UploadSettings

    known = Registries() if registries is None else registries
    tokens = _EcrTokens(surroundings, site)
    provider: CredentialProvider = FirstOf(DockerCredentials(surroundings.environ), tokens) if site is None else tokens
    return RegistryClient(
        transport_for(surroundings, site),
        provider=provider,
        registries=known,
        policy=retry_policy(surroundings),
        uploads=UploadSettings(kept=KeptUploads(uploads_folder(surroundings.environ))),
    )


class _EcrTokens:
    """Credentials of private ECR (a CredentialProvider); what speaks to AWS is loaded when the first such host asks."""

    def __init__(self, surroundings: Surroundings, site: Site | None) -> None:
        self._surroundings = surroundings
        self._site = site
        self._once = Once()
        self._made: CredentialProvider | None = None

    def credentials(self, host: str) -> Credentials | None:
        """Return user name and token for an ECR host, None for any other."""
        return self._of_ecr.credentials(host) if EcrHost.parse(host) is not None else None

    def refresh(self, host: str) -> None:
        """Forget the token of an ECR host."""
        if EcrHost.parse(host) is not None:
            self._of_ecr.refresh(host)

    @property
    def _of_ecr(self) -> CredentialProvider:
        from bundler.adapters.aws.ecr import EcrTokens

        with self._once:
            if self._made is None:
                self._made = EcrTokens(aws_for(self._surroundings, self._site))
            return self._made


def any_registry(surroundings: Surroundings) -> RegistryClient:
    """Return the client for a registry that a person names, asked as registries.yaml says."""
    from bundler.adapters.registries_config import load_registries

    return registry_client(surroundings, registries=load_registries(surroundings.environ))


@contextmanager
def archive_source(
    name: str, surroundings: Surroundings, site: Site | None = None, *, thorough: bool = False
) -> Iterator[ByteSource]:
    """Yield the bytes of an archive: a file, an object in S3 (s3://bucket/key) read by ranges, or its parts.

    Args:
        name: the archive, or STEM.parts.json or a part of one that was split.
        surroundings: `parts` are the folders and prefixes that parts may be in, besides that of the table.
        site: whose S3 is asked.
        thorough: where parts are wrong, read them all and name each.

    Raises:
        UsageError: it does not exist.
        RefusedError: parts are missing or damaged.
    """
    from bundler.domain.parts import table_name, table_of

    table = table_of(name)
    if table is None:
        if not Path(name).exists() and Path(table_name(name)).is_file():
            raise UsageError(name, "is there in parts", hint=f"Name their table: {table_name(name)}")
        with one_source(name, surroundings, site) as source:
            yield source
        return
    from bundler.wiring.parts import parts_source

    with parts_source(
        table,
        surroundings.parts,
        open_one=lambda one: one_source(one, surroundings, site),
        pace=surroundings.pace,
        thorough=thorough,
    ) as parts:
        yield parts


@contextmanager
def one_source(name: str, surroundings: Surroundings, site: Site | None = None) -> Iterator[ByteSource]:
    """Yield the bytes of one file, or of one object in S3."""
    if name.startswith("s3://"):
        from bundler.adapters.aws.s3_object import open_s3_object
        from bundler.domain.shipment import S3Address

        service = aws_for(surroundings, site, connections=max(16, surroundings.jobs + S3_LANES)).service("s3")
        yield open_s3_object(S3Address.parse(name), service=service, policy=retry_policy(surroundings))
        return
    from bundler.adapters.archive_file import ArchiveFile

    with ArchiveFile.open(Path(name)) as source:
        yield source


def ship_file(
    path: Path, destination: S3Address, *, clean: bool, slip: Path | None, surroundings: Surroundings
) -> Path:
    """Send an archive, or its parts, to S3; return the path of the slip, which is beside the archive where None."""
    from bundler.adapters.aws.s3_store import S3Store
    from bundler.archive.identity import self_consistent
    from bundler.workflows.ship import Identity, ShipRequest, ship_archive

    def identify(archive: Path) -> Identity:
        with archive_source(str(archive), surroundings) as source:
            opened = self_consistent(source)
            return Identity(root=opened.root.digest, trust=opened.trust_digest)

    table, parts = _parts_to_ship(path, surroundings)
    request = ShipRequest(archive=table, destination=destination, clean=clean, parts=parts, slip=slip)
    aws = aws_for(surroundings, connections=max(16, surroundings.jobs))
    store = S3Store(aws.service("s3"), policy=retry_policy(surroundings))
    return ship_archive(request, store=store, identify=identify, pace=surroundings.pace)


def _parts_to_ship(path: Path, surroundings: Surroundings) -> tuple[Path, tuple[LocalPart, ...]]:
    """Return the file that `path` means, and the parts that go with it: none for an archive in one file."""
    from bundler.domain.parts import table_of
    from bundler.wiring.parts import parts_source
    from bundler.workflows.ship import LocalPart

    named = table_of(str(path))
    if named is None:
        return path, ()
    if any(place.startswith("s3://") for place in surroundings.parts):
        raise UsageError("--parts", "names a place in S3; what is shipped has to be here", hint="Name folders.")
    with parts_source(
        named,
        surroundings.parts,
        open_one=lambda name: one_source(name, surroundings),
        pace=surroundings.pace,
    ) as source:
        parts = tuple(
            LocalPart(path=Path(one.source.name), digest=one.part.digest) for one in source.found if one.source
        )
        return Path(source.name), parts


def complete_root(path: Path, surroundings: Surroundings) -> Digest | None:
    """Return the root digest of an archive that is right in every byte; None where it is not there or not right."""
    from bundler.archive.identity import self_consistent

    if not path.is_file():
        return None
    try:
        with archive_source(str(path), surroundings) as source:
            opened = self_consistent(source)
            opened.verify_all(emit=surroundings.emit, workers=surroundings.jobs)
            return opened.root.digest
    except (RefusedError, UnreadableError):
        return None


def read_earlier(name: str, surroundings: Surroundings) -> Against:
    """Return what a later archive may leave out, given an archive (a file, or s3://bucket/key), a lock or a receipt.

    It vouches for itself, as it does for `--previous`: whatever it says, a site takes only blobs and blocks whose
    SHA-256 the signed lock and index name, and refuses up front where it lacks one.

    Raises:
        RefusedError: none of them, or not right in what is read of it.
    """
    from bundler.archive.ami_packs import read_against
    from bundler.archive.identity import self_consistent
    from bundler.domain.delta import against_lock
    from bundler.domain.digest import Digest
    from bundler.domain.lock import Lock, lock_bytes
    from bundler.domain.receipt import against_receipt

    document = _small_document(name)
    if isinstance(document, Lock):
        return against_lock(document, digest=Digest.of(lock_bytes(document)))
    if document is not None:
        return against_receipt(document)
    with archive_source(name, surroundings) as source:
        return read_against(self_consistent(source))


def read_contents(name: str, surroundings: Surroundings) -> Contents:
    """Return what an archive (a file, or s3://bucket/key), a lock or a receipt holds; each vouches for itself.

    Raises:
        RefusedError: none of them, or not right in what is read of it.
    """
    from bundler.archive.identity import self_consistent
    from bundler.domain.contents import lock_contents, receipt_contents
    from bundler.domain.lock import Lock

    document = _small_document(name)
    if isinstance(document, Lock):
        return lock_contents(document)
    if document is not None:
        return receipt_contents(document)
    with archive_source(name, surroundings) as source:
        return lock_contents(self_consistent(source).lock)


def _small_document(name: str) -> Lock | Receipt | None:
    """Return the lock or receipt in a file, None where it is neither: JSON begins with a brace, and no archive does."""
    from bundler.domain.lock import MAX_LOCK_BYTES, parse_lock
    from bundler.domain.parts import TABLE_SUFFIX
    from bundler.domain.receipt import is_receipt, parse_receipt

    path = Path(name)
    if name.startswith("s3://") or name.endswith(TABLE_SUFFIX) or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            start = file.read(1)
            if start != b"{":
                return None
            raw = start + file.read(MAX_LOCK_BYTES)
    except OSError as error:
        raise LocalResourceError(name, f"cannot be read: {error.strerror}") from error
    return parse_receipt(raw, source=name) if is_receipt(raw) else parse_lock(raw, source=name)


def root_of(text: str, surroundings: Surroundings) -> Digest:
    """Return the root digest that `text` is, or that the archive has which `text` names.

    Raises:
        UsageError: neither a digest nor a file.
        RefusedError: a file, but no archive.
    """
    from bundler.archive.identity import self_consistent
    from bundler.domain.digest import Digest

    if text.startswith("sha256:"):
        try:
            return Digest.parse(text)
        except FormatError as error:
            raise UsageError("--previous", str(error)) from None
    with archive_source(text, surroundings) as source:
        return self_consistent(source).root.digest
