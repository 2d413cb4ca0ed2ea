"""User names and passwords whose text never shows by accident."""

from __future__ import annotations

from dataclasses import dataclass


class Secret:
    """Text that repr, str, format and errors show as `***`; only `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, to be put on the wire and nowhere else."""
        return self._text

    def hidden_in(self, text: str) -> str:
        """Return `text` without the secret, in case somebody echoes it."""
        return text.replace(self._text, "***") if self._text else text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a secret is never pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one registry knows us by.

    Attributes:
        username: empty for an identity token.
        password: password, or identity token (an OAuth2 refresh token) where `is_identity_token`.
        is_identity_token: whether the password must be traded for an access token at the token server.
    """

    username: str
    password: Secret
    is_identity_token: bool = False
