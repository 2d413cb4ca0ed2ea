"""`.helmignore`: which files of a chart's folder are no part of the chart (helm.sh, "The .helmignore file")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bundler.errors import DefinitionError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    pattern: re.Pattern[str]
    is_negated: bool
    folders_only: bool
    whole_path: bool

    def matches(self, path: str) -> bool:
        return self.pattern.match(path if self.whole_path else path.rsplit("/", 1)[-1]) is not None


class Helmignore:
    """The rules of one chart folder."""

    def __init__(self, text: str, *, subject: str) -> None:
        """Read the rules of `text`, and Helm's own one: hidden files in templates/ are no templates.

        Raises:
            DefinitionError: `**`, which Helm does not know.
        """
        lines = [*(line.strip() for line in text.splitlines()), "templates/.?*"]
        self._rules = [_rule(line, subject) for line in lines if line and not line.startswith("#")]

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Whether the chart goes without `path` (relative, with slashes); everything below such a folder goes too."""
        for rule in self._rules:
            if rule.is_negated:
                if (rule.folders_only and not is_folder) or not rule.matches(path):
                    return True
            elif (is_folder or not rule.folders_only) and rule.matches(path):
                return True
        return False


def _rule(line: str, subject: str) -> _Rule:
    if "**" in line:
        raise DefinitionError(subject, f"has the rule {line!r}; Helm does not know `**`")
    is_negated, line = line.startswith("!"), line.removeprefix("!")
    folders_only, line = line.endswith("/"), line.removesuffix("/")
    try:
        pattern = re.compile(_expression(line.removeprefix("/")) + r"\Z")
    except re.error as error:
        raise DefinitionError(subject, f"has the rule {line!r}, which is no pattern ({error})") from error
    return _Rule(
        pattern=pattern,
        is_negated=is_negated,
        folders_only=folders_only,
        whole_path="/" in line,
    )


def _expression(glob: str) -> str:
    """The glob of Go's filepath.Match as a regular expression: `*` and `?` stop at slashes."""
    parts = []
    for piece in re.findall(r"\\.|\[\^?(?:\\.|[^\]\\])+\]|.", glob, re.DOTALL):
        if piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif piece.startswith("[") and len(piece) > 1:
            parts.append(piece)
        else:
            parts.append(re.escape(piece.removeprefix("\\") or "\\"))
    return "".join(parts)
