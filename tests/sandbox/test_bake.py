"""The scripts of a bake on a machine of their own: Debian's containerd, ctr and runc; systemctl is a stand-in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bundler.archive.image_archive import image_archive
from bundler.archive.payload import Payload, folder_digest, write_payload
from bundler.domain.ami import LockedAmi, NodeFacts
from bundler.domain.digest import Digest
from bundler.domain.node_facts import check_facts, parse_node_facts
from bundler.domain.preload import Preload, expected_names, plan_preload
from tests.fakes.images import image, index
from tests.fakes.node import ARCHITECTURE, OTHER, PAUSE, SCRIPTS, Node, tar_layer
from tests.fakes.preloads import CHINA, GOV, Contents, ami_of, lock_of, locked

pytestmark = pytest.mark.sandbox
CERTIFICATES = b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"
HOSTS = 'server = "https://mirror.internal"\n'
BAKE = 'sh "$SCRIPTS/bake.sh" "$HERE/payload" "$HERE/facts"\n'
WITH_PAUSE = f"""
systemctl start containerd
until ctr version >/dev/null 2>&1; do sleep 0.1; done
ctr --namespace k8s.io images import "$HERE/pause.tar" >/dev/null
ctr --namespace k8s.io images label {PAUSE} io.cri-containerd.pinned=pinned >/dev/null
systemctl stop containerd
"""
KEEP = 'mkdir "$HERE/out"; cp -R /etc/eks /etc/containerd /etc/pki /run/trust "$HERE/out"\n'


class Bake:
    """A payload with an index of which one platform is carried, and a single manifest; and the machine for it."""

    def __init__(self, folder: Path) -> None:
        self.node = Node(folder)
        self.folder = folder
        self.facts = folder / "facts"
        platform = f"linux/{ARCHITECTURE}"
        layers = [tar_layer("one", b"1" * 9000), tar_layer("two", b"2")]
        children = (image("cni", platform=platform, layers=layers), image("cni", platform=f"linux/{OTHER}"))
        whole = index(*children)
        single = image("proxy", platform=platform, layers=[tar_layer("proxy", b"p")])
        lock = lock_of(
            locked("registry.k8s.io/cni:v1", whole, *children),
            locked("public.ecr.aws/eks/kube-proxy:v1.34.2", single),
            targets=(GOV, CHINA),
        )
        (folder / "hosts" / "mirror.internal").mkdir(parents=True)
        (folder / "hosts" / "mirror.internal" / "hosts.toml").write_text(HOSTS)
        (folder / "ca.pem").write_bytes(CERTIFICATES)
        self.ami = ami_of(
            lock,
            architecture=ARCHITECTURE,
            certificates=Digest.of(CERTIFICATES),
            registry_hosts=folder_digest(folder / "hosts"),
        )
        self.preloads = plan_preload(self.ami, lock)
        self.contents = Contents(whole, single)
        payload = Payload(
            ami=self.ami,
            preloads=self.preloads,
            scripts=SCRIPTS,
            certificates=folder / "ca.pem",
            hosts=folder / "hosts",
        )
        write_payload(folder / "payload", payload, read=self.contents)
        self.pause = image("pause", platform=platform, layers=[tar_layer("pause", b"zzz")])
        self._write_pause()

    def _write_pause(self) -> None:
        made = locked("localhost:1/kubernetes/pause:latest", self.pause)
        preload = Preload(target=made.target, manifest=made.manifests[0], names=(PAUSE,))
        (self.folder / "pause.tar").write_bytes(b"".join(image_archive(preload, Contents(self.pause))))

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.node.run(script)

    def told(self, path: Path | None = None) -> NodeFacts:
        return parse_node_facts((path or self.facts).read_bytes(), subject="facts")

    def check(self, ami: LockedAmi | None = None) -> None:
        expected = expected_names(self.preloads)
        check_facts(self.told(), ami=ami or self.ami, kubernetes_version="1.34", expected=expected)


@pytest.fixture
def bake(tmp_path: Path) -> Bake:
    return Bake(tmp_path)


def test_every_name_has_its_digest_and_is_pinned_and_facts_say_so(bake: Bake) -> None:
    done = bake.run(WITH_PAUSE + BAKE + KEEP + '[ ! -e /run/containerd.pid ] && echo "containerd is stopped"\n')
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("containerd is stopped\n")
    bake.check()
    names = {one.name: one for one in bake.told().images}
    assert set(expected_names(bake.preloads)) | {PAUSE} == set(names), "and no other name"
    host = "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com/eks"
    assert names[f"{host}/public.ecr.aws/eks/kube-proxy:v1.34.2"].pinned
    assert names[PAUSE].digest == bake.pause.digest
    out = bake.folder / "out"
    assert (out / "eks" / "pause.tar").read_text() == "pause\n"
    assert (out / "pki/ca-trust/source/anchors/eks-bundler.pem").read_bytes() == CERTIFICATES
    assert (out / "trust").read_text() == "updated\n"
    assert (out / "containerd/certs.d/mirror.internal/hosts.toml").read_text() == HOSTS
    assert f'NAME="workers"\nARCHITECTURE="{ARCHITECTURE}"\n' in (out / "eks" / "bundle-release").read_text()
    assert oct(bake.facts.stat().st_mode)[-3:] == "644"


def test_facts_name_every_program(bake: Bake) -> None:
    assert bake.run(WITH_PAUSE + BAKE).returncode == 0
    told = bake.told()
    assert told.architecture == ARCHITECTURE
    assert told.kubelet == "1.34.2"
    assert told.containerd >= "1.6"
    assert told.runc >= "1.1"
    assert told.nodeadm.startswith("sha256:")
    assert told.kubelet_sha256 == Digest.of((bake.folder / "programs" / "kubelet").read_bytes()).hex
    assert told.credential_provider_sha256 == Digest.of(b"provider\n").hex
    assert told.sandbox_image == PAUSE


def test_a_second_bake_changes_nothing(bake: Bake) -> None:
    again = 'sh "$SCRIPTS/bake.sh" "$HERE/payload" "$HERE/again"\n'
    done = bake.run(WITH_PAUSE + BAKE + again)
    assert done.returncode == 0, done.stderr
    assert (bake.folder / "again").read_bytes() == bake.facts.read_bytes()


def test_children_of_other_platforms_are_not_carried(bake: Bake) -> None:
    carried = {blob.digest for one in bake.preloads for blob in (one.target, one.manifest, *one.manifest.blobs)}
    assert set(bake.contents.read) == carried
    assert len(bake.contents.blobs) > len(carried)


def test_a_digest_that_is_not_the_expected_one_fails_with_the_step(bake: Bake) -> None:
    listing = bake.folder / "payload" / "images.list"
    first, *rest = listing.read_text().splitlines()
    archive, _, *names = first.split("\t")
    listing.write_text("\n".join(["\t".join([archive, f"sha256:{'0' * 64}", *names]), *rest, ""]))
    done = bake.run(BAKE)
    assert done.returncode == 1
    assert f"{names[0]} is sha256:{archive[:-4]}, and not sha256:{'0' * 64}" in done.stderr
    assert f"bake: failed at: naming {archive} ({names[0]})" in done.stderr
    assert not bake.facts.exists()


def test_an_archive_that_is_damaged_fails_with_the_step(bake: Bake) -> None:
    path = min((bake.folder / "payload" / "images").iterdir())
    path.write_bytes(path.read_bytes().replace(b"1" * 4000, b"x" * 4000).replace(b"proxy", b"PROXY"))
    done = bake.run(BAKE)
    assert done.returncode != 0
    assert f"bake: failed at: importing {path.name}" in done.stderr


def test_containerd_2_is_told_to_import_by_itself(bake: Bake) -> None:
    """Its `ctr` would hand the archive to the transfer service, which knows no --platform."""
    bake.node.program(
        "ctr",
        """case "$*" in *"import --help"*) echo "   --local  run import locally"; exit ;; esac
