r"""What Packer says with -machine-readable: `TIME,TARGET,KIND,DATA…` (packer.io, "Machine-Readable Output").

Commas stand as `%!(PACKER_COMMA)` and line ends as `\n` in a field; backslashes are not escaped, so that what a
provisioner printed comes back almost, and everything of ours comes back exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bundler.domain.credentials import Secret

AMAZON_EBS = "mitchellh.amazonebs"
_COMMA = "%!(PACKER_COMMA)"
_AMI = re.compile(r"([a-z]{2,5}(?:-[a-z]+)+-[0-9]{1,2}):(ami-[0-9a-f]{8,17})\Z")
_NOTED = re.compile(r"(?:==> )?[^:\s]+:\s+AMI: (?P<ami>ami-[0-9a-f]{8,17})")
_STEP = re.compile(r"==> [^:]+: (?P<step>.+)")
_REMARK = re.compile(r"\s+[^:\s]+: (?P<said>.+)")
_PROVISIONING = re.compile(r"(Provisioning with|Uploading|Downloading) ")
_NAME = r"(?:\S*/)?(?P<name>[^\s/]+)/?"
CREATING = "creating the AMI"
_MILESTONES = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"Launching a source AWS instance", "launching the instance"),
        (r"Waiting for SSH to become available", "waiting for SSH"),
        (r"Provisioning with shell script: \S*/packer-shell[0-9]+$", "running a script"),
        (rf"Provisioning with shell script: {_NAME}$", "running {name}"),
        (r"Provisioning with (?P<name>[\w-]+)", "provisioning with {name}"),
        (rf"Uploading {_NAME}(?: =>|$)", "uploading {name}"),
        (rf"Downloading {_NAME}(?: =>|$)", "downloading {name}"),
        (r"Stopping the source instance", "stopping the instance"),
        (r"Creating (?:\w+ )?AMI(?! tags)", CREATING),
        (r"Waiting for AMI to become ready", "waiting for the AMI"),
        (r"Copying", "copying the AMI"),
        (r"Terminating the source AWS instance", "terminating the instance"),
    )
)
_MOST_CHARACTERS = 70
SHORTEST_HIDDEN = 8
"""Characters of what is hidden though nobody says that it is secret: `true` or `20` would take words out of errors."""
_SCRIPT_LINES = 3
"""How many of a script's last words are repeated when it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackerLine:
    """One line; what is none has the kind `raw`."""

    target: str
    kind: str
    data: tuple[str, ...]

    @property
    def said(self) -> str:
        """What a person is told by it, empty where it is for machines."""
        if self.kind == "ui" and len(self.data) > 1:
            return ",".join(self.data[1:])
        return self.data[0] if self.kind == "raw" and self.data else ""

    @property
    def step(self) -> str:
        """The step of a build that begins with it, such as `Launching a source AWS instance...`."""
        if self.kind != "ui" or self.data[:1] != ("say",):
            return ""
        match = _STEP.match(" ".join(self.said.split()))
        return match["step"] if match else ""

    @property
    def milestone(self) -> str:
        """The same for people, in a few words; empty for steps that tell them nothing."""
        return _milestone(self.step)

    @property
    def noted_ami(self) -> str:
        """The id of an AMI that it names as Packer does after CreateImage; a script may print the same."""
        match = _NOTED.fullmatch(self.said.strip()) if self.kind == "ui" and self.data[:1] != ("error",) else None
        return match["ami"] if match else ""

    @property
    def complaint(self) -> str:
        """What a script wrote to stderr, or Packer says of a build that it calls off."""
        match = _STEP.match(self.said) if self.kind == "ui" and self.data[:1] == ("error",) else None
        return " ".join(match["step"].split()) if match else ""

    @property
    def remark(self) -> str:
        """What a script wrote to stdout."""
        match = _REMARK.match(self.said) if self.kind == "ui" and self.data[:1] == ("message",) else None
        return " ".join(match["said"].split()) if match else ""

    def without(self, secrets: Sequence[Secret]) -> PackerLine:
        """Return the line as it may be shown; what machines read in it stays: a value may be a Region's name."""
        if self.kind == "artifact":
            return self
        words = 1 if self.kind == "ui" else 0
        return replace(self, data=(*self.data[:words], *(hide(text, secrets) for text in self.data[words:])))


def parse_packer_line(text: str) -> PackerLine:
    """Return what a line says; any text is one."""
    time, *fields = text.rstrip("\r\n").split(",")
    if not time.isdigit() or len(fields) < 2:
        return PackerLine(target="", kind="raw", data=(text.rstrip("\r\n"),))
    target, kind, *data = fields
    return PackerLine(target=target, kind=kind, data=tuple(map(_plain, data)))


def secret_values(values: Iterable[str]) -> tuple[Secret, ...]:
    """Return what hides values however Packer prints them: whole, or line by line; the longest first."""
    forms = {form for value in values for form in (value, _plain(value), *_long_lines(value))}
    return tuple(Secret(form) for form in sorted(forms - {""}, key=lambda form: (-len(form), form)))


def hide(text: str, secrets: Iterable[Secret]) -> str:
    """Return text without any of the secrets."""
    for secret in secrets:
        text = secret.hidden_in(text)
    return text


def _long_lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST_HIDDEN]


def _milestone(step: str) -> str:
    for pattern, text in _MILESTONES:
        match = pattern.match(step)
        if match:
            return _cut(text.format(**match.groupdict()))
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _plain(field: str) -> str:
    return field.replace(_COMMA, ",").replace("\\n", "\n").replace("\\r", "\r")


def built_amis(lines: Iterable[PackerLine]) -> dict[str, str]:
    """Return Region -> AMI id of the amazon-ebs artifacts; post-processors name the same ones again."""
    artifacts: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        if line.kind == "artifact" and len(line.data) > 2:
            artifacts.setdefault((line.target, line.data[0]), {})[line.data[1]] = ",".join(line.data[2:])
    found: dict[str, str] = {}
    for artifact in artifacts.values():
        if artifact.get("builder-id") != AMAZON_EBS:
            continue
        for pair in artifact.get("id", "").split(","):
            match = _AMI.match(pair)
            if match is not None:
                found[match[1]] = match[2]
    return found


def failure(lines: Sequence[PackerLine]) -> str:
    """Return why a build failed: the provisioner or step it was in, its errors, and a script's last words.

    Alone the words are no reason: what a script writes to stderr Packer calls an error, too, in a build that succeeds.
    Of a script that wrote nothing to stderr the last lines of its output are told.
    """
    step, words, output = "", list[str](), list[str]()
    for line in lines:
        if line.step and (_PROVISIONING.match(line.step) or not step):
            step, words, output = line.step, [], []
        if line.complaint:
            words.append(line.complaint)
        if line.remark and _PROVISIONING.match(step):
            output.append(line.remark)
    errors = [",".join(line.data) for line in lines if line.kind == "error"]
    words = (words or output)[-_SCRIPT_LINES:] if errors else []
    errors = errors or [line.said for line in lines if line.data[:1] == ("error",)]  # it did not come to a build
    said = " | ".join(dict.fromkeys(" ".join(error.split()) for error in (*errors, *words) if error.strip()))
    step = _milestone(step) or step.rstrip(". ")
    return f"{step}: {said}" if step and said else said or step
