"""The one way in which the lab changes moto: replace something that is known to be there (moto is pinned)."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from moto.core.exceptions import ServiceException

Dispatch = Callable[..., Any]


class Refused(ServiceException):
    """A refusal with the code of an AWS error; moto looks codes up by the module of the class."""


def put_in_place(owner: object, name: str, ours: object) -> None:
    """Replace `owner.name`.

    Raises:
        AttributeError: moto has no such thing (any more); the correction would be silently without effect.
    """
    getattr(owner, name)
    setattr(owner, name, ours)


def route_all(url_paths: MutableMapping[str, Dispatch], dispatch: Dispatch) -> None:
    """Send every path of a service to our responses."""
    for path in url_paths:
        url_paths[path] = dispatch