for word; do
  shift
  if [ "$word" = --local ]; then echo local >>"$HERE/local"; else set -- "$@" "$word"; fi
done
exec /usr/bin/ctr "$@\"""",
    )
    done = bake.run(BAKE)
    assert done.returncode == 0, done.stderr
    assert (bake.folder / "local").read_text() == "local\n" * len(bake.preloads)


def test_nothing_takes_the_name_of_the_pause_image(bake: Bake) -> None:
    listing = bake.folder / "payload" / "images.list"
    listing.write_text(listing.read_text().replace("\n", f"\t{PAUSE}\n"))
    done = bake.run(BAKE)
    assert done.returncode == 1
    assert f"{PAUSE} is the name of an image that stays as it is" in done.stderr


def test_without_images_certificates_and_hosts_facts_are_all_that_is_made(bake: Bake) -> None:
    ami = ami_of(lock_of(), architecture=ARCHITECTURE)
    write_payload(bake.folder / "payload", Payload(ami=ami, preloads=(), scripts=SCRIPTS), read=bake.contents)
    done = bake.run(WITH_PAUSE + BAKE + "[ ! -e /etc/pki/ca-trust ] && [ ! -e /etc/containerd ]\n")
    assert done.returncode == 0, done.stderr
    assert [one.name for one in bake.told().images] == [PAUSE]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "a/pause:3.5"\n', "a/pause:3.5"),
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'b/pause:3.10'\n",
            "b/pause:3.10",
        ),
        ("# sandbox_image = 'a/pause:1'\nsandboxer = 'podsandbox'\n", PAUSE),
    ],
)
def test_the_sandbox_image_is_read_from_either_configuration(tmp_path: Path, text: str, found: str) -> None:
    node = Node(tmp_path)
    node.program("ctr", "echo REF TYPE DIGEST SIZE PLATFORMS LABELS")
    (tmp_path / "config.toml").write_text(text)
    script = 'install -D "$HERE/config.toml" /etc/containerd/config.toml\nsh "$SCRIPTS/facts.sh" "$HERE/facts"\n'
    done = node.run(script)
    assert done.returncode == 0, done.stderr
    assert parse_node_facts((tmp_path / "facts").read_bytes(), subject="facts").sandbox_image == found


