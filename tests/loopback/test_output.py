"""docs/output is what the commands of the connected side really print; UPDATE_OUTPUT=1 writes it anew."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bundler import wiring
from bundler.archive.identity import self_consistent
from bundler.cli.main import COMMANDS
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.lock import parse_lock
from bundler.lab.lab import LabFacts
from bundler.lab.tools import Tools
from bundler.trust import parse_trust_chain, trust_digest
from bundler.workflows.push import push_archive
from tests.journey import BUNDLE, Workspace, clean_environment
from tests.peers import boto_client
from tests.terminal import Printed, faults, home, keep, normal, on_a_terminal, without_a_terminal

pytestmark = pytest.mark.loopback
BUILD = ("build", "--key", "keys/bundle.key")
ARCHIVE = "closed-minimal-1.tar"
AGENT = "602401143452.dkr.ecr.eu-central-1.amazonaws.com/eks/eks-pod-identity-agent:v1.0.0-lab.1"
GROUPS = {"trust": ("init", "accept"), "lab": ("up", "status", "down"), "nodes": ("user-data",)}


@pytest.fixture(scope="module")
def story(lab: LabFacts, tools: Tools) -> Iterator[dict[str, Printed]]:
    """What the connected side prints from init to push, by name; `place` is where it happened."""
    with home(lab, tools) as lonely, unreachable(lonely, lab) as process, home(lab, tools) as place:
        _Told.unreachable = process
        told: dict[str, Printed] = {}
        _Told.place = place
        told["init"] = without_a_terminal(place, "init", "-k", "1.35", "-r", "eu-central-1", "--out", "first.yaml")
        told["trust init"] = without_a_terminal(place, "trust", "init", "--out", "keys")
        accept = ("trust", "accept", "keys/trust.json", "--expect", trust(place, "keys"))
        told["lock"] = without_a_terminal(place, "lock")
        told["lock again"] = on_a_terminal(place, "lock")
        told["build"] = on_a_terminal(place, *BUILD)
        told["build again"] = without_a_terminal(place, *BUILD)
        told["untrusted"] = without_a_terminal(place, "verify", ARCHIVE, expect=3)
        told["trust accept"] = without_a_terminal(place, *accept)
        told["inspect"] = on_a_terminal(place, "inspect", ARCHIVE)
        told["verify"] = without_a_terminal(place, "verify", ARCHIVE)
        target = f"s3://{lab.bucket}/bundles"
        told["ship"] = without_a_terminal(place, "ship", ARCHIVE, target)
        told["ship again"] = on_a_terminal(place, "ship", ARCHIVE, target)
        registry = lab.source_url.removeprefix("http://") + "/team"
        told["push"] = without_a_terminal(place, "push", ARCHIVE, registry)
        told["push again"] = without_a_terminal(place, "push", ARCHIVE, registry)
        told |= in_parts(place) | second(place, lab)
        told["serve"] = on_a_terminal(
            place, "serve", ARCHIVE, "--listen", "127.0.0.1:0", prompt="ends it", typed="\x03", expect=130
        )
        yield told


def in_parts(place: Workspace) -> dict[str, Printed]:
    """The archive in parts, one of which is damaged on the way and mended from another copy."""
    told = {"build --split": on_a_terminal(place, *BUILD, "--out", "parts", "--split", "64M")}
    part = place.folder / "parts" / f"{ARCHIVE}.001"
    content = bytearray(part.read_bytes())
    content[20 << 20] ^= 1
    part.write_bytes(content)
    table = "parts/closed-minimal-1.parts.json"
    told["damaged part"] = without_a_terminal(place, "verify", table, expect=3)
    told["repair"] = on_a_terminal(place, "repair", table, "--from", ARCHIVE)
    told["repair again"] = without_a_terminal(place, "repair", table, "--from", ARCHIVE)
    return told


def second(place: Workspace, lab: LabFacts) -> dict[str, Printed]:
    """A site that holds the first bundle, and what a second one needs; definition and lock are then as before."""
    hold(place, lab)
    told = {"receipt": on_a_terminal(place, "receipt", "--site", "site.yaml", "--out", "site.receipt.json")}
    before = {name: (place.folder / name).read_bytes() for name in ("bundle.yaml", "bundle.lock.json")}
    edited("\ntools:\n", f"\nimages:\n  - {{image: {AGENT}, reason: roles for pods}}\n\ntools:\n")(place)
    place.bundle("lock")
    told["diff"] = on_a_terminal(place, "diff", ARCHIVE, "bundle.lock.json")
    told["build --against"] = on_a_terminal(place, *BUILD, "--out", "delta", "--against", "site.receipt.json")
    told["inspect a delta"] = on_a_terminal(place, "inspect", "delta/closed-minimal-2.tar")
    for name, content in before.items():
        (place.folder / name).write_bytes(content)
    return told


def hold(place: Workspace, lab: LabFacts) -> None:
    """Push the archive to the lab's ECR, below a prefix of its own: site.yaml names it."""
    text = lab.site_file.read_text(encoding="utf-8")
    path = place.folder / "site.yaml"
    path.write_text(re.sub(r"(?m)^( *prefix): \S+$", r"\1: told", text, count=1), encoding="utf-8")
    site = wiring.read_site(path)
    target = PrivateRegistry(host=site.registry_host, prefix=site.registry.prefix)
    lock = parse_lock((place.folder / "bundle.lock.json").read_bytes(), source="bundle.lock.json")
    names = {target.image(image.reference).repository for image in lock.images}
    names |= {target.chart(chart.reference).repository for chart in lock.charts}
    for name in sorted(names):
        boto_client(lab, "ecr").create_repository(repositoryName=name)
    surroundings = wiring.Surroundings(ca_file=lab.ca_file)
    with (
        pytest.MonkeyPatch.context() as patch,
        wiring.archive_source(str(place.folder / ARCHIVE), surroundings) as file,
    ):
        for key, value in lab.environment().items():
            patch.setenv(key, value)
        registry = wiring.registry_client(surroundings, site)
        push_archive(self_consistent(file), target=target, registry=registry, pace=surroundings.pace)


