"""boto3 behind one door: sessions, clients, endpoints, patience, and every failure as one of ours.

An endpoint is what the site says, else what botocore finds (AWS_ENDPOINT_URL_<SERVICE>, AWS_ENDPOINT_URL, the Region's
own). boto3 is imported at the first call: it costs 180 ms that `bundle --help` does not pay.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bundler.adapters.authorities import joined
from bundler.adapters.aws.direct import Direct, Plain
from bundler.adapters.aws.failures import Asked, translate
from bundler.adapters.aws.patience import TRIES, Patience, be_patient
from bundler.adapters.aws.watched import watch
from bundler.adapters.proxies import Proxies
from bundler.domain.credentials import Secret
from bundler.domain.events import Emit, silent
from bundler.domain.url import Url
from bundler.errors import AccessError, NetworkError
from bundler.transfer import Once, pause

if TYPE_CHECKING:
    import boto3
    import botocore.session

    from bundler.domain.site import Site  # pydantic: a quarter of a second

Parsed = TypeVar("Parsed")
Answer = Mapping[str, Any]
MAX_PAGES = 10_000
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
QUICK_CONNECT_TIMEOUT_S = 3
QUICK_READ_TIMEOUT_S = 10
_SITE_KEYS = {"ecr": "ecr.api"}


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """Where AWS is.

    Attributes:
        region: None for what botocore finds (AWS_DEFAULT_REGION, the profile).
        endpoints: botocore's name of a service -> URL; they hold for `region` only.
        ca_file: authorities to believe beside the usual ones.
        environ: for AWS_CA_BUNDLE and SSL_CERT_FILE.
        connections: how many at a time to one service.
        quick: give up soon where nothing answers: three seconds to connect, two tries.
        proxies: which proxy serves which URL; none of them is read from the environment here.
        emit: hears of each retry.
        sleep: waits between two tries.
    """

    region: str | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    connections: int = 16
    quick: bool = False
    proxies: Proxies = field(default_factory=Proxies)
    emit: Emit = silent
    sleep: Callable[[float], None] = pause


def site_endpoints(site: Site) -> dict[str, str]:
    """Return the site's overrides of AWS APIs; `ecr.dkr` is the registry client's."""
    named = site.endpoints
    found = {
        "ec2": named.ec2, "sts": named.sts, "s3": named.s3, "eks": named.eks, "iam": named.iam,
        "autoscaling": named.autoscaling, "ecr": named.ecr_api, "ebs": named.ebs,
    }  # fmt: skip
    return {service: url for service, url in found.items() if url is not None}


class Aws:
    """One account's credentials and the services they open."""

    def __init__(self, settings: AwsSettings, *, now: Callable[[], dt.datetime] = _utc_now) -> None:
        self._settings = settings
        self._now = now
        self._once = Once()
        self._made: botocore.session.Session | None = None
        self._factory: boto3.Session | None = None
        self._services: dict[tuple[str, str | None], Service] = {}
        self._bundle: Path | None = None

    def service(self, name: str, *, region: str | None = None) -> Service:
        """Return one service; `region` other than the settings' has no endpoint override.

        Raises:
            UsageError: no Region, an endpoint that is no URL, a profile that does not exist.
        """
        key = (name, region)
        with self._once:
            if key not in self._services:
                self._services[key] = self._service(name, region)
            return self._services[key]

    def own_endpoint(self, name: str) -> str:
        """Return the URL of a service where settings or environment override AWS's own, else nothing."""
        session = self._session()
        loader = session.get_component("endpoint_resolver")
        usual = loader.construct_endpoint(name, self._settings.region or session.get_config_variable("region")) or {}
        url = self.service(name).endpoint
        return "" if urlsplit(url).hostname == usual.get("hostname") else url

    def credentials(self) -> Any:
        """Return botocore's credentials, refreshed where they must be.

        Raises:
            AccessError: there are none.
        """
        asked = Asked(service="sts", operation="GetCallerIdentity", resource="*", endpoint="", setting="sts")
        with _translated(asked, self.secrets, self._now):
            with self._once:
                found = self._session().get_credentials()
            frozen = found.get_frozen_credentials() if found is not None else None
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            hint = "Set AWS_PROFILE, or give this host an instance profile or another source of credentials."
            raise AccessError("AWS", "there are no credentials on this host", hint=hint)
        return frozen

    def secrets(self) -> tuple[Secret, ...]:
        """The texts that no message may show."""
        from botocore.exceptions import BotoCoreError

        hidden = self._settings.proxies.secrets
        try:
            found = self._made.get_credentials() if self._made is not None else None
            texts = (found.secret_key, found.token) if found is not None else ()
        except BotoCoreError:
            return hidden  # credentials that cannot be had are in no message
        return (*hidden, *(Secret(text) for text in texts if text))

    def _session(self) -> botocore.session.Session:
        if self._made is None:
            from bundler.adapters.aws.session import Session, Ways

            settings = self._settings
            ways = Ways(
                region=settings.region,
                endpoints=settings.endpoints,
                keys=_SITE_KEYS,
                proxies=settings.proxies,
                config=self._config(),
                verify=self._verify,
                made=self._prepare,
            )
            self._made = Session(ways)
        return self._made

    def _prepare(self, client: Any) -> None:
        watch(client)
        settings = self._settings
        patience = Patience(quick=settings.quick, emit=settings.emit, sleep=settings.sleep, secrets=self.secrets)
        be_patient(client, patience)

    def _service(self, name: str, region: str | None) -> Service:
        setting = _SITE_KEYS.get(name, name)
        asked = Asked(service=name, operation="*", resource=name, endpoint="", setting=setting)
        with _translated(asked, self.secrets, self._now):
            client = self._client(name, region)
        endpoint = str(client.meta.endpoint_url)
        asked = replace(asked, endpoint=endpoint, proxy=self._proxy(endpoint))
        return Service(client, asked, secrets=self.secrets, now=self._now)

    def _proxy(self, endpoint: str) -> str:
        proxy = self._settings.proxies.of(Url.parse(endpoint).origin)
        return "" if proxy is None else str(proxy.url.origin)

    def _client(self, name: str, region: str | None) -> Any:
        import boto3

        if self._factory is None:
            self._factory = boto3.Session(botocore_session=self._session())
        return self._factory.client(name, region_name=region or self._settings.region)

    def _config(self) -> Any:
        from botocore.config import Config

        quick = self._settings.quick
        return Config(
            connect_timeout=QUICK_CONNECT_TIMEOUT_S if quick else CONNECT_TIMEOUT_S,
            read_timeout=QUICK_READ_TIMEOUT_S if quick else READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": TRIES},
            max_pool_connections=self._settings.connections,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": False},  # each body goes with its SHA-256 in a signed header
            proxies={},  # not those that botocore reads itself: session.py finds ours for each request
            tcp_keepalive=True,
            user_agent_extra="eks-bundler",
        )

    def _verify(self) -> str | None:
        """Return the authorities as one file: botocore's choice, or the usual ones with `ca_file` added."""
        environ = self._settings.environ
        usual = environ.get("AWS_CA_BUNDLE") or environ.get("SSL_CERT_FILE")
        if self._settings.ca_file is None:
            return usual
        if self._bundle is None:
            self._bundle = _temporary(joined(Path(usual) if usual else _default_bundle(), self._settings.ca_file))
            weakref.finalize(self, self._bundle.unlink, missing_ok=True)
        return str(self._bundle)


