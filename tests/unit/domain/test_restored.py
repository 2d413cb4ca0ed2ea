"""AMIs of the bundle at a site: which ones are wanted, how they are called, and everything that keeps them out."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.domain.ami import NodeFacts, Preloaded
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.finding import Finding
from bundler.domain.lock import Lock, LockedImage, LockedManifest
from bundler.domain.oci import Platform
from bundler.domain.reference import Reference
from bundler.domain.restored import NOT_YET, UNPACKED_RATIO, WantedAmi, check_amis, is_from_bundle, wanted_amis
from bundler.domain.site import Site
from tests.fakes.amis import TWO_DEVICES, MadeAmi, attributes, shifted
from tests.fakes.preloads import lock_of
from tests.fakes.sites import group_document, make_site

GIB = 1 << 30


def lock_with(*amis: MadeAmi, images: tuple[LockedImage, ...] = ()) -> Lock:
    update = {"amis": tuple(one.locked for one in amis), "bake": tuple(one.baked for one in amis)}
    return lock_of(*images).model_copy(update=update)


def site_with(*groups: dict[str, Any], **changes: Any) -> Site:
    documents = [group_document(name=f"g{number}", **group) for number, group in enumerate(groups)]
    return make_site(nodeGroups=documents, **changes)


def found(site: Site, lock: Lock) -> Finding:
    (finding,) = check_amis(site, lock)
    return finding


def image_of(size: int, name: str = "registry.k8s.io/app:v1") -> LockedImage:
    config, layer = (
        Blob(media_type="x", digest=Digest.of(f"{name} {part}".encode()), size=size) for part in ("config", "layer")
    )
    manifest = LockedManifest(
        media_type="x",
        digest=Digest.of(name.encode()),
        size=1,
        platform=Platform(os="linux", architecture="amd64"),
        blobs=(config, layer),
    )
    target = Blob(media_type="x", digest=manifest.digest, size=1)
    reference = Reference.parse(name)
    return LockedImage(reference=reference, target=target, form="manifest", manifests=(manifest,), origin="registry")


def facts(*images: Preloaded) -> NodeFacts:
    text = dict.fromkeys(("os", "kernel", "nodeadm", "sandbox_image"), "x")
    versions = dict.fromkeys(("containerd", "runc", "kubelet"), "1.36.0")
    sums = dict.fromkeys(("kubelet_sha256", "credential_provider_sha256"), "0" * 64)
    return NodeFacts.model_validate({**text, **versions, **sums, "architecture": "amd64", "images": images})


def test_a_group_with_an_ami_of_the_account_wants_nothing_of_the_bundle() -> None:
    site = make_site()
    assert not is_from_bundle(site.node_groups[0])
    assert wanted_amis(site, lock_with(MadeAmi.of())) == ()
    assert check_amis(site, lock_with()) == ()


def test_an_ami_that_two_groups_name_is_wanted_once() -> None:
    lock = lock_with(MadeAmi.of(), MadeAmi.of(name="batch"), MadeAmi.of(name="unused"))
    wanted = wanted_amis(site_with({"ami": "workers"}, {"ami": "batch"}, {"ami": "workers"}), lock)
    assert [one.baked.name for one in wanted] == ["batch", "workers"]


def test_what_it_is_follows_content_attributes_and_architecture_alone() -> None:
    one = WantedAmi(baked=MadeAmi.of().baked)
    again = WantedAmi(baked=MadeAmi.of(name="other", ami="ami-00000000", account="999999999999").baked)
    assert again.digest == one.digest
    others = (
        MadeAmi.of(shifted(TWO_DEVICES, 1000)),
        MadeAmi.of(attributes=attributes(*TWO_DEVICES, gib=2)),
        MadeAmi.of(architecture="arm64"),
    )
    assert len({one.digest, *(WantedAmi(baked=other.baked).digest for other in others)}) == 4


def test_a_key_makes_it_another_ami() -> None:
    baked = MadeAmi.of().baked
    ones = [WantedAmi(baked=baked, kms_key=key) for key in (None, "arn:one", "arn:two")]
    assert len({one.digest for one in ones}) == len({one.name for one in ones}) == 3


def test_name_and_description_at_the_site_say_what_it_is() -> None:
    one = WantedAmi(baked=MadeAmi.of().baked)
    assert one.name == f"workers-amd64-{one.digest.hex[:12]}"
    assert one.description == f"eks-bundler {one.digest}"


def test_node_groups_are_planned_with_its_facts_before_it_has_an_id() -> None:
    image = WantedAmi(baked=MadeAmi.of(attributes=attributes(*TWO_DEVICES, gib=7)).baked).image()
    assert (image.id, image.root_device, image.root_gib, image.architecture) == (NOT_YET, "/dev/xvda", 7, "amd64")


def test_a_site_where_everything_fits_has_no_findings() -> None:
    lock = lock_with(MadeAmi.of(), images=(image_of(GIB),))
    for route in ("ebs-direct", "copy", "share"):
        site = site_with({"ami": "workers"}, region="eu-west-1", restore={"route": route})
        assert check_amis(site, lock) == ()


def test_an_ami_that_the_bundle_does_not_hold_is_found_with_those_that_it_holds() -> None:
    finding = found(site_with({"ami": "nodes"}), lock_with(MadeAmi.of(), MadeAmi.of(architecture="arm64")))
    assert (finding.check, finding.subject, finding.exit_code) == ("node group g0", "nodes", 2)
    assert "holds workers for amd64, workers for arm64" in finding.cause
    assert "holds none" in found(site_with({"ami": "nodes"}), lock_with()).cause


def test_an_ami_for_another_architecture_is_found() -> None:
    site = site_with({"ami": "workers", "architecture": "arm64", "instanceType": "m7g.large"})
    assert (
        "is no AMI of this bundle for arm64; it holds workers for amd64" in found(site, lock_with(MadeAmi.of())).cause
    )


@pytest.mark.parametrize("route", ["copy", "share"])
def test_a_route_that_does_not_leave_the_partition_is_found(route: str) -> None:
    ami = MadeAmi.of(partition="aws-us-gov", region="ap-northeast-1")
    finding = found(site_with({"ami": "workers"}, restore={"route": route}), lock_with(ami))
    assert f"was built in partition aws-us-gov; the route {route} does not leave it" in finding.cause
    assert "ebs-direct" in finding.hint


def test_only_the_route_share_asks_for_the_same_region() -> None:
    lock = lock_with(MadeAmi.of())
    assert check_amis(site_with({"ami": "workers"}, restore={"route": "copy"}), lock) == ()
    finding = found(site_with({"ami": "workers"}, restore={"route": "share"}), lock)
    assert "was built in eu-west-1; the route share uses it there only" in finding.cause


def test_a_root_volume_that_is_smaller_than_the_carried_one_is_found() -> None:
    lock = lock_with(MadeAmi.of(attributes=attributes(*TWO_DEVICES, gib=30)))
    finding = found(site_with({"ami": "workers", "volume": {"sizeGiB": 29}}), lock)
    assert "needs a root volume of 30 GiB, the group says 29" in finding.cause
    assert check_amis(site_with({"ami": "workers", "volume": {"sizeGiB": 30}}), lock) == ()


@pytest.mark.parametrize(("compressed", "fits"), [(27, True), (28, False)])
def test_room_is_kept_for_unpacked_images_and_what_kubelet_keeps_free(compressed: int, fits: bool) -> None:
    """80 GiB * 0.85 = 68 GiB = 27.2 GiB * 2.5."""
    assert UNPACKED_RATIO == 2.5
    lock = lock_with(MadeAmi.of(), images=(image_of(compressed * GIB),))
    findings = check_amis(site_with({"ami": "workers", "volume": {"sizeGiB": 80}}), lock)
    assert (findings == ()) is fits
    if not fits:
        assert findings[0].cause.startswith("needs a root volume of about 83 GiB, with the bundle's images unpacked")
        assert findings[0].cause.endswith("the group says 80 GiB")
        assert "Set volume.sizeGiB of the group to 83 or more" in findings[0].hint
        assert "volume.sizeGiB" in findings[0].hint


def test_what_the_ami_holds_already_counts_once() -> None:
    """The preloaded image stands in the AMI's own blocks, another one has to be pulled."""
    image = image_of(40 * GIB)
    preloaded = Preloaded(name=str(image.reference), digest=image.target.digest, pinned=True)
    site = site_with({"ami": "workers", "volume": {"sizeGiB": 80}})
    assert check_amis(site, lock_with(MadeAmi.of(facts=facts(preloaded)), images=(image,))) == ()
    assert len(check_amis(site, lock_with(MadeAmi.of(facts=facts()), images=(image,)))) == 1
    full = MadeAmi.of(facts=facts(preloaded), blocks=(70 * GIB) >> 19)
    assert "needs a root volume of about 83 GiB" in found(site, lock_with(full, images=(image,))).cause


