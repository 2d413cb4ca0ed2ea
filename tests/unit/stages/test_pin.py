"""AMIs of a definition, pinned by id: by which parameter each is found, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bundler.adapters.documents import parse_document
from bundler.archive.payload import folder_digest
from bundler.domain.ami import Floors, LockedAmi
from bundler.domain.definition import Definition, parse_definition
from bundler.domain.digest import Digest
from bundler.domain.lock import Evidence, LockedImage
from bundler.domain.machine_image import FoundDevice, FoundImage
from bundler.errors import BundleError, DefinitionError, NotFoundUpstreamError, PolicyError
from bundler.stages.pin import Sights, pin
from tests.fakes.images import image, index
from tests.fakes.preloads import locked

ID, OTHER_ID = "ami-0123456789abcdef0", "ami-0123456789abcdef1"
EKS = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023"
BOTH = (image("both"), image("both", platform="linux/arm64/v8"))
CORE = locked("registry.k8s.io/pause:3.10", index(*BOTH), *BOTH).model_copy(
    update={"evidence": (Evidence(by="core pause", where="the sandbox of every pod"),)}
)
ADDON = locked("quay.io/team/agent:1", image("agent")).model_copy(
    update={"evidence": (Evidence(by="release agent", where="Deployment agent"),)}
)
FOUND = FoundImage(
    id=ID,
    name="amazon-eks-node",
    owner="602401143452",
    alias="amazon",
    state="available",
    architecture="amd64",
    is_public=True,
    devices=(FoundDevice(device="/dev/xvda", snapshot="snap-0123456789abcdef0", gib=20),),
)
ARM = replace(FOUND, id=OTHER_ID, architecture="arm64")


def definition(amis: str, *, platforms: str = "[linux/amd64]", more: str = "") -> Definition:
    text = f"""\
apiVersion: eks-bundler/v1
kind: Bundle
name: test
kubernetesVersion: "1.36"
source: {{region: eu-central-1}}
platforms: {platforms}
operatorPlatforms: [linux/amd64]
tools:
  helm: {{version: 4.1.4, platforms: {{linux/amd64: {{path: helm, sha256: "{"0" * 64}"}}}}}}
  kubectl: {{version: 1.35.2, platforms: {{linux/amd64: {{path: kubectl, sha256: "{"1" * 64}"}}}}}}
amis:
{amis}
{more}
"""
    return parse_definition(parse_document(text.encode(), source="bundle.yaml"))


@dataclass
class Aws:
    """SSM and EC2: a parameter of an image names the image of its architecture, all others say what they are."""

    images: dict[str, FoundImage] = field(default_factory=lambda: {ID: FOUND, OTHER_ID: ARM})
    absent: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def value(self, name: str) -> str:
        self.asked.append(name)
        if any(word in name for word in self.absent):
            raise NotFoundUpstreamError(name, "AWS publishes no such parameter")
        if name.endswith("/release_version"):
            return "1.36.0-20261101"
        return OTHER_ID if "/arm64/" in name else ID

    def image(self, ami: str) -> FoundImage | None:
        return self.images.get(ami)


def pinned(
    wanted: Definition, aws: Aws | None = None, *, images: tuple[LockedImage, ...] = (), folder: Path = Path("/none")
) -> tuple[LockedAmi, ...]:
    outside = aws or Aws()
    sights = Sights(
        region="eu-west-1",
        parameters=lambda: outside,
        images=lambda: outside,
        folder=folder,
        digest_of=folder_digest,
    )
    return pin(wanted, images=images, sights=sights)


def refused(action: Callable[[], object], kind: type[BundleError]) -> str:
    """What the error says; its hint is one of its own."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("ami", "machine", "parameter"),
    [
        ("{}", "amd64", f"{EKS}/x86_64/standard/recommended/image_id"),
        ("{variant: nvidia}", "amd64", f"{EKS}/x86_64/nvidia/recommended/image_id"),
        ("{variant: neuron}", "amd64", f"{EKS}/x86_64/neuron/recommended/image_id"),
        ("{}", "arm64", f"{EKS}/arm64/standard/recommended/image_id"),
        (
            "{release: v20261101}",
            "arm64",
            f"{EKS}/arm64/standard/amazon-eks-node-al2023-arm64-standard-1.36-v20261101/image_id",
        ),
        (
            "{variant: nvidia, release: v20261101}",
            "amd64",
            f"{EKS}/x86_64/nvidia/amazon-eks-node-al2023-x86_64-nvidia-1.36-v20261101/image_id",
        ),
    ],
)
def test_an_ami_that_is_baked_is_found_by_awss_parameter_and_its_release_is_kept(
    ami: str, machine: str, parameter: str
) -> None:
    aws = Aws()
    (found,) = pinned(definition(f"  - {{name: workers, architectures: [{machine}], ami: {ami}}}"), aws)
    release = parameter.removesuffix("image_id") + "release_version"
    assert aws.asked == [parameter, release]
    assert found.kind == "bake"
    assert found.source is not None
    assert (found.source.parameter, found.source.release) == (parameter, "1.36.0-20261101")
    assert (found.source.id, found.source.region) == (OTHER_ID if machine == "arm64" else ID, "eu-west-1")
    assert (found.source.owner, found.source.name) == (FOUND.owner, FOUND.name)


