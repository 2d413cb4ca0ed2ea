"""Private ECR by its API: tokens for the registry client, repositories, and what was really pushed."""

from __future__ import annotations

import binascii
import datetime as dt
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from bundler.adapters.aws.clients import Answer, Aws, Service
from bundler.domain.credentials import Credentials, Secret
from bundler.domain.ecr_host import EcrHost
from bundler.domain.repository import Repository, RepositoryState
from bundler.errors import AccessError, RejectedError
from bundler.transfer import Once, parallel_map

RENEW_BEFORE = dt.timedelta(minutes=10)
NAMES_PER_CALL = 100
WORKERS = 8
_MISSING = "RepositoryNotFoundException"
_EXISTS = "RepositoryAlreadyExistsException"


class EcrTokens:
    """Credentials of any private ECR registry (a CredentialProvider); None for every other host.

    A token opens every registry that the caller may use, in the token's Region: one is kept per Region.
    """

    def __init__(self, aws: Aws, *, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._aws = aws
        self._now = now
        self._once = Once()
        self._held: dict[str, tuple[Credentials, dt.datetime]] = {}

    def credentials(self, host: str) -> Credentials | None:
        """Return user name and token for an ECR host.

        Raises:
            AccessError: ecr:GetAuthorizationToken is denied, or gives what is no token.
            NetworkError: the ECR API does not answer.
        """
        registry = EcrHost.parse(host)
        if registry is None:
            return None
        with self._once:
            held = self._held.get(registry.region)
            if held is None or held[1] - RENEW_BEFORE <= self._now():
                held = self._held[registry.region] = self._fetch(registry.region)
            return held[0]

    def refresh(self, host: str) -> None:
        """Forget the token of the host's Region."""
        registry = EcrHost.parse(host)
        if registry is not None:
            with self._once:
                self._held.pop(registry.region, None)

    def _fetch(self, region: str) -> tuple[Credentials, dt.datetime]:
        service = self._aws.service("ecr", region=region)
        token, until = service.ask("GetAuthorizationToken", _authorization, about=f"registry in {region}")
        if until <= self._now():
            cause = f"the token expired at {until:%Y-%m-%d %H:%M:%S} UTC, before it was handed out"
            raise AccessError("ecr:GetAuthorizationToken", cause, hint="Compare this host's clock with the time there.")
        return _parse_token(token), until


def _authorization(answer: Answer) -> tuple[Secret, dt.datetime]:
    data = answer["authorizationData"][0]
    return Secret(str(data["authorizationToken"])), data["expiresAt"].astimezone(dt.UTC)


def _parse_token(token: Secret) -> Credentials:
    try:
        username, colon, password = b64decode(token.reveal(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        username, colon, password = "", "", ""
    if not colon or not username or not password:
        raise AccessError("ecr:GetAuthorizationToken", "the answer is no token (base64 of user:password)")
    return Credentials(username=username, password=Secret(password))


class EcrRepositories:
    """The repositories of the site's registry."""

    def __init__(self, service: Service, *, account: str) -> None:
        self._service = service
        self._account = account

    def describe(self, names: Sequence[str]) -> dict[str, RepositoryState]:
        """Return those of `names` that exist."""
        states = parallel_map(self._describe_one, names, workers=WORKERS)
        return {state.name: state for state in states if state is not None}

    def _describe_one(self, name: str) -> RepositoryState | None:
        """ECR refuses a whole list in which one is missing, so that one is asked for at a time."""
        try:
            return self._service.ask(
                "DescribeRepositories",
                _repository_state,
                about=f"repository {name}",
                registryId=self._account,
                repositoryNames=[name],
            )
        except RejectedError as error:
            if error.code == _MISSING:
                return None
            raise

    def below(self, prefix: str) -> tuple[str, ...]:
        """Return the names of all repositories below a prefix (`PREFIX/…`; all for an empty one), sorted.

        Raises:
            AccessError: ecr:DescribeRepositories is denied.
        """
        front = f"{prefix}/" if prefix else ""
        names = self._service.list(
            "DescribeRepositories",
            "repositories",
            lambda item: str(item["repositoryName"]),
            about=f"repository {front}*",
            registryId=self._account,
        )
        return tuple(sorted(name for name in names if name.startswith(front)))

    def held(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the digest and the tag ("" where it has none) of every image in a repository.

        Raises:
            AccessError: ecr:ListImages is denied.
            RejectedError: there is no such repository.
        """
        found = self._service.list(
            "ListImages",
            "imageIds",
            lambda item: (str(item["imageDigest"]), str(item.get("imageTag", ""))),
            about=f"repository {name}",
            registryId=self._account,
            repositoryName=name,
        )
        return tuple(sorted(found))

    def create(self, repository: Repository) -> None:
        """Create a repository, unless somebody just did.

        Raises:
            AccessError: ecr:CreateRepository is denied.
        """
        encryption: dict[str, str] = {"encryptionType": "AES256"}
        if repository.kms_key is not None:
            encryption = {"encryptionType": "KMS", "kmsKey": repository.kms_key}
        try:
            self._service.call(
                "CreateRepository",
                about=f"repository {repository.name}",
                registryId=self._account,
                repositoryName=repository.name,
                imageTagMutability="IMMUTABLE" if repository.immutable else "MUTABLE",
                imageScanningConfiguration={"scanOnPush": repository.scan_on_push},
                encryptionConfiguration=encryption,
                tags=[{"Key": key, "Value": value} for key, value in sorted(repository.tags.items())],
            )
        except RejectedError as error:
            if error.code != _EXISTS:
                raise


def _repository_state(answer: Answer) -> RepositoryState:
    found = answer["repositories"][0]
    encryption = found.get("encryptionConfiguration", {})
    return RepositoryState(
        name=found["repositoryName"],
        arn=found["repositoryArn"],
        mutability=found.get("imageTagMutability", "MUTABLE"),
        scan_on_push=bool(found.get("imageScanningConfiguration", {}).get("scanOnPush", False)),
        kms_key=encryption.get("kmsKey") if encryption.get("encryptionType", "AES256") != "AES256" else None,
    )


def _batches(items: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(items)
    while some := list(islice(rest, NAMES_PER_CALL)):
        yield some
