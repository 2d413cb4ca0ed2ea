"""How long a client goes on asking: botocore's verdicts, the service's Retry-After, and everybody told of each wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bundler.adapters.aws.failures import clean
from bundler.domain.credentials import Secret
from bundler.domain.events import Emit, Retrying
from bundler.errors import NetworkError, TransientError
from bundler.retry import asked_wait_s

TRIES = 8
QUICK_TRIES = 2
MAX_ASKED_S = 900.0
_WAITED = "eks-bundler-waited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What clients wait for.

    Attributes:
        quick: give up after two tries where nothing answers; a service that says "later" has been reached.
        emit: hears of each retry, but for those of a quick client that meets silence.
        secrets: no message shows them.
        sleep: waits.
    """

    quick: bool
    emit: Emit
    secrets: Callable[[], tuple[Secret, ...]]
    sleep: Callable[[float], None]


def be_patient(client: Any, patience: Patience) -> None:
    """Let `client` try again as `patience` says; botocore still decides what may be tried again at all."""
    from botocore.retries.standard import register_retry_handler

    name = client.meta.service_model.service_id.hyphenize()
    event, unique = f"needs-retry.{name}", f"retry-config-{name}"
    client.meta.events.unregister(event, unique_id=unique)
    verdict = register_retry_handler(client, TRIES)
    client.meta.events.unregister(event, unique_id=unique)
    client.meta.events.register(event, _Retries(client, verdict.needs_retry, patience))
    client.meta.events.register("before-call.s3.HeadBucket", _ask_once)


def _ask_once(context: dict[str, Any], **_: Any) -> None:
    """Where a redirect leads, botocore asks by another request; one that is redirected too would ask for ever."""
    context.setdefault("s3_redirect", {})["redirected"] = True


@contextmanager
def later() -> Iterator[None]:
    """Make of a service without time what `retry` tries again.

    botocore tries again too, but with one allowance for all threads: in a storm it is soon used up.

    Raises:
        TransientError: the service was reached, and had no time.
    """
    try:
        yield
    except TransientError:
        raise
    except NetworkError as error:
        if not error.busy:
            raise
        ours = TransientError(error.subject, error.cause, hint=error.hint)
        ours.answered = True
        raise ours from error


class _Retries:
    """Answers botocore's question whether to try again; it waits itself, so that calling off the work wakes it."""

    def __init__(self, client: Any, verdict: Callable[..., float | None], patience: Patience) -> None:
        self._service = client.meta.service_model.service_name
        self._verdict = verdict
        self._patience = patience

    def __call__(self, **asked: Any) -> float | None:
        """Return 0 for "again, now", None for "no more"."""
        context = asked["request_dict"]["context"]
        free, waited_s = context.get(_WAITED, (0, 0.0))
        tries = asked["attempts"] - free
        silent = asked["caught_exception"] is not None
        if silent and self._patience.quick and tries >= QUICK_TRIES:
            return None
        wait_s = self._verdict(**{**asked, "attempts": tries})
        if wait_s is None:
            return None
        asked_s = None if silent else _asked_s(asked["response"])
        if asked_s is not None and waited_s + asked_s <= MAX_ASKED_S:
            context[_WAITED] = (free + 1, waited_s + asked_s)
        wait_s = wait_s if asked_s is None else asked_s
        if not (silent and self._patience.quick):
            subject = f"{self._service}:{asked['operation'].name}"
            self._patience.emit(Retrying(subject=subject, cause=self._cause(asked), wait_s=wait_s))
        self._patience.sleep(wait_s)
        return 0

    def _cause(self, asked: Mapping[str, Any]) -> str:
        error = asked["caught_exception"]
        if error is not None:
            return clean(str(error), self._patience.secrets())
        said = asked["response"][1].get("Error", {})
        return clean(f"{said.get('Code', '')} {said.get('Message', '')}", self._patience.secrets())


def _asked_s(response: tuple[Any, Mapping[str, Any]]) -> float | None:
    """Seconds that the service asks for; None where it does not."""
    headers = response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return asked_wait_s(headers.get("retry-after"), headers.get("date"))
