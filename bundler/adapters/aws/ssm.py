"""SSM: the public parameters by which AWS names its AMIs."""

from __future__ import annotations

from bundler.adapters.aws.clients import Service
from bundler.errors import NotFoundUpstreamError, RejectedError

_ABSENT = frozenset({"ParameterNotFound", "ParameterVersionNotFound"})


class Parameters:
    """Parameters of Systems Manager, read."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def value(self, name: str) -> str:
        """Return the value of a parameter.

        Raises:
            NotFoundUpstreamError: the Region has no such parameter.
        """
        try:
            return self._service.ask(
                "GetParameter", lambda answer: str(answer["Parameter"]["Value"]), about=name, Name=name
            )
        except RejectedError as error:
            if error.code not in _ABSENT:
                raise
            cause = f"AWS publishes no such parameter in {self._service.region}"
            hint = "Check kubernetesVersion, and variant, release or version of the AMI, in the definition."
            raise NotFoundUpstreamError(name, cause, hint=hint) from error
