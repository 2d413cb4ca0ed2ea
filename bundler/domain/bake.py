"""What a bake depends on, as one digest: the same inputs never bake twice, and a changed one always does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from bundler.domain.ami import BakedAmi, LockedAmi
from bundler.domain.canonical import canonical_json
from bundler.domain.definition import Template
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock

BAKE_TAG = "bundle:bake"
"""On everything that a bake makes in AWS; its value is the digest of the inputs."""
AMI_NAME_DIGITS = 16
_GENERATION = re.compile(r"-([2-9]|[1-9][0-9]{1,5})")


def text_digest(*parts: str) -> Digest:
    """Return the digest of some texts, in order."""
    return Digest.of(canonical_json(list(parts)))


def template_digest(template: Template, folder: Digest) -> Digest:
    """Return the digest of a team's template: all files of its folder, which of them is built, and its variables."""
    variables = (f"{key}={value}" for key, value in sorted(template.variables.items()))
    return text_digest(str(folder), template.file, template.builder_user, *variables)


def content_inputs(lock: Lock, ami: LockedAmi) -> Digest:
    """Return the digest of all that the lock says of an AMI: source, template, preloads by digest, names they get.

    Targets count only where they name something: without preloads an AMI is the same for every site.
    """
    preloads = {
        str(reference): str(image.target.digest)
        for reference in ami.preload
        if (image := lock.image(reference)) is not None
    }
    return Digest.of(
        canonical_json(
            {
                "ami": ami.model_dump(mode="json", by_alias=True, exclude_none=True),
                "preloads": preloads,
                "targets": [target.model_dump(mode="json", by_alias=True) for target in lock.targets if preloads],
            }
        )
    )


def bake_inputs(lock: Lock, ami: LockedAmi, *, template: Digest | None, kms_key: str | None = None) -> Digest:
    """Return the digest of all that a bake depends on: what the lock says, our own template, and the builder's key."""
    key = () if kms_key is None else (kms_key,)
    return text_digest(str(content_inputs(lock, ami)), str(template) if ami.is_baked else "", *key)


def ami_name(ami: LockedAmi, inputs: Digest) -> str:
    """Return the name of the AMI that a bake makes; at most 128 characters (EC2, CreateImage)."""
    return f"eks-bundler-{ami.name}-{ami.architecture}-{inputs.hex[:AMI_NAME_DIGITS]}"


def generation_name(ami: LockedAmi, inputs: Digest, number: int) -> str:
    """Return the name of the AMI that a bake makes when it is made again (--rebake): no two AMIs have one name."""
    return ami_name(ami, inputs) if number == 1 else f"{ami_name(ami, inputs)}-{number}"


def generation_of(name: str, *, base: str) -> int | None:
    """Return which one of a bake's AMIs bears that name, None where it is none of them."""
    if name == base:
        return 1
    match = _GENERATION.fullmatch(name.removeprefix(base))
    return None if match is None or not name.startswith(base) else int(match[1])


def ami_description(inputs: Digest) -> str:
    """Return the description of what a bake makes: by it, or by its tag, an AMI is known as ours."""
    return f"eks-bundler bake {inputs}"


def key_prefix(run: Digest) -> str:
    """Return how the name of a run's temporary key pair begins (packer/al2023/template.json)."""
    return f"bundle-bake-{run}-"


def group_name(run: Digest) -> str:
    """Return the name of a run's security group."""
    return f"bundle-bake-{run.hex[:AMI_NAME_DIGITS]}"


def client_token(*parts: str) -> str:
    """Return 64 hex digits for a ClientToken."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def kept_bakes(before: Lock, after: Lock) -> tuple[BakedAmi, ...]:
    """Return the bakes of a lock that hold for another one: of AMIs of which both say the same.

    What is carried as a delta is so in one archive: the next begins with all of it again.
    """
    wanted = {(ami.name, ami.architecture): content_inputs(after, ami) for ami in after.amis}
    was = {(ami.name, ami.architecture): content_inputs(before, ami) for ami in before.amis}
    same = {key for key, inputs in wanted.items() if was.get(key) == inputs}
    return _ordered(one for one in before.bake if one.base is None and (one.name, one.architecture) in same)


def with_bakes(lock: Lock, bakes: Iterable[BakedAmi]) -> Lock:
    """Return the lock with these in the place of what it said of the same AMIs."""
    by_key = {(one.name, one.architecture): one for one in (*lock.bake, *bakes)}
    return lock.model_copy(update={"bake": _ordered(by_key.values())})


def _ordered(bakes: Iterable[BakedAmi]) -> tuple[BakedAmi, ...]:
    return tuple(sorted(bakes, key=lambda one: (one.name, one.architecture)))
