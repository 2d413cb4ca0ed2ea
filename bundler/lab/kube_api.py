"""The few calls of the Kubernetes API that the lab itself makes, with its administrator's certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from bundler.errors import NetworkError

JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
_TIMEOUT = urllib3.Timeout(connect=5, read=30)


class KubeAnswerError(NetworkError):
    """The API server did not do what was asked.

    Attributes:
        status: of HTTP; 0 where there was no answer.
    """

    title = "Kubernetes API"

    def __init__(self, subject: str, cause: str, *, status: int) -> None:
        super().__init__(subject, cause)
        self.status = status


class KubeApi:
    """One API server, over connections that are kept."""

    def __init__(self, endpoint: str, *, ca_file: Path, certificate: Path, key: Path) -> None:
        self._endpoint = endpoint
        self._pool = urllib3.PoolManager(
            ca_certs=str(ca_file), cert_file=str(certificate), key_file=str(key), timeout=_TIMEOUT, retries=False
        )

    def is_ready(self) -> bool:
        """Whether the API server says that all of it works."""
        return self.answers(f"{self._endpoint}/readyz")

    def answers(self, url: str) -> bool:
        """Whether any URL that takes the administrator's certificate answers 200."""
        try:
            return self._pool.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def get(self, path: str, **query: str) -> Any:
        """Return the object, or the list, at `path`."""
        return self._call("GET", path + (f"?{urlencode(query)}" if query else ""))

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        try:
            self.get(path)
        except KubeAnswerError as error:
            if error.status == 404:
                return False
            raise
        return True

    def create(self, path: str, value: Mapping[str, object]) -> None:
        """Create an object in the collection at `path`."""
        self._call("POST", path, value)

    def patch(self, path: str, value: Mapping[str, object]) -> None:
        """Merge `value` into the object at `path`, lists by their merge keys."""
        self._call("PATCH", path, value, media_type=STRATEGIC)

    def delete(self, path: str) -> None:
        """Delete the object at `path` without a grace period; it may be gone already."""
        try:
            self._call("DELETE", path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
        except KubeAnswerError as error:
            if error.status != 404:
                raise

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.clear()

    def _call(
        self, method: str, path: str, value: Mapping[str, object] | None = None, *, media_type: str = JSON
    ) -> Any:
        body = None if value is None else json.dumps(value).encode()
        try:
            answer = self._pool.request(
                method, self._endpoint + path, body=body, headers={"Content-Type": media_type, "Accept": JSON}
            )
        except urllib3.exceptions.HTTPError as error:
            raise KubeAnswerError(f"{method} {path}", str(error), status=0) from error
        if answer.status >= 400:
            text = answer.data[:500].decode("utf-8", "replace")
            raise KubeAnswerError(f"{method} {path}", f"answered {answer.status}: {text}", status=answer.status)
        return json.loads(answer.data)
