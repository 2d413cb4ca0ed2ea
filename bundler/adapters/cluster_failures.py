"""What kubectl and helm say when the cluster does not answer as wished, as errors of ours."""

from __future__ import annotations

import re

from bundler.adapters.process import Completed, visible_tail
from bundler.errors import AccessError, BundleError, ConflictError, NetworkError, TargetError, TransientError

_ACCESS_HINT = (
    "Give the caller an access entry of the cluster with AmazonEKSClusterAdminPolicy (aws eks create-access-entry,"
    " aws eks associate-access-policy). Who calls: aws sts get-caller-identity"
)
_LOG_LINE = re.compile(rb"[EFIW][0-9]{4} [0-9:.]+ +[0-9]+ [a-z_]+\.go:[0-9]+\]")
_REACH_HINT = "Is the API endpoint reachable from here? Then run the same command again."
_DENIED = (
    "Unauthorized|must be logged in|getting credentials|provide credentials",
    r"cannot [a-z]+ resource",
)
_NOT_REACHED = (
    "connection refused|was refused - did you|connection reset|no such host|no route to host",
    "network is unreachable|i/o timeout",
    "TLS handshake timeout|Unable to connect|Kubernetes cluster unreachable|EOF$",
    "server is currently unable|the server was unable|ServiceUnavailable|etcdserver:|too many requests",
)
_TAKEN = (
    "invalid ownership metadata|cannot be imported into the current release|another operation .* is in progress",
    "Apply failed with [0-9]+ conflict|the object has been modified",
)
_LATE = ("timed out waiting|deadline exceeded|not ready. status|progress deadline|BackoffLimitExceeded",)
_TABLE: tuple[tuple[tuple[str, ...], type[BundleError], str], ...] = (
    (_DENIED, AccessError, _ACCESS_HINT),
    (("x509: |tls: ",), NetworkError, "Compare certificateAuthority and endpoint in site.yaml with the cluster's own."),
    (_NOT_REACHED, TransientError, _REACH_HINT),
    (_TAKEN, ConflictError, "Somebody else owns this object; agree with them, then run the same command again."),
    (_LATE, TargetError, "Look at its pods (kubectl describe pod), mend the cause, then run bundle install again."),
)


def cluster_failure(done: Completed, subject: str) -> BundleError | None:
    """Return the error that a failed kubectl or helm amounts to, None where its words are not known."""
    said = done.stderr.decode("utf-8", "replace") + "\n" + done.stdout[-2000:].decode("utf-8", "replace")
    for patterns, kind, hint in _TABLE:
        if any(re.search(pattern, said, re.MULTILINE) for pattern in patterns):
            return kind(subject, f"{done.program}: {_words(done)}", hint=hint)
    return None


def _words(done: Completed) -> str:
    """What the program says in the end, without its log of tries before."""
    lines = [line for line in done.stderr.splitlines() if not _LOG_LINE.match(line)]
    return visible_tail(b"\n".join(lines)) or done.tail