def test_layers_that_images_share_count_once() -> None:
    one = image_of(20 * GIB)
    same = one.model_copy(update={"reference": Reference.parse("registry.k8s.io/other:v1")})
    site = site_with({"ami": "workers", "volume": {"sizeGiB": 80}})
    assert check_amis(site, lock_with(MadeAmi.of(), images=(one, same))) == ()


def bottlerocket(data_gib: int) -> MadeAmi:
    devices = [{"device": "/dev/xvda", "size": 2}, {"device": "/dev/xvdb", "size": data_gib}]
    return MadeAmi.of(kind="bottlerocket", attributes={"root_device": "/dev/xvda", "devices": devices})


def test_bottlerocket_keeps_images_on_its_data_volume_and_that_is_what_the_group_sizes() -> None:
    group = {"ami": "workers", "os": "bottlerocket", "volume": {"sizeGiB": 20}}
    assert check_amis(site_with(group), lock_with(bottlerocket(20))) == ()
    finding = found(site_with(group), lock_with(bottlerocket(21)))
    assert "needs a data volume of 21 GiB, the group says 20" in finding.cause
    finding = found(site_with(group), lock_with(bottlerocket(20), images=(image_of(20 * GIB),)))
    assert "needs a data volume of about 59 GiB, with" in finding.cause


