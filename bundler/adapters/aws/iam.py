"""IAM, where it can be reached: instance profiles."""

from __future__ import annotations

from bundler.adapters.aws.clients import Answer, Service
from bundler.domain.infrastructure import Profile
from bundler.errors import RejectedError


class Iam:
    """The IAM API in our words."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def profile(self, arn: str) -> Profile | None:
        """Return an instance profile, None where there is none of that name."""
        try:
            return self._service.ask(
                "GetInstanceProfile", _profile, about=arn, InstanceProfileName=arn.rpartition("/")[2]
            )
        except RejectedError as error:
            if error.code == "NoSuchEntity":
                return None
            raise


def _profile(answer: Answer) -> Profile:
    found = answer["InstanceProfile"]
    return Profile(arn=found["Arn"], roles=tuple(role["Arn"] for role in found["Roles"]))
