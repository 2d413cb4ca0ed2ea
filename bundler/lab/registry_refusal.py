"""How a registry of the lab says no."""

from __future__ import annotations

import json

from bundler.lab.http_server import Answer

API = {"Docker-Distribution-Api-Version": "registry/2.0"}


class RegistryError(Exception):
    """A refusal, in the form of distribution-spec (an error code and a message), or in plain text as ECR has it."""

    def __init__(self, status: int, code: str, message: str, *, detail: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers: dict[str, str] = {}
        self.plain = False

    def answer(self) -> Answer:
        """The refusal as it goes over the wire."""
        if self.plain:
            headers = {**API, **self.headers, "Content-Type": "text/plain; charset=utf-8"}
            return Answer(status=self.status, headers=headers, body=f"{self.message}\n".encode())
        error = {"code": self.code, "message": self.message, "detail": self.detail}
        headers = {**API, **self.headers, "Content-Type": "application/json; charset=utf-8"}
        return Answer(status=self.status, headers=headers, body=json.dumps({"errors": [error]}).encode())