@pytest.mark.parametrize(
    ("kind", "os", "fits"),
    [
        ("bake", "al2023", True),
        ("bake", "bottlerocket", False),
        ("bake", "al2", False),
        ("template", "al2023", True),
        ("template", "al2", True),
        ("template", "bottlerocket", False),
        ("bottlerocket", "bottlerocket", True),
        ("bottlerocket", "al2023", False),
        ("bottlerocket", "al2", False),
        ("id", "al2023", True),
        ("id", "al2", True),
        ("id", "bottlerocket", True),
    ],
)
def test_an_ami_that_does_not_read_the_groups_user_data_is_found(kind: str, os: str, fits: bool) -> None:
    findings = check_amis(site_with({"ami": "workers", "os": os}), lock_with(MadeAmi.of(kind=kind)))
    assert (findings == ()) is fits
    if not fits:
        assert f"is of the kind {kind}, for os" in findings[0].cause
        assert f"the group says {os}" in findings[0].cause
        assert findings[0].exit_code == 2


def test_all_findings_of_all_groups_come_at_once() -> None:
    ami = MadeAmi.of(kind="bottlerocket", partition="aws-cn", attributes=attributes(*TWO_DEVICES, gib=100))
    site = site_with({"ami": "workers"}, {"ami": "absent"}, restore={"route": "share"})
    causes = [finding.cause for finding in check_amis(site, lock_with(ami))]
    assert len(causes) == 5