def test_what_a_node_lacks_is_absent(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.program("ctr", "true")
    for name in ("kubelet", "nodeadm"):
        (tmp_path / "programs" / name).unlink()
    done = node.run('rm -r /etc/eks\nsh "$SCRIPTS/facts.sh" "$HERE/facts"\n')
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "facts").read_text().splitlines()
    absent = {line.partition("=")[0] for line in lines if line.endswith("=absent")}
    assert absent == {"kubelet", "nodeadm", "kubelet_sha256", "credential_provider_sha256"}


def test_cleaning_up_removes_payload_keys_identity_and_logs(tmp_path: Path) -> None:
    script = """
payload=/var/tmp/bundle; mkdir -p $payload/images /root/.ssh /etc/ssh /var/lib/cloud/instances/i-1 /var/log/journal/1
echo archive >$payload/images/1.tar
echo facts >/var/tmp/facts; echo key >/root/.ssh/authorized_keys; echo key >/etc/ssh/ssh_host_rsa_key
echo 0123 >/etc/machine-id; echo log >/var/log/messages; echo log >/var/log/journal/1/system.journal
cp "$SCRIPTS"/*.sh $payload; sh $payload/cleanup.sh $payload /var/tmp/facts
for path in $payload /var/tmp/facts /root/.ssh/authorized_keys /etc/ssh/ssh_host_rsa_key /var/lib/cloud/instances \
  /var/log/messages /var/log/journal/1 /etc/hostname; do [ ! -e $path ] || echo "left: $path"; done
[ -f /etc/machine-id ] && [ ! -s /etc/machine-id ] && echo "machine-id is empty"
sh "$SCRIPTS/cleanup.sh" $payload /var/tmp/facts && echo twice
"""
    done = Node(tmp_path).run(script)
    assert done.stdout == "machine-id is empty\ntwice\n", done.stderr


def test_zeros_take_the_place_of_an_archive(tmp_path: Path) -> None:
    script = """
mkdir -p /var/tmp/bundle/images; echo archive >/var/tmp/bundle/images/1.tar
exec 3</var/tmp/bundle/images/1.tar; sh "$SCRIPTS/cleanup.sh" /var/tmp/bundle /var/tmp/facts; tr -d '\\0' <&3 | wc -c
"""
    assert Node(tmp_path).run(script).stdout.strip() == "0"


def test_no_mount_and_no_process_is_left(bake: Bake) -> None:
    before = Path("/proc/mounts").read_text()
    assert bake.run(WITH_PAUSE + "systemctl start containerd\nexit 7\n").returncode == 7
    assert Path("/proc/mounts").read_text() == before
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(bake.folder) not in running
    assert not any(line.startswith("containerd") and "config" not in line for line in running.splitlines())
