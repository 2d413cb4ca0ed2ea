"""Field types that definition, site and lock share: strict models whose keys are camelCase in the files."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from bundler.domain.digest import Digest
from bundler.domain.document import Document, dotted, typed_values
from bundler.domain.oci import Platform
from bundler.domain.reference import Reference
from bundler.errors import BundleError, PolicyError


class Strict(BaseModel):
    """Frozen, unknown keys refused, camelCase in the file and snake_case in the code."""

    model_config = ConfigDict(
        defer_build=True,
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
        serialize_by_alias=True,
    )


class Built(Strict):
    """Like Strict, for models that our own code also makes, by their Python names."""

    model_config = ConfigDict(validate_by_name=True)


def _parsed(parse: Any, kind: type) -> BeforeValidator:
    def convert(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError("must be text")  # noqa: TRY004 - pydantic reports ValueError with its place
        try:
            return parse(str(value))
        except BundleError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(convert)


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    raise ValueError("must be true or false")


_TEXT = PlainSerializer(str, return_type=str)

ImageReference = Annotated[
    Reference,
    _parsed(Reference.parse, Reference),
    _TEXT,
    WithJsonSchema({"type": "string", "description": "registry/repository[:tag][@sha256:…]"}),
]
Sha256 = Annotated[
    Digest,
    _parsed(Digest.parse, Digest),
    _TEXT,
    WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}),
]
PlatformName = Annotated[
    Platform,
    _parsed(Platform.parse, Platform),
    _TEXT,
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$"}),
]
Flag = Annotated[bool, BeforeValidator(_flag)]
Values = Annotated[dict[str, Any], BeforeValidator(typed_values)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$")]
KubernetesVersion = Annotated[str, StringConstraints(pattern=r"^1\.[0-9]{2}$")]
SemanticVersion = Annotated[
    str,
    StringConstraints(pattern=r"^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$", max_length=128),
]
MAX_LINE = 500
Line = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LINE, pattern=r"^[^\n]+$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}$")]
Partition = Annotated[str, StringConstraints(pattern=r"^aws(-[a-z]+)*$")]
Account = Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")]
AmiId = Annotated[str, StringConstraints(pattern=r"^ami-[0-9a-f]{8,17}$")]
Architecture = Literal["amd64", "arm64"]
InstanceType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
SubnetId = Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]{8,17}$")]
SecurityGroupId = Annotated[str, StringConstraints(pattern=r"^sg-[0-9a-f]{8,17}$")]
HexSha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

_SECRET = re.compile(
    r"A[KS]IA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|gh[pousr]_[A-Za-z0-9]{36}|xox[bap]-[0-9A-Za-z-]{20,}"
)


def refuse_secrets(document: Document) -> None:
    """Refuse a file in which a literal credential stands (reliability C19).

    Raises:
        PolicyError: names the place, never the value.
    """
    for path in document.positions:
        value = document.at(path)
        if isinstance(value, str) and _SECRET.search(value):
            cause = f"{dotted(path)} holds what looks like a credential; the archive must not carry secrets"
            raise PolicyError(document.where(path), cause, hint="Take it out, and make it invalid where it came from.")


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema in which a key may be left out, but not be null: YAML's null is refused in our files."""
    return {key: _without_null(value) for key, value in schema.items()}


def _without_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    kinds = value.get("anyOf")
    if isinstance(kinds, list) and {"type": "null"} in kinds:
        others = [kind for kind in kinds if kind != {"type": "null"}]
        rest = {key: item for key, item in value.items() if key != "anyOf" and (key, item) != ("default", None)}
        value = {**rest, **(others[0] if len(others) == 1 else {"anyOf": others})}
    return without_null(value)
