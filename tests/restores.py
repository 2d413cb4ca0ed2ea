"""Sites of a lab into which AMIs of made-up archives are restored, by processes that tests kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from bundler.domain.digest import Digest
from bundler.domain.restored import AMI_TAG, WantedAmi
from bundler.lab.lab import LabFacts
from bundler.lab.request_log import mutations
from bundler.stages.restore import INDEX_TAG
from bundler.trust import accept_trust, trust_digest
from tests.fakes.amis import TWO_DEVICES, Content, MadeAmi, ami_sample, block, shifted
from tests.journey import Workspace, clean_environment
from tests.peers import boto_client, lab_control

ROOT = Path(__file__).parent.parent
RESTORING = [sys.executable, "-m", "tests.restoring"]
_seeds = count(1000, 1000)


def fresh_content() -> Content:
    """Blocks that no other test has."""
    return shifted(TWO_DEVICES, next(_seeds))


@dataclass(frozen=True, kw_only=True)
class RestoreSite:
    """A folder with an archive, an accepted trust root, a site file, and a state of its own.

    Attributes:
        content: what the AMI of the archive holds.
    """

    facts: LabFacts
    folder: Path
    ami: MadeAmi
    content: Content
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: LabFacts, folder: Path, ami: MadeAmi | None = None, **changes: Any) -> RestoreSite:
        """A site with one node group of the bundle's AMI; `changes` are of the site file."""
        folder.mkdir(parents=True, exist_ok=True)
        content = fresh_content()
        environment = {**facts.environment(), "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        made = cls(facts=facts, folder=folder, ami=ami or MadeAmi.of(content), content=content, environment=environment)
        made.pack(made.ami)
        made.write_site(**changes)
        return made

    @property
    def workspace(self) -> Workspace:
        return Workspace(folder=self.folder, environment=self.environment)

    @property
    def archive(self) -> Path:
        return self.folder / "sample-7.tar"

    @property
    def wanted(self) -> WantedAmi:
        return WantedAmi(baked=self.ami.baked, kms_key=self.document.get("restore", {}).get("kmsKey"))

    def pack(self, ami: MadeAmi) -> None:
        """Make an archive with this AMI, and accept who signed it."""
        sample = ami_sample(ami)
        self.archive.unlink(missing_ok=True)
        sample.build(self.folder)
        if not (self.folder / "trust").exists():
            digest = trust_digest(sample.trust)
            accept_trust(sample.trust_json, expect=digest, folder=self.folder / "trust")

    def write_site(self, *, group: Mapping[str, Any] | None = None, **changes: Any) -> None:
        document = yaml.safe_load(self.facts.site_file.read_text())
        document["nodeGroups"][0] |= {"ami": "workers", **(group or {})}
        document["state"]["s3"] += f"-{Digest.of(str(self.folder).encode()).hex[:12]}"
        document |= changes
        (self.folder / "site.yaml").write_text(yaml.safe_dump(document, sort_keys=False, width=4096))

    @property
    def document(self) -> dict[str, Any]:
        """The site file."""
        found: dict[str, Any] = yaml.safe_load((self.folder / "site.yaml").read_text())
        return found

    def run(self, *more: str, die: str = "", expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Restore, in a process of its own."""
        done = self._process("restore", str(self.archive), "site.yaml", "trust", *more, die=die)
        assert expect is None or done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def push(self) -> None:
        """Push images and charts, as install does."""
        done = self._process("push-all", str(self.archive), "site.yaml", "trust", die="")
        assert done.returncode == 0, done.stderr

    def verify(self, *more: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """`bundle verify --installed`."""
        fixed = ("--installed", "--site", "site.yaml", "--trust", "trust")
        return self.workspace.bundle("verify", str(self.archive), *fixed, *more, expect=expect)

    def export(self, snapshot: str, *more: str, die: str = "") -> subprocess.CompletedProcess[str]:
        """Read a snapshot out into a cache in the folder."""
        return self._process("export", snapshot, "cache", *more, die=die)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """Restore, beside the test."""
        argv = [*RESTORING, "restore", str(self.archive), "site.yaml", "trust"]
        environment = {**clean_environment(), **self.environment}
        process = subprocess.Popen(
            argv, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _process(self, *arguments: str, die: str) -> subprocess.CompletedProcess[str]:
        outside = {"AWS_ENDPOINT_URL": self.facts.aws_url} if arguments[0] == "export" else {}
        environment = {**clean_environment(), **self.environment, **outside, **({"DIE": die} if die else {})}
        return subprocess.run(
            [*RESTORING, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def fault(self, operation: str, kind: str, *, service: str = "ebs", **more: object) -> None:
        lab_control(self.facts, "POST", "faults", {"service": service, "operation": operation, "kind": kind, **more})

    def no_faults(self) -> None:
        lab_control(self.facts, "DELETE", "faults")

    def aws(self, service: str) -> Any:
        return boto_client(self.facts, service)

    def writes(self) -> int:
        """How many calls have asked to change something, those of S3 (the lock) apart."""
        return sum(line["service"] != "s3" for line in mutations(self.facts.requests_file))

    def calls(self, operation: str) -> int:
        return self.facts.requests_file.read_text().count(f'"{operation}"')

    def images(self) -> list[dict[str, Any]]:
        """AMIs by the tag of this one."""
        wanted = [{"Name": f"tag:{AMI_TAG}", "Values": [str(self.wanted.digest)]}]
        return list(self.aws("ec2").describe_images(Owners=["self"], Filters=wanted)["Images"])

    def snapshots(self) -> list[dict[str, Any]]:
        """All snapshots by the tag of this content, whatever became of them."""
        wanted = [{"Name": f"tag:{INDEX_TAG}", "Values": [str(self.ami.baked.index.digest)]}]
        return list(self.aws("ec2").describe_snapshots(OwnerIds=["self"], Filters=wanted)["Snapshots"])

    def assert_whole(self) -> None:
        """One AMI, of one snapshot for each device, with exactly the blocks that were carried; and no orphans."""
        (image,) = self.images()
        used = {one["DeviceName"]: one["Ebs"]["SnapshotId"] for one in image["BlockDeviceMappings"]}
        assert sorted(used) == sorted(self.content)
        found = self.snapshots()
        assert {one["SnapshotId"]: one["State"] for one in found} == dict.fromkeys(used.values(), "completed")
        for device, blocks in self.content.items():
            assert read_blocks(self.aws("ebs"), used[device]) == {n: block(seed) for n, seed in blocks.items()}


def read_blocks(ebs: Any, snapshot: str) -> dict[int, bytes]:
    """Every block of a snapshot, by boto3."""
    found, more = {}, {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, **more)
        for item in page["Blocks"]:
            found[item["BlockIndex"]] = ebs.get_snapshot_block(SnapshotId=snapshot, **item)["BlockData"].read()
        if "NextToken" not in page:
            return found
        more = {"NextToken": page["NextToken"]}
