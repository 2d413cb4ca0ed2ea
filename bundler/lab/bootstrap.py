"""User data as an Amazon Linux 2 node uses it: a script whose one command is bootstrap.sh. No script is run here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from bundler.errors import FormatError
from bundler.lab.node_facts import SUBJECT, NodeFacts, pem, required

PROGRAM = "/etc/eks/bootstrap.sh"
_EXTRA = "--kubelet-extra-args"
_OPTIONS = frozenset(
    {
        *("--apiserver-endpoint", "--b64-cluster-ca", "--dns-cluster-ip", "--ip-family", "--use-max-pods", _EXTRA),
        *("--service-ipv4-cidr", "--container-runtime"),
    }
)


def parse_bootstrap(user_data: bytes) -> NodeFacts:
    """Return what a call of bootstrap.sh amounts to.

    Raises:
        FormatError: it is another script, or it would ask eks:DescribeCluster, or guess the address of cluster DNS.
    """
    name, options = _call(user_data)
    flags = _words(options.get(_EXTRA, ""))
    return NodeFacts(
        name=name,
        endpoint=required(options, "--apiserver-endpoint", _would_ask("--apiserver-endpoint")),
        authority_pem=pem(required(options, "--b64-cluster-ca", _would_ask("--b64-cluster-ca")), "--b64-cluster-ca"),
        dns_address=required(options, "--dns-cluster-ip", "no --dns-cluster-ip: it would be guessed from the VPC"),
        flags=tuple(flags),
        max_pods=_max_pods(flags),
    )


def _call(user_data: bytes) -> tuple[str, Mapping[str, str]]:
    try:
        lines = user_data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(SUBJECT, f"is not a plain script: {error}") from error
    commands = [line for line in lines if line and not line.startswith("#")]
    words = _words(commands[0]) if len(commands) == 1 else []
    if len(words) < 2 or words[0] != PROGRAM:
        raise FormatError(SUBJECT, f"is a script, but not one call of {PROGRAM} and nothing else")
    return words[1], _options(words[2:])


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise FormatError(SUBJECT, f"no shell reads it to its end: {error}") from error


def _options(words: Sequence[str]) -> Mapping[str, str]:
    if len(words) % 2 or not set(words[::2]) <= _OPTIONS:
        raise FormatError(SUBJECT, f"{PROGRAM} does not take these options")
    return dict(zip(words[::2], words[1::2], strict=True))


def _would_ask(option: str) -> str:
    return f"no {option}: {PROGRAM} would ask eks:DescribeCluster"


def _max_pods(flags: Sequence[str]) -> int | None:
    found = [flag.removeprefix("--max-pods=") for flag in flags if flag.startswith("--max-pods=")]
    if not found:
        return None
    if not found[-1].isdecimal():
        raise FormatError(SUBJECT, "--max-pods is not a number")
    return int(found[-1])