def _default_bundle() -> Path:
    from botocore.httpsession import get_cert_path

    return Path(get_cert_path(True))


def _temporary(content: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix="eks-bundler-ca-", suffix=".pem")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(name)


class Service:
    """One service's API."""

    def __init__(
        self,
        client: Any,
        asked: Asked,
        *,
        secrets: Callable[[], tuple[Secret, ...]] = tuple,
        now: Callable[[], dt.datetime] = _utc_now,
    ) -> None:
        self.name = asked.service
        self._client = client
        self._direct: Direct | None = None
        self._once = Once()
        self._asked_here = asked
        self._secrets = secrets
        self._now = now

    @property
    def region(self) -> str:
        """The Region it speaks to."""
        return str(self._client.meta.region_name)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return str(self._client.meta.endpoint_url)

    def call(self, operation: str, /, *, about: str = "*", **parameters: Any) -> Answer:
        """Call an operation by the API's name for it; `about` is the object, for messages.

        Raises:
            AccessError: denied, or no usable credentials.
            NetworkError: unreachable, busy after eight tries, a wrong clock, or not the API.
            RejectedError: the service declines, with its code.
        """
        method = getattr(self._client, _snake(operation))
        with _translated(self._asked(operation, about), self._secrets, self._now):
            answer: Answer = method(**parameters)
        return answer

    def call_plainly(
        self, plain: Plain, parse: Callable[[Mapping[str, str], Any], Answer], call: Callable[[], Answer]
    ) -> Answer:
        """Do what `call` does, with less effort.

        Args:
            plain: the request that it comes to.
            parse: makes, of headers and unread body of a success, the answer that it would give.
            call: calls this service; it takes over where the request is no success.

        Raises:
            BundleError: as `call`.
        """
        direct = self._direct or self._directly()
        outcome = direct.send(plain)
        if getattr(outcome, "status_code", 599) < 300:
            with self._readable(plain.operation):
                return parse(outcome.headers, outcome.raw)
        try:
            with direct.handing(outcome):
                return call()
        finally:
            if hasattr(outcome, "raw"):  # nobody may have read it: its connection is no use to others then
                outcome.raw.close()

    def _directly(self) -> Direct:
        with self._once:
            if self._direct is None:
                made = Direct(self._client)
                made.watch()
                self._direct = made
            return self._direct

    def ask(
        self, operation: str, parse: Callable[[Answer], Parsed], /, *, about: str = "*", **parameters: Any
    ) -> Parsed:
        """Call an operation that reads, and parse the answer.

        Raises:
            NetworkError: also for an answer that lacks what the API promises.
        """
        answer = self.call(operation, about=about, **parameters)
        with self._readable(operation):
            return parse(answer)

    def list(
        self, operation: str, key: str, parse: Callable[[Answer], Parsed], /, *, about: str = "*", **parameters: Any
    ) -> list[Parsed]:
        """Return the parsed items under `key` of all pages.

        Raises:
            NetworkError: also for pages without end.
        """
        found: list[Parsed] = []
        with _translated(self._asked(operation, about), self._secrets, self._now):
            pages = self._client.get_paginator(_snake(operation)).paginate(**parameters)
            for number, page in enumerate(pages):
                if number >= MAX_PAGES:
                    raise NetworkError(f"{self.name}:{operation}", f"the answer has more than {MAX_PAGES} pages")
                with self._readable(operation):
                    found.extend(parse(item) for item in page.get(key, []))
        return found

    @contextmanager
    def reading(self, operation: str, about: str) -> Iterator[None]:
        """Hold around reading and parsing a streamed body of `operation`."""
        with _translated(self._asked(operation, about), self._secrets, self._now), self._readable(operation):
            yield

    @contextmanager
    def _readable(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            cause = f"the answer from {self.endpoint} lacks what the API promises ({type(error).__name__}: {error})"
            raise NetworkError(f"{self.name}:{operation}", cause) from error

    def _asked(self, operation: str, about: str) -> Asked:
        return replace(self._asked_here, operation=operation, resource=about)


def _snake(operation: str) -> str:
    from botocore import xform_name

    return str(xform_name(operation))


@contextmanager
def _translated(
    asked: Asked, secrets: Callable[[], tuple[Secret, ...]], now: Callable[[], dt.datetime]
) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError, HTTPError, ValueError) as error:
        hidden = secrets()
        ours = translate(error, asked, secrets=hidden, now=now)
        raise ours from (None if _shows_secret(error, hidden) else error)


def _shows_secret(error: Exception, secrets: tuple[Secret, ...]) -> bool:
    text = str(error)
    return any(secret.hidden_in(text) != text for secret in secrets)