@pytest.mark.parametrize(
    ("rocket", "path"),
    [
        ("{}", "aws-k8s-1.36/x86_64/latest"),
        ("{version: 1.50.0}", "aws-k8s-1.36/x86_64/1.50.0"),
        ("{variant: nvidia}", "aws-k8s-1.36-nvidia/x86_64/latest"),
        ("{variant: fips, version: 1.50.0}", "aws-k8s-1.36-fips/x86_64/1.50.0"),
    ],
)
def test_bottlerocket_is_found_by_its_own_parameter_and_nothing_goes_onto_it(rocket: str, path: str) -> None:
    aws = Aws()
    (found,) = pinned(definition(f"  - {{name: rocket, ami: {{bottlerocket: {rocket}}}}}"), aws, images=(CORE,))
    assert aws.asked == [f"/aws/service/bottlerocket/{path}/image_id"]
    assert (found.kind, found.preload, found.volume_size) == ("bottlerocket", (), None)
    assert found.source is not None
    assert found.source.release == ""


def test_an_ami_by_id_asks_for_no_parameter_and_may_be_anybodys() -> None:
    aws = Aws(images={ID: replace(FOUND, owner="111122223333", alias="")})
    (found,) = pinned(definition(f"  - {{name: own, architectures: [amd64], ami: {{id: {ID}}}}}"), aws)
    assert aws.asked == []
    assert found.source is not None
    assert (found.kind, found.source.parameter, found.source.owner) == ("id", "", "111122223333")


def test_amis_come_by_name_and_for_each_architecture_of_the_bundle_unless_they_say_which() -> None:
    amis = "  - {name: b}\n  - {name: a, architectures: [arm64]}"
    found = pinned(definition(amis, platforms="[linux/arm64, linux/amd64]"))
    assert [(ami.name, ami.architecture) for ami in found] == [("a", "arm64"), ("b", "amd64"), ("b", "arm64")]


def test_without_amis_aws_is_not_asked() -> None:
    def never() -> Aws:
        raise AssertionError

    wanted = definition("  []")
    sights = Sights(region="x", parameters=never, images=never, folder=Path(), digest_of=folder_digest)
    assert pin(wanted, images=(), sights=sights) == ()


def test_a_parameter_that_does_not_exist_is_told() -> None:
    with pytest.raises(NotFoundUpstreamError, match="neuron"):
        pinned(definition("  - {name: a, ami: {variant: neuron}}"), Aws(absent=("neuron",)))


def test_an_id_that_nobody_sees_is_told_with_the_region() -> None:
    wanted = definition(f"  - {{name: own, architectures: [amd64], ami: {{id: {ID}}}}}")
    said = refused(lambda: pinned(wanted, Aws(images={})), NotFoundUpstreamError)
    assert said == f"AMI {ID}: eu-west-1 has no such AMI, or this account may not see it"


@pytest.mark.parametrize("alias", ["", "aws-marketplace", "self"])
def test_what_a_parameter_names_must_be_awss_own(alias: str) -> None:
    aws = Aws(images={ID: replace(FOUND, owner="999988887777", alias=alias)})
    said = refused(lambda: pinned(definition("  - {name: a}"), aws), PolicyError)
    assert "belongs to account 999988887777 and not to AWS" in said


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"product_codes": ("abc", "def")}, "has product codes (abc, def)"),
        ({"root_type": "instance-store"}, "root device of type instance-store"),
        ({"virtualization": "paravirtual"}, "paravirtual virtualization"),
        ({"devices": ()}, "no snapshot behind its root device /dev/xvda"),
    ],
)
@pytest.mark.parametrize("origin", ["{}", f"{{id: {ID}}}"])
def test_what_cannot_be_carried_is_refused_before_anything_is_baked(
    change: dict[str, object], cause: str, origin: str
) -> None:
    aws = Aws(images={ID: replace(FOUND, **change)})  # type: ignore[arg-type]
    wanted = definition(f"  - {{name: a, architectures: [amd64], ami: {origin}}}")
    assert cause in refused(lambda: pinned(wanted, aws), PolicyError)


def test_an_ami_of_another_architecture_is_refused() -> None:
    wanted = definition(f"  - {{name: own, architectures: [arm64], ami: {{id: {ID}}}}}")
    said = refused(lambda: pinned(wanted), DefinitionError)
    assert said == f"amis: own: AMI {ID} (amazon-eks-node) is for amd64, the definition says arm64"


def test_core_images_are_preloaded_and_those_that_are_asked_for() -> None:
    images = (ADDON, CORE)
    (found,) = pinned(definition("  - {name: a}"), images=images)
    assert found.preload == (CORE.reference,)
    (found,) = pinned(definition("  - {name: a, preload: ['quay.io/team/agent:1']}"), images=images)
    assert found.preload == (ADDON.reference, CORE.reference)


