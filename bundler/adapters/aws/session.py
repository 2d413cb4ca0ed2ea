"""botocore's session: one door for every client, also for those with which botocore itself gets credentials.

A role that a profile names is assumed through the same authorities, proxies and STS endpoint as everything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.httpsession import ProxyConfiguration
from botocore.utils import CLIENT_NAME_TO_HYPHENIZED_SERVICE_ID_OVERRIDES

from bundler.adapters.proxies import Proxies
from bundler.domain.url import Url
from bundler.errors import FormatError, UsageError

_HINT = "Give a URL: https://HOST[:PORT]."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How clients reach their services.

    Attributes:
        region: where no other is asked for.
        endpoints: botocore's name of a service -> URL, for `region` only.
        keys: botocore's name of a service -> the site file's, where they differ.
        proxies: which proxy serves which URL.
        config: patience and the rest.
        verify: file of authorities, None for botocore's choice.
        made: is told of each new client.
    """

    region: str | None
    endpoints: Mapping[str, str]
    keys: Mapping[str, str]
    proxies: Proxies
    config: Config
    verify: Callable[[], str | None]
    made: Callable[[Any], None]


class Session(botocore.session.Session):  # type: ignore[misc]
    """Makes every client our way."""

    def __init__(self, ways: Ways) -> None:
        super().__init__()
        self._ways = ways

    def create_client(self, service_name: str, region_name: str | None = None, **options: Any) -> Any:
        """Return a client, as boto3 and botocore's credential providers ask for it.

        Raises:
            UsageError: an endpoint, of the site file or of the environment, that is no plain URL.
        """
        ways = self._ways
        theirs = options.pop("config", None)
        options["config"] = ways.config if theirs is None else ways.config.merge(theirs)
        where, options["endpoint_url"] = self._endpoint(service_name, region_name)
        if options.get("verify") is None:
            options["verify"] = ways.verify()
        try:
            client = super().create_client(service_name, region_name=region_name or ways.region, **options)
        except ValueError as error:
            raise UsageError(where, "is not the URL of an endpoint", hint=_HINT) from error
        client._endpoint.http_session._proxy_config = _Routes(ways.proxies)
        ways.made(client)
        return client

    def _endpoint(self, service: str, region: str | None) -> tuple[str, str | None]:
        """Return who names the endpoint, and the one that overrides what botocore finds."""
        ways = self._ways
        if region in (None, ways.region) and service in ways.endpoints:
            where = f"endpoints: {ways.keys.get(service, service)} in the site file"
            return where, _plain(ways.endpoints[service], where)
        found = self._configured(service)
        if found is None:
            return f"endpoint of {service}", None
        _plain(found[1], found[0])
        return found[0], None

    def _configured(self, service: str) -> tuple[str, str] | None:
        """Return what botocore will take from environment or profile, and its place."""
        if self.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        url = ConfiguredEndpointProvider(self.full_config, self.get_scoped_config(), service).provide()
        if not url:
            return None
        name = CLIENT_NAME_TO_HYPHENIZED_SERVICE_ID_OVERRIDES.get(service, service).replace("-", "_").upper()
        variables = (f"AWS_ENDPOINT_URL_{name}", "AWS_ENDPOINT_URL")
        return next((v for v in variables if os.environ.get(v)), "endpoint_url in AWS_CONFIG_FILE"), str(url)


class _Routes(ProxyConfiguration):  # type: ignore[misc]
    """Finds the proxy of each request; a password never stands in a URL that botocore could print."""

    def __init__(self, proxies: Proxies) -> None:
        super().__init__()
        self._ours = proxies
        self._found: dict[str, str | None] = {}

    def proxy_url_for(self, url: str) -> str | None:
        """Return the proxy's URL, None where the host is reached directly."""
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.netloc}"
        if place not in self._found:
            proxy = self._ours.of(Url.parse(place).origin)
            self._found[place] = None if proxy is None else str(proxy.url.origin)
        return self._found[place]

    def proxy_headers_for(self, proxy_url: str) -> dict[str, str]:
        """Return what the proxy knows us by."""
        known = (proxy for proxy in self._ours.by_scheme.values() if str(proxy.url.origin) == proxy_url)
        return next((proxy.headers for proxy in known), {})


def _plain(url: str, where: str) -> str:
    """Return `url`, which every parser reads alike and which holds no password.

    Raises:
        UsageError: it is none; its text, which may be a secret, is not shown.
    """
    try:
        target = Url.parse(url).target
    except FormatError as error:
        raise UsageError(where, f"is not the URL of an endpoint: it {error.cause}", hint=_HINT) from None
    if "@" in url or "?" in target or "#" in url:
        raise UsageError(where, "is not the URL of an endpoint: it holds more than host, port and path", hint=_HINT)
    return url