class _Told:
    place: Workspace
    unreachable: subprocess.Popen[str]


@contextmanager
def unreachable(place: Workspace, lab: LabFacts) -> Iterator[subprocess.Popen[str]]:
    """A lock whose registry does not answer: it tries for half a minute, while the story goes on."""
    silent = re.sub(r"registry\.k8s\.io:\n  url: \S+", "registry.k8s.io: {url: 'http://127.0.0.1:9'}", read(lab))
    (place.folder / "registries.yaml").write_text(silent, encoding="utf-8")
    process = subprocess.Popen(
        [*BUNDLE, "lock", "-j", "1"],
        cwd=place.folder,
        env={**clean_environment(), **place.environment, "BUNDLE_REGISTRIES": "registries.yaml"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read(lab: LabFacts) -> str:
    """The lab's registries.yaml."""
    return lab.registries_file.read_text(encoding="utf-8")


@pytest.fixture
def place(story: dict[str, Printed]) -> Iterator[Workspace]:
    """The folder of the story, with lock and archive; a test may spoil definition and lock."""
    folder = _Told.place.folder
    before = {name: (folder / name).read_bytes() for name in ("bundle.yaml", "bundle.lock.json")}
    yield _Told.place
    for name, content in before.items():
        (folder / name).write_bytes(content)


def trust(place: Workspace, folder: str) -> str:
    """The trust digest of the keys in a folder."""
    raw = (place.folder / folder / "trust.json").read_bytes()
    return str(trust_digest(parse_trust_chain(raw, source="trust.json")))


@pytest.mark.parametrize(
    ("name", "parts"),
    {
        "init": ("init",),
        "trust": ("trust init", "trust accept"),
        "lock": ("lock", "lock again"),
        "build": ("build", "build again"),
        "inspect": ("inspect",),
        "verify": ("verify",),
        "ship": ("ship", "ship again"),
        "push": ("push", "push again"),
        "build-split": ("build --split",),
        "diff": ("diff",),
        "build-against": ("build --against", "inspect a delta"),
        "serve": ("serve",),
    }.items(),
)
def test_commands_print_what_docs_keep(story: dict[str, Printed], name: str, parts: tuple[str, ...]) -> None:
    keep(name, *(story[part] for part in parts))


def test_a_repair_is_what_docs_keep(story: dict[str, Printed]) -> None:
    """Whether any member was right before the damaged one was found is a matter of chance."""
    parts = (story["damaged part"], story["repair"], story["repair again"])
    keep("repair", *parts, variable=[(re.compile(r"  verify  .* in .*\n(?=  parts  )"), "")])


def test_a_receipt_is_what_docs_keep(story: dict[str, Printed]) -> None:
    """Other tests of this lab may have left AMIs."""
    keep("receipt", story["receipt"], variable=[(re.compile(r"\b\d+ AMIs?\b"), "… AMIs")])


def test_help_is_what_docs_keep(tmp_path: Path) -> None:
    place = Workspace(folder=tmp_path)
    names = [(), *((name,) for name in COMMANDS), *((a, b) for a, inner in GROUPS.items() for b in inner)]
    printed = [on_a_terminal(place, *name, "--help") for name in sorted(names)]
    assert max(len(line) for page in printed for line in page.lines) <= 80
    keep("help", *printed)


def edited(old: str, new: str) -> Callable[[Workspace], None]:
    """Writes `new` for `old` in the definition."""

    def edit(place: Workspace) -> None:
        path = place.folder / "bundle.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def locked(change: Callable[[dict[str, Any]], None]) -> Callable[[Workspace], None]:
    """Changes the lock, and writes it as lock would."""

    def edit(place: Workspace) -> None:
        path = place.folder / "bundle.lock.json"
        lock = json.loads(path.read_bytes())
        change(lock)
        path.write_text(json.dumps(lock, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

    return edit


def _moved(lock: dict[str, Any]) -> None:
    lock["images"][0]["target"]["digest"] = f"sha256:{0:064x}"


def _forgot(lock: dict[str, Any]) -> None:
    del lock["images"][-2]


def cut(place: Workspace) -> None:
    with (place.folder / "copy.tar").open("wb") as file:
        file.write((place.folder / ARCHIVE).read_bytes()[: 100 << 20])


def damaged(place: Workspace) -> None:
    content = bytearray((place.folder / ARCHIVE).read_bytes())
    content[100 << 20] ^= 1
    (place.folder / "copy.tar").write_bytes(content)


def other_keys(place: Workspace) -> None:
    """Keys of somebody else, accepted in `theirs`."""
    for name in ("other", "theirs"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
    place.bundle("trust", "init", "--out", "other")
    document = "other/trust.json"
    place.bundle("trust", "accept", document, "--expect", trust(place, "other"), "--trust", "theirs")


def no_lock(place: Workspace) -> None:
    (place.folder / "bundle.lock.json").unlink()


def nothing(place: Workspace) -> None:
    del place


WRONG = f"sha256:{0:064x}"
DEFINITION: dict[str, tuple[Callable[[Workspace], None], tuple[str, ...], int]] = {
    "unknown-key": (edited("name: closed-minimal", "nmae: closed-minimal"), ("lock",), 2),
    "unpinned-chart": (edited("      version: 1.0.0-lab.1\n", ""), ("lock",), 2),
    "placeholder": (edited("kube-proxy:v1.36.3-lab.1", "kube-proxy:REPLACE_ME"), ("lock",), 2),
    "tag-absent": (edited("pause:v1.0.0-lab.1", "pause:v9"), ("lock",), 2),
    "image-absent": (edited("io/pause:", "io/paws:"), ("lock",), 2),
    "platform-absent": (edited("linux/arm64]", "linux/s390x]"), ("lock", "-j", "1"), 2),
    "moved-tag": (locked(_moved), ("lock",), 2),
    "no-lock": (no_lock, ("build", "--locked", *BUILD[1:]), 2),
    "other-definition": (edited("replicaCount: 2", "replicaCount: 3"), BUILD, 2),
    "closure": (locked(_forgot), BUILD, 2),
    "wrong-digest": (edited("sha256: 210d576a", "sha256: 210d576b"), ("lock",), 3),
    "archive-cut": (cut, ("verify", "copy.tar"), 3),
    "archive-damaged": (damaged, ("verify", "copy.tar"), 3),
    "wrong-key": (other_keys, ("inspect", ARCHIVE, "--trust", "theirs"), 3),
    "signing-key": (other_keys, ("build", "--key", "other/bundle.key", "--trust-root", "keys/trust.json"), 3),
    "trust-digest": (nothing, ("trust", "accept", "keys/trust.json", "--expect", WRONG), 3),
    "usage": (nothing, ("install", ARCHIVE), 2),
    "no-lab": (nothing, ("lab", "status"), 8),
}


@pytest.mark.parametrize(("name", "case"), DEFINITION.items(), ids=DEFINITION.keys())
def test_an_error_is_what_docs_keep(
    place: Workspace, name: str, case: tuple[Callable[[Workspace], None], tuple[str, ...], int]
) -> None:
    """The same words in a terminal and in a pipe; object, cause and next step stand there."""
    spoil, arguments, code = case
    spoil(place)
    printed = without_a_terminal(place, *arguments, expect=code)
    assert "Traceback" not in printed.raw
    keep(f"error-{name}", printed)
    assert normal(on_a_terminal(place, *arguments, expect=code).transcript) == normal(printed.transcript)


def test_without_an_accepted_trust_root_the_command_is_shown(story: dict[str, Printed]) -> None:
    keep("error-no-trust", story["untrusted"])


@pytest.mark.parametrize(
    ("name", "service", "arguments"),
    [
        ("denied-by-a-registry", "source", ("lock",)),
        ("denied-by-s3", "s3", ("ship", ARCHIVE, "s3://bundle-carry-111122223333/other")),
    ],
)
def test_who_was_denied_what_is_what_docs_keep(
    place: Workspace, lab: LabFacts, name: str, service: str, arguments: tuple[str, ...]
) -> None:
    with faults(lab, service=service, operation="*", kind="denied", times=1000):
        keep(f"error-{name}", without_a_terminal(place, *arguments, expect=4))


def test_ctrl_c_is_what_docs_keep(place: Workspace, lab: LabFacts) -> None:
    no_lock(place)
    with faults(lab, service="source", operation="*", kind="slow", delay_s=20, nth=8, times=1000):
        printed = on_a_terminal(place, "lock", prompt="images …", typed="\x03", expect=130)
    lines = printed.transcript.splitlines()  # how far it came before Ctrl-C depends on the load
    keep("error-interrupted", "\n".join([lines[0], "^C", *lines[lines.index("Interrupted: bundle") :]]) + "\n")


def test_a_full_disk_is_what_docs_keep(place: Workspace) -> None:
    (place.folder / "small").mkdir(exist_ok=True)
    arguments = (*BUILD, "--out", "small")
    mount = 'mount -t tmpfs -o size=4m tmpfs small && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *BUNDLE, *arguments],
        cwd=place.folder,
        env={**clean_environment(), **place.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    if "Operation not permitted" in done.stdout:
        pytest.skip("this host allows no user namespaces")
    assert done.returncode == 6, done.stdout
    keep("error-disk-full", Printed(arguments=arguments, code=6, raw=done.stdout))


def test_an_unreachable_registry_is_what_docs_keep(story: dict[str, Printed]) -> None:
    """The last of all: it has tried while the others ran."""
    process = _Told.unreachable
    raw, _ = process.communicate(timeout=120)
    keep("error-unreachable", Printed(arguments=("lock", "-j", "1"), code=process.returncode, raw=raw))
    assert process.returncode == 5