def test_a_core_image_that_is_asked_for_stands_once() -> None:
    (found,) = pinned(definition(f"  - {{name: a, preload: ['{CORE.reference}']}}"), images=(CORE,))
    assert found.preload == (CORE.reference,)


def test_a_core_image_for_other_architectures_is_left_out_and_a_variant_is_the_architecture() -> None:
    single = CORE.model_copy(update={"manifests": CORE.manifests[1:]})
    both = "[linux/amd64, linux/arm64]"
    found = pinned(definition("  - {name: a}", platforms=both), images=(single,))
    assert [ami.preload for ami in found] == [(), (CORE.reference,)]


def test_a_preload_that_the_bundle_lacks_is_refused() -> None:
    wanted = definition("  - {name: a, preload: ['quay.io/team/agent:2']}")
    said = refused(lambda: pinned(wanted, images=(ADDON,)), DefinitionError)
    assert said == "amis: a: preloads quay.io/team/agent:2, which is no image of the bundle"


def test_a_preload_for_other_architectures_is_refused() -> None:
    wanted = definition("  - {name: a, architectures: [arm64], preload: ['quay.io/team/agent:1']}")
    said = refused(lambda: pinned(wanted, images=(ADDON,)), DefinitionError)
    assert said == "amis: a: preloads quay.io/team/agent:1, which is not carried for linux/arm64"


def test_a_preload_by_digest_is_the_image_with_that_digest_and_no_other() -> None:
    def preload(digest: Digest, tag: str = ":1") -> tuple[LockedAmi, ...]:
        wanted = definition(f"  - {{name: a, preload: ['quay.io/team/agent{tag}@{digest}']}}")
        return pinned(wanted, images=(ADDON,))

    assert preload(ADDON.target.digest)[0].preload == (ADDON.reference,)
    assert preload(ADDON.target.digest, "")[0].preload == (ADDON.reference,)
    said = refused(lambda: preload(Digest.of(b"other")), DefinitionError)
    assert "is no image of the bundle" in said


TEMPLATE = "  - {name: own, architectures: [amd64], ami: {template: {folder: packer%s}}}"


def test_a_template_is_pinned_by_folder_file_user_and_variables(tmp_path: Path) -> None:
    (tmp_path / "packer").mkdir()
    for name in ("template.json", "other.json"):
        (tmp_path / "packer" / name).write_text("{}")

    def template(more: str = "") -> Digest:
        aws = Aws()
        (found,) = pinned(definition(TEMPLATE % more), aws, images=(CORE,), folder=tmp_path)
        assert (aws.asked, found.kind, found.source) == ([], "template", None)
        assert found.preload == (CORE.reference,), "the thin bake follows"
        assert found.template is not None
        return found.template

    first = template()
    changed = {
        template(", file: other.json"),
        template(", builderUser: admin"),
        template(", variables: {a: '1'}"),
        template(", variables: {a: '2'}"),
    }
    assert len({first, *changed}) == 5
    assert template() == first
    (tmp_path / "packer" / "script.sh").write_text("true")
    assert template() != first


def test_a_template_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    said = refused(lambda: pinned(definition(TEMPLATE % ""), folder=tmp_path), DefinitionError)
    assert said == f"{tmp_path}/packer: is not a folder"
    (tmp_path / "packer").mkdir()
    said = refused(lambda: pinned(definition(TEMPLATE % ""), folder=tmp_path), DefinitionError)
    assert said == f"{tmp_path}/packer: holds no template.json"


def test_certificates_hosts_floors_and_volume_are_pinned(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"certificates")
    (tmp_path / "hosts" / "mirror").mkdir(parents=True)
    (tmp_path / "hosts" / "mirror" / "hosts.toml").write_bytes(b"server")
    ami = "{name: a, certificates: ca.pem, registryHosts: hosts, floors: {containerd: '2.0', runc: '1.3'}}"
    (found,) = pinned(definition(f"  - {ami}", more="builder: {volumeSizeGiB: 40}"), folder=tmp_path)
    assert found.certificates == Digest.of(b"certificates")
    assert found.registry_hosts == folder_digest(tmp_path / "hosts")
    assert found.floors == Floors(containerd="2.0", runc="1.3")
    assert found.volume_size == 40
    (plain,) = pinned(definition("  - {name: a}"), folder=tmp_path)
    assert (plain.certificates, plain.registry_hosts, plain.template) == (None, None, None)


@pytest.mark.parametrize("more", ["certificates: ca.pem", "registryHosts: hosts"])
def test_a_file_that_does_not_exist_is_named(more: str, tmp_path: Path) -> None:
    said = refused(lambda: pinned(definition(f"  - {{name: a, {more}}}"), folder=tmp_path), DefinitionError)
    assert said.startswith(f"{tmp_path}/{more.rsplit(maxsplit=1)[-1]}: ")
