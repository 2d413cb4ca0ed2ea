"""The closed side of a lab with a real Kubernetes API: sites for `bundle install`, and looks at them by other programs.

What a test asserts is read by boto3, by kubectl and helm with the administrator's certificate, or out of the logs of
lab and API server; never by the product.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from bundler.lab.kube_audit import mutating_requests
from bundler.lab.kubernetes import KubernetesFacts
from bundler.lab.lab import LabFacts
from bundler.lab.request_log import read_requests
from bundler.lab.tools import Tools
from tests.journey import BUNDLE, Workspace, clean_environment, workspace
from tests.peers import boto_client

RELEASES = ("metrics-server", "coredns", "kube-proxy", "aws-vpc-cni")
GROUP = "lab-main"
NODE_ROLE = "arn:aws:iam::111122223333:role/lab-node"
OPERATOR = "arn:aws:iam::111122223333:user/lab-operator"
DEFINITION = Path(__file__).parent.parent / "bundles" / "closed-minimal" / "bundle.lab.yaml"
Json = dict[str, Any]
Skopeo = Callable[..., bytes]


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A lab, its programs, and an operator's folder with trust root and archives."""

    facts: LabFacts
    tools: Tools
    place: Workspace

    @property
    def kubernetes(self) -> KubernetesFacts:
        assert self.facts.kubernetes is not None
        return self.facts.kubernetes

    def aws(self, service: str) -> Any:
        return boto_client(self.facts, service)

    def kubectl(self, *arguments: str, feed: object = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl, as the administrator unless `kubeconfig` says otherwise."""
        known = kubeconfig or self.kubernetes.admin_kubeconfig
        return self._run(str(self.tools.kubectl.path), f"--kubeconfig={known}", *arguments, feed=feed)

    def get(self, kind: str, namespace: str = "kube-system") -> list[Json]:
        """All objects of a kind."""
        found = json.loads(self.kubectl("get", kind, f"--namespace={namespace}", "--show-managed-fields", "-ojson"))
        items: list[Json] = found["items"]
        return items

    def helm(self, *arguments: str) -> str:
        """Run helm 3 as the administrator, whichever one is carried."""
        return self._run(str(self.tools.helm3.path), *arguments, f"--kubeconfig={self.kubernetes.admin_kubeconfig}")

    def histories(self) -> dict[str, list[tuple[int, str]]]:
        """Revision and status of every revision of every release."""
        listed = json.loads(self.helm("list", "--namespace=kube-system", "--all", "-ojson"))
        return {
            one["name"]: [
                (revision["revision"], revision["status"])
                for revision in json.loads(self.helm("history", one["name"], "--namespace=kube-system", "-ojson"))
            ]
            for one in listed
        }

    def _run(self, *argv: str, feed: object = None) -> str:
        """Run a program that must succeed, with all that a token plugin needs."""
        done = subprocess.run(
            list(argv),
            input=None if feed is None else json.dumps(feed),
            env={**os.environ, **self.place.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{argv}\n{done.stderr}"
        return done.stdout

    def empty(self) -> None:
        """Take everything away that an install made in cluster and account; pushed images stay."""
        for name in self.histories():
            self.helm("uninstall", name, "--namespace=kube-system", "--no-hooks", "--wait")
        for kind, name in (("daemonset", "aws-node"), ("daemonset", "kube-proxy"), ("deployment", "coredns")):
            self.kubectl("delete", kind, name, "--namespace=kube-system", "--ignore-not-found")
        scaling, ec2, eks = self.aws("autoscaling"), self.aws("ec2"), self.aws("eks")
        for group in scaling.describe_auto_scaling_groups()["AutoScalingGroups"]:
            scaling.delete_auto_scaling_group(AutoScalingGroupName=group["AutoScalingGroupName"], ForceDelete=True)
        for template in ec2.describe_launch_templates()["LaunchTemplates"]:
            ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
        if NODE_ROLE in eks.list_access_entries(clusterName="lab")["accessEntries"]:
            eks.delete_access_entry(clusterName="lab", principalArn=NODE_ROLE)
        eventually(lambda: not self.get("nodes") and not self.get("pods"))

    def site(self, name: str, archive: str, **changes: object) -> Site:
        """A site file, a state folder, a registry prefix and a state prefix of their own, over an emptied cluster."""
        self.empty()
        document = yaml.safe_load(self.facts.site_file.read_text())
        document["registry"]["prefix"] = name
        document["state"]["s3"] += f"-{name}"
        folder = self.place.folder / name
        folder.mkdir()
        environment = {**self.place.environment, "XDG_STATE_HOME": str(folder / "state")}
        made = Site(
            closed=self,
            place=replace(self.place, environment=environment),
            archive=archive,
            document={**document, **changes},
            file=folder / "site.yaml",
        )
        made.write()
        return made


@dataclass(frozen=True, kw_only=True)
class Site:
    """One site and the archive that is installed into it."""

    closed: Closed
    place: Workspace
    archive: str
    document: Json
    file: Path

    @property
    def prefix(self) -> str:
        prefix: str = self.document["registry"]["prefix"]
        return prefix

    @property
    def state(self) -> Path:
        return Path(self.place.environment["XDG_STATE_HOME"])

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.document, sort_keys=False, width=4096))

    def with_changes(self, file: str, **changes: object) -> Site:
        """The same place by another site file; None takes a key out."""
        document = {key: value for key, value in {**self.document, **changes}.items() if value is not None}
        made = replace(self, document=document, file=self.file.with_name(file))
        made.write()
        return made

    def arguments(self, *more: str) -> list[str]:
        return ["install", self.archive, "--site", str(self.file), "--trust", "trust", *more]

    def install(self, *more: str, expect: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """`bundle install --yes`."""
        return self.place.bundle(*self.arguments("--yes", *more), expect=expect, **environment)

    def start(self, output: Path, *more: str) -> subprocess.Popen[bytes]:
        """Start `bundle install --yes` in a process group of its own; it writes to `output`.out and `output`.err."""
        with output.with_suffix(".out").open("wb") as stdout, output.with_suffix(".err").open("wb") as stderr:
            return subprocess.Popen(
                [*BUNDLE, *self.arguments("--yes", *more)],
                cwd=self.place.folder,
                env={**clean_environment(), **self.place.environment},
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def plan(self, *more: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.place.bundle(*self.arguments("--plan", *more), expect=expect)


@dataclass
class Writes:
    """What asked to change anything in the lab from now on, by its request log and the API server's audit log."""

    facts: LabFacts
    _aws: int = field(init=False)
    _kubernetes: int = field(init=False)

    def __post_init__(self) -> None:
        self._aws, self._kubernetes = len(self._all_aws()), len(self._all_kubernetes())

    def seen(self) -> list[str]:
        """Each write by its name; refused ones too."""
        return self._all_aws()[self._aws :] + self._all_kubernetes()[self._kubernetes :]

    def _all_aws(self) -> list[str]:
        lines = [line for line in read_requests(self.facts.requests_file) if line["mutating"]]
        return [f"{line['service']} {line.get('operation') or line.get('method')}" for line in lines]

    def _all_kubernetes(self) -> list[str]:
        found = mutating_requests(self.facts.state / "kubernetes" / "audit.jsonl")
        return [f"{one.verb} {one.uri}" for one in found if one.user == OPERATOR]


def write_definition(tools: Tools, *, helm: Literal["helm3", "helm4"] = "helm4", name: str = "closed-minimal") -> str:
    """The definition of bundles/closed-minimal for the lab, with the programs that tests have."""
    document = yaml.safe_load(DEFINITION.read_text())
    document["name"] = name
    for key, tool in (("helm", getattr(tools, helm)), ("kubectl", tools.kubectl)):
        document["tools"][key] = {
            "version": tool.version,
            "platforms": {"linux/amd64": {"path": str(tool.path), "sha256": tool.sha256}},
        }
    return yaml.safe_dump(document, sort_keys=False)


def closed_lab(facts: LabFacts, tools: Tools, folder: Path) -> Closed:
    """Build closed-minimal for this lab and ship it to its bucket."""
    place = workspace(folder, facts, write_definition(tools))
    place.build()
    made = Closed(facts=facts, tools=tools, place=place)
    place.bundle("ship", "closed-minimal-1.tar", f"s3://{facts.bucket}/carried", AWS_ENDPOINT_URL=facts.aws_url)
    return made


def eventually(what: Callable[[], bool], *, limit_s: float = 60) -> None:
    """Wait until it is so."""
    ends = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < ends, "did not come to pass"
        time.sleep(0.2)


def descendants(pid: int) -> Iterator[int]:
    """The process and all that it started, as far as they live."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from descendants(int(child))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def containers(workload: Mapping[str, Any]) -> list[Json]:
    """Every container of a workload or pod."""
    spec = workload["spec"]
    spec = spec.get("template", {}).get("spec", spec)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def workloads(closed: Closed) -> dict[str, Json]:
    """Deployments and DaemonSets of kube-system by `Kind/name`."""
    found = closed.get("daemonsets,deployments")
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in found}


def private(thing: Mapping[str, Any], site: Site) -> bool:
    """Whether every container of it runs an image of the site's registry and prefix, by digest."""
    host = site.closed.facts.registry_host
    image = re.compile(rf"{re.escape(host)}/{site.prefix}/\S+@sha256:[0-9a-f]{{64}}")
    return all(image.fullmatch(container["image"]) for container in containers(thing))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image in the lab's ECR and where it came from, both through skopeo."""

    repository: str
    tag: str
    ecr: str
    ecr_options: tuple[str, ...]
    source: str
    skopeo: Skopeo

    def here(self, digest: str = "") -> bytes:
        """The raw manifest in ECR: what the tag names, or one by its digest."""
        return self.skopeo("inspect", "--raw", *self.ecr_options, f"docker://{self.ecr}{self._wanted(digest)}")

    def there(self, digest: str = "") -> bytes:
        """The same in the lab's source."""
        return self.skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{self.source}{self._wanted(digest)}")

    def pull(self, folder: Path) -> None:
        """Pull every manifest and blob out of ECR; skopeo checks each digest."""
        options = [option.replace("--", "--src-", 1) for option in self.ecr_options]
        with tempfile.TemporaryDirectory(dir=folder) as target:
            self.skopeo("copy", "--all", *options, f"docker://{self.ecr}:{self.tag}", f"dir:{target}")

    def _wanted(self, digest: str) -> str:
        return f"@{digest}" if digest else f":{self.tag}"


def tagged_repositories(site: Site) -> dict[str, str]:
    """Repository in ECR -> its one tag."""
    ecr = site.closed.aws("ecr")
    found = ecr.describe_repositories(maxResults=1000)["repositories"]
    tags: dict[str, str] = {}
    for name in sorted(one["repositoryName"] for one in found if one["repositoryName"].startswith(f"{site.prefix}/")):
        images = ecr.list_images(repositoryName=name)["imageIds"]
        (tags[name],) = {image["imageTag"] for image in images if "imageTag" in image}
    return tags


def image_pairs(site: Site, skopeo: Skopeo, certificates: Path) -> list[Pair]:
    """The site's images; charts are left out."""
    facts = site.closed.facts
    login = site.closed.aws("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
    (certificates / "lab.crt").write_bytes(facts.ca_file.read_bytes())
    return [
        Pair(
            repository=name,
            tag=tag,
            ecr=f"{facts.ecr_address}/{name}",
            ecr_options=(f"--creds={base64.b64decode(login).decode()}", f"--cert-dir={certificates}"),
            source=f"{facts.source_url.removeprefix('http://')}/{name.removeprefix(site.prefix + '/')}",
            skopeo=skopeo,
        )
        for name, tag in tagged_repositories(site).items()
        if not name.startswith(f"{site.prefix}/charts/")
    ]


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Tail:
    """The JSON lines that are added to a file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def lines(self) -> Iterator[Any]:
        """Yield what was added since the last time; a line that is still being written waits."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._at += len(whole)
        yield from (json.loads(line) for line in whole.splitlines() if line.startswith(b"{"))
