"""A plain registry over HTTP: upstream of the connected side, and a registry for tests that need one in a moment."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.lab.ecr import Login, PlainRules
from bundler.lab.faults import Faults
from bundler.lab.http_server import Answer, Request, Server
from bundler.lab.registry import Registry
from bundler.lab.registry_store import RegistryStore
from bundler.lab.request_log import RequestLog


class PlainRegistry:
    """The registry and, where there is a login, its token service at `/token`."""

    def __init__(self, folder: Path, *, faults: Faults, log: RequestLog, login: Login | None = None) -> None:
        self.store = RegistryStore(folder)
        self._rules = PlainRules(self.store, login=login)
        self._registry = Registry(self.store, self._rules, faults=faults, log=log)

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        return self._token(request) if request.path == "/token" else self._registry.answer(request)

    def _token(self, request: Request) -> Answer:
        if not self._rules.knows(request):
            return Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="lab"'})
        body = json.dumps({"token": self._rules.bearer(), "expires_in": 300}).encode()
        return Answer(status=200, headers={"Content-Type": "application/json"}, body=body)


@contextmanager
def plain_registry(
    folder: Path, *, login: Login | None = None, faults: Faults | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve a plain registry from `folder` in this process and yield its URL; requests go to folder/requests.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    log = RequestLog(folder / "requests.jsonl")
    registry = PlainRegistry(folder, faults=faults or Faults(), log=log, login=login)
    registry.store.prepare()
    server = Server(registry, tls=tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
