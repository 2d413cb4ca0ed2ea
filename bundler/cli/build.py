"""`bundle lock` and `bundle build`."""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.options import (
    DEFINITION,
    FILE,
    FOLDER,
    ca_file_option,
    definition_argument,
    jobs_option,
    output_option,
    parts_option,
    progress_option,
    showing,
)
from bundler.cli.render import human_bytes, show_document
from bundler.domain.events import Emit, Noted, counted
from bundler.errors import BundleError, LockChangedError, UsageError

if TYPE_CHECKING:
    from bundler.domain.definition import Definition
    from bundler.domain.digest import Digest
    from bundler.domain.lock import Lock
    from bundler.trust import Signer
    from bundler.wiring import Surroundings
    from bundler.workflows.lock import AmiChange, Change, LockOutcome


@click.command()
@definition_argument
@click.option("--update", is_flag=True, help="Accept tags that moved upstream.")
@click.option("--previous", metavar="ARCHIVE|sha256:…", help="The archive that this one follows, or its root digest.")
@parts_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def lock(
    definition: Path,
    update: bool,
    previous: str | None,
    parts: tuple[str, ...],
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Pin every image, chart and tool of DEFINITION by digest, and every AMI by its id.

    Writes bundle.lock.json beside bundle.yaml. When nothing changed upstream the file stays as it is, byte for byte; a
    tag that moved is shown, and needs --update.
    """
    from bundler import wiring

    with _naming(definition), showing(progress) as emit:
        surroundings = wiring.Surroundings(ca_file=ca_file, jobs=jobs, emit=emit)
        parsed = wiring.read_definition(definition)
        follows = None if previous is None else wiring.root_of(previous, replace(surroundings, parts=parts))
        outcome = _lock(definition, parsed, surroundings, update=update, previous=follows)
    path = wiring.lock_path(definition)
    if output == "text":
        _show(outcome, path)
    else:
        show_document(_described(outcome, path), output)


@click.command()
@definition_argument
@click.option("--out", type=FOLDER, default=".", show_default=True, help="Folder for the archive.")
@click.option("--locked", is_flag=True, help="Refuse when there is no lock, or it is not of this definition.")
@click.option("--key", type=FILE, default="bundle.key", show_default=True, help="The signing key.")
@click.option("--trust-root", type=FILE, show_default="beside the key", help="The trust.json to carry.")
@click.option("--rebake", is_flag=True, help="Bake AMIs again; the new ones take the place of the old.")
@click.option("--against", metavar="ARCHIVE|RECEIPT|LOCK", help="Leave out what the site holds already.")
@click.option("--whole", is_flag=True, help="Carry every block of every AMI, also where the lock records a delta.")
@click.option("--split", metavar="SIZE", help="Cut the archive into parts of this size: 700M, 4G, 4700MB.")
@parts_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def build(
    definition: Path,
    out: Path,
    locked: bool,
    key: Path,
    trust_root: Path | None,
    rebake: bool,
    against: str | None,
    whole: bool,
    split: str | None,
    parts: tuple[str, ...],
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Build the one signed archive that crosses the gap.

    Without a lock it makes one first. Every chart is rendered again, and an image that is not in the lock stops the
    build. AMIs of the definition are baked with Packer, once for the same inputs, and read out block by block. An
    interrupted build goes on from what is right already; only a complete archive gets the final name.

    With --against, what the site holds already is not carried, by content: configs and layers of images, and blocks of
    AMIs of the same name and architecture. It takes an earlier archive (a file, or s3://bucket/key), its lock, or what
    bundle receipt wrote at the site. The result installs where all of that is; anywhere else install says what is
    missing before it writes anything. What will be carried is told before anything is fetched; bundle diff tells it
    without a build. Manifests, charts, tools and files are always carried. The lock records only what AMIs begin with,
    until --whole, --rebake or a changed lock begins with all of it; images are left out where --against is given.

    --rebake bakes each AMI again, under a new name; one that is carried as it is (id, bottlerocket) is read out again.
    The old AMI is removed once the new one is there and fit for the bundle; where another account may launch it, it
    stays, and how to remove it is printed. If the new one fails, the old one stays. Killed anywhere, the next build
    (with --rebake or without) ends with one current AMI: the new one if it was made.

    With --split the sealed archive becomes STEM.tar.000, STEM.tar.001 and so on, and STEM.parts.json, which lists them;
    STEM.tar is gone then. That needs room for one more part, not for a second archive. Every command that takes an
    archive takes STEM.parts.json.
    """
    from bundler import wiring
    from bundler.atomic import publish
    from bundler.domain.lock import lock_bytes
    from bundler.domain.parts import parse_size
    from bundler.workflows.build import BuildRequest
    from bundler.workflows.build import build as run

    part_bytes = None if split is None else parse_size(split)
    if against is not None and whole:
        raise UsageError("--whole", "says the opposite of --against", hint="Give one of them.")
    with _naming(definition), showing(progress) as emit:
        surroundings = wiring.Surroundings(ca_file=ca_file, jobs=jobs, emit=emit)
        signer, chain = _signing(key, trust_root)
        parsed = wiring.read_definition(definition)
        pinned = _existing_lock(wiring.lock_path(definition), locked=locked, emit=emit)
        if pinned is None:
            pinned = _lock(definition, parsed, surroundings, update=False, previous=None).lock
        earlier = None if against is None else wiring.read_earlier(against, replace(surroundings, parts=parts))
        out.mkdir(parents=True, exist_ok=True)
        request = BuildRequest(
            definition=parsed,
            lock=pinned,
            out=out,
            trust=chain,
            signer=signer,
            reopen=lambda path: wiring.complete_root(path, surroundings),
            record=lambda lock: publish(wiring.lock_path(definition), lock_bytes(lock)),
            rebake=rebake,
            against=earlier,
            whole=whole,
            split=part_bytes,
        )
        outcome = run(request, outside=wiring.connected(parsed, definition.parent, surroundings))
    if output == "text":
        click.echo(f"{outcome.archive}  {human_bytes(outcome.total_bytes)}\nroot {outcome.root}")
    else:
        show_document(
            {
                "archive": str(outcome.archive),
                "root": str(outcome.root),
                "bytes": outcome.total_bytes,
                "absent": {"blobs": outcome.absent, "bytes": outcome.absent_bytes},
            },
            output,
        )


def name_definition(hint: str, definition: Path) -> str:
    """Return a hint whose commands name the definition, where it is not the one that they take by themselves."""
    if definition == Path(DEFINITION):
        return hint
    return re.sub(r"\bbundle (?:lock|build)\b", lambda match: f"{match[0]} {shlex.quote(str(definition))}", hint)


@contextmanager
def _naming(definition: Path) -> Iterator[None]:
    """Let hints be commands for this definition: copied without its name they would lock another one."""
    try:
        yield
    except BundleError as error:
        error.hint = name_definition(error.hint, definition)
        raise


def _lock(
    path: Path, definition: Definition, surroundings: Surroundings, *, update: bool, previous: Digest | None
) -> LockOutcome:
    from bundler import wiring
    from bundler.workflows.lock import LockRequest, make_lock, write_lock

    target = wiring.lock_path(path)
    request = LockRequest(
        definition=definition,
        existing=wiring.read_lock(target),
        created=_now(),
        previous=previous,
        update=update,
    )
    outcome = make_lock(request, outside=wiring.connected(definition, path.parent, surroundings))
    write_lock(outcome, target)
    return outcome


def _signing(key: Path, trust_root: Path | None) -> tuple[Signer, bytes]:
    """Return the signer, and the trust root that lets its key sign bundles."""
    from bundler import trust as store

    signer = store.Signer.load(key)
    chain = _read(trust_root or key.with_name(store.TRUST_NAME))
    store.require_bundle_key(store.parse_trust_chain(chain, source=store.TRUST_NAME), signer)
    return signer, chain


def _existing_lock(path: Path, *, locked: bool, emit: Emit) -> Lock | None:
    """Return the lock that stands there; None where it has to be made first, and `locked` does not forbid that."""
    from bundler import wiring

    found = wiring.read_lock(path)
    if found is None and locked:
        cause = "does not exist, and --locked was given"
        raise LockChangedError(str(path), cause, safe="Nothing was built.", hint="Make it: bundle lock")
    if found is None:
        emit(Noted(text=f"there is no {path.name}: making it first"))
    return found


def _now() -> str:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), else now, as ISO 8601 in UTC."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = dt.datetime.now(dt.UTC) if epoch is None else dt.datetime.fromtimestamp(int(epoch), dt.UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError("SOURCE_DATE_EPOCH", f"{epoch!r} is not a number of seconds") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            str(path), f"cannot be read: {error.strerror}", hint="Make key and trust root: bundle trust init"
        ) from error


def _show(outcome: LockOutcome, path: Path) -> None:
    for change in outcome.changes:
        click.echo(_line(change))
    for ami in outcome.amis:
        click.echo(_ami_line(ami))
    state = f"sequence {outcome.lock.sequence}" if outcome.changed else "unchanged"
    content = [counted(len(outcome.lock.images), "image"), counted(len(outcome.lock.charts), "chart")]
    if outcome.lock.amis:
        content.append(counted(len(outcome.lock.amis), "AMI"))
    click.echo(f"{path}: {', '.join([state, *content])}")


def _described(outcome: LockOutcome, path: Path) -> dict[str, object]:
    return {
        "lock": str(path),
        "changed": outcome.changed,
        "sequence": outcome.lock.sequence,
        "added": {change.name: str(change.now) for change in outcome.changes if change.was is None},
        "removed": {change.name: str(change.was) for change in outcome.changes if change.now is None},
        "moved": {
            change.name: {"from": str(change.was), "to": str(change.now)}
            for change in outcome.changes
            if change.was is not None and change.now is not None
        },
        "amis": {
            change.name: {
                "from": None if change.was is None else change.was.id,
                "to": None if change.now is None else change.now.id,
            }
            for change in outcome.amis
        },
    }


def _ami_line(change: AmiChange) -> str:
    if change.now is None:
        return f"- {change.was and change.was.id}  {change.name}"
    sign, was = ("+", "") if change.was is None else ("~", f" (was {change.was.id})")
    return f"{sign} {change.now.id}  {change.name}: {change.now.name}{was}"


def _line(change: Change) -> str:
    if change.was is None:
        return f"+ {change.now and change.now.short}  {change.name}"
    if change.now is None:
        return f"- {change.was.short}  {change.name}"
    return f"~ {change.now.short}  {change.name} (was {change.was.short})"
