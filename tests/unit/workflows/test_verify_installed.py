"""What stands at a site against the archive: every difference is found, all at once, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.domain.digest import Digest
from bundler.domain.finding import Finding
from bundler.domain.image_map import PrivateRegistry
from bundler.domain.machine_image import FoundImage
from bundler.domain.restored import AMI_TAG
from bundler.journal import Place, Session, hold
from bundler.retry import Patience
from bundler.stages.push import push
from bundler.transfer import Pace
from bundler.workflows.push import observe_push
from bundler.workflows.restore import Machines, Restoration
from bundler.workflows.verify_installed import Installed, InstalledReport, verify_installed
from tests.fakes.account import Account, Clock
from tests.fakes.amis import MadeAmi, ami_sample, block
from tests.fakes.memory_registry import MemoryRegistry
from tests.unit.workflows.test_restore import KEY, OTHER_KEY, opened, site_of

REFERENCES = 4


class Standing:
    """A site where everything was installed."""

    def __init__(self, folder: Path, **site: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.archive = opened(ami_sample(), folder)
        self.site = site_of("workers", **site)
        self.account, self.registry = Account(), MemoryRegistry()
        self._restore(folder)
        private = PrivateRegistry(host=self.site.registry_host, prefix=self.site.registry.prefix)
        wanted = observe_push(self.archive, target=private, registry=self.registry, immutable=True, pace=Pace())
        push(wanted, archive=self.archive, registry=self.registry)
        self.targets = sorted((one.target for one in wanted.missing), key=str)
        self.writes = len(self.account.writes)

    def _restore(self, folder: Path) -> None:
        clock = Clock()
        restoration = Restoration(
            archive=self.archive,
            site=self.site,
            machines=Machines(images=self.account, blocks=self.account),
            patience=Patience(clock=clock, sleep=clock.sleep),
            pace=Pace(),
        )
        session = Session(id="a", owner="a@host", bundle=self.archive.root.digest)
        with hold(Place(folder=folder / "state", site="a/b/c"), session) as journal:
            restoration.run(restoration.observe(), journal)

    @property
    def image(self) -> FoundImage:
        (image,) = self.account.images.values()
        return image

    def change(self, **values: Any) -> None:
        """Let the AMI be otherwise."""
        self.account.images[self.image.id] = replace(self.image, **values)

    def snapshot(self, device: str = "/dev/xvda") -> str:
        return next(one.snapshot for one in self.image.snapshots if one.device == device)

    def verify(self) -> InstalledReport:
        installed = Installed(images=self.account, blocks=self.account, registry=self.registry)
        report = verify_installed(self.archive, self.site, installed=installed, pace=Pace())
        assert len(self.account.writes) == self.writes, "nothing is written"
        return report

    def found(self) -> Finding:
        (finding,) = self.verify().findings
        return finding


@pytest.fixture
def site(tmp_path: Path) -> Standing:
    return Standing(tmp_path)


def test_a_site_that_is_as_it_was_installed_has_no_findings(site: Standing) -> None:
    report = site.verify()
    assert report.findings == ()
    (checked,) = report.amis
    assert (checked.name, checked.architecture, checked.ami, checked.blocks) == ("workers", "amd64", site.image.id, 63)
    assert report.references == REFERENCES == len(site.targets)


def test_what_a_site_with_another_key_has_in_the_same_account_is_not_this_sites(tmp_path: Path) -> None:
    one = Standing(tmp_path / "one", restore={"kmsKey": OTHER_KEY})
    site = Standing(tmp_path / "site", restore={"kmsKey": KEY})
    own = site.image.id
    devices = tuple(replace(each, snapshot=f"{each.snapshot}-of-one") for each in one.image.devices)
    for name, found in one.account.made.items():
        site.account.made[f"{name}-of-one"] = replace(found, id=f"{name}-of-one")
        site.account.content[f"{name}-of-one"] = one.account.content[name]
    site.account.images["ami-of-one"] = replace(one.image, id="ami-of-one", devices=devices)
    report = site.verify()
    assert report.findings == ()
    assert [checked.ami for checked in report.amis] == [own]


def test_a_block_that_was_changed_is_found_and_named(site: Standing) -> None:
    site.account.content[site.snapshot()][4] = block(12345)
    finding = site.found()
    assert finding.subject == f"AMI {site.image.id} ({site.image.name}), {site.snapshot()} (/dev/xvda)"
    assert finding.cause == "does not hold the blocks that were signed: different: 1 (4)"
    assert finding.exit_code == 3
    assert "Deregister it" in finding.hint
    assert site.verify().amis[0].blocks == 62


def test_blocks_of_all_devices_are_looked_at(site: Standing) -> None:
    del site.account.content[site.snapshot("/dev/xvdb")][9]
    assert site.found().cause.endswith("missing: 1 (9)")


def test_an_ami_that_was_deregistered_is_found(site: Standing) -> None:
    name = site.image.name
    site.account.delete(site.image.id)
    finding = site.found()
    assert (finding.subject, finding.exit_code) == (name, 8)
    assert "is not in account 111122223333, ap-northeast-1" in finding.cause
    assert "bundle install" in finding.hint


@pytest.mark.parametrize("state", ["pending", "failed", "disabled"])
def test_an_ami_that_cannot_be_used_is_found(site: Standing, state: str) -> None:
    site.change(state=state)
    assert (site.found().cause, site.found().exit_code) == (f"is {state}", 8)


def test_a_second_ami_that_claims_to_be_it_is_read_back_too(site: Standing) -> None:
    """Whoever may tag an AMI could give nodes his own."""
    other = site.account.add(name="golden", tags={AMI_TAG: site.image.tags[AMI_TAG]}, boot_mode="uefi-preferred")
    causes = [finding.cause for finding in site.verify().findings if other in finding.subject]
    assert "has no snapshot behind /dev/xvda" in causes


def test_a_snapshot_that_is_gone_is_found(site: Standing) -> None:
    site.account.delete(site.snapshot())
    assert "does not exist in this account and Region" in site.found().cause


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"architecture": "arm64"}, "is for arm64; the lock says amd64"),
        ({"boot_mode": "legacy-bios"}, "has boot mode legacy-bios; the lock says uefi-preferred"),
        ({"imds_support": None}, "has imds support None; the lock says v2.0"),
        ({"ena_support": False}, "has ena support False; the lock says True"),
        ({"tpm_support": "v2.0"}, "has tpm support v2.0; the lock says None"),
        ({"root_device": "/dev/xvdb"}, "has root device /dev/xvdb; the lock says /dev/xvda"),
        ({"virtualization": "paravirtual"}, "has attributes that this tool does not know"),
    ],
)
def test_an_attribute_that_the_lock_says_otherwise_is_found(site: Standing, change: dict[str, Any], cause: str) -> None:
    site.change(**change)
    assert (site.found().cause, site.found().exit_code) == (cause, 3)


def test_uefi_variables_that_nobody_signed_are_found(site: Standing) -> None:
    site.account.uefi[site.image.id] = "AAAA"
    assert site.found().cause == "has uefi data AAAA; the lock says None"


def test_a_device_that_is_larger_is_found(site: Standing) -> None:
    first, second = site.image.devices
    site.change(devices=(replace(first, gib=2, volume_type="gp2"), second))
    assert [finding.cause for finding in site.verify().findings] == [
        "has /dev/xvda with size 2; the lock says 1",
        "has /dev/xvda with volume type gp2; the lock says gp3",
    ]


def test_a_further_device_is_found(site: Standing) -> None:
    further = replace(site.image.devices[0], device="/dev/xvdc")
    site.change(devices=(*site.image.devices, further))
    assert site.found().cause == "has a further device /dev/xvdc"


def test_a_snapshot_of_another_size_is_found(site: Standing) -> None:
    site.account.gib[site.snapshot()] = 3
    assert site.found().cause == "is of a volume of 3 GiB, not 1"


def test_a_snapshot_without_the_key_that_the_site_names_is_found(tmp_path: Path) -> None:
    site = Standing(tmp_path, restore={"kmsKey": KEY})
    for name, found in site.account.made.items():
        site.account.made[name] = replace(found, is_encrypted=False, kms_key="")
    causes = {finding.cause for finding in site.verify().findings}
    assert causes == {f"is not encrypted with {KEY}, which the site file names"}
    assert len(site.verify().findings) == 2


def test_an_image_that_is_gone_from_the_registry_is_found(site: Standing) -> None:
    target = next(one for one in site.targets if "coredns" in one.repository)
    site.registry.tags[target.name].pop(str(target.tag))
    finding = site.found()
    assert (finding.subject, finding.cause, finding.exit_code) == (str(target), "is not there", 8)
    assert site.verify().references == REFERENCES - 1


def test_a_tag_that_names_something_else_in_the_registry_is_found(site: Standing) -> None:
    target = next(one for one in site.targets if "pause" in one.repository)
    other = Digest.of(b"something else")
    site.registry.tags[target.name][str(target.tag)] = other
    finding = site.found()
    assert (finding.subject, finding.exit_code) == (str(target), 3)
    assert f"is {other}; the lock says sha256:" in finding.cause


def test_a_group_whose_ami_is_not_in_the_bundle_is_found(site: Standing) -> None:
    site.site = site_of("workers", "absent")
    assert "is no AMI of this bundle" in site.found().cause


def test_groups_with_amis_of_the_account_are_not_looked_at(site: Standing) -> None:
    site.site = site_of("ami-0123456789abcdef0")
    report = site.verify()
    assert (report.amis, report.findings) == ((), ())
    assert site.account.reading == []


def test_a_shared_ami_is_read_back_where_it_is(tmp_path: Path) -> None:
    site = Standing(tmp_path)
    mine = site.image
    baked = site.archive.lock.bake[0]
    site.account.delete(mine.id)
    site.account.images[baked.ami] = replace(mine, id=baked.ami, owner=baked.account, tags={}, name="eks-bundler-x")
    site.site = site_of("workers", region="eu-west-1", restore={"route": "share"})
    site.registry = MemoryRegistry()
    findings = site.verify().findings
    assert {finding.cause for finding in findings} == {"is not there"}, "only the registry of that Region is empty"
    assert site.verify().amis[0].blocks == 63


def test_everything_that_is_wrong_is_told_at_once(site: Standing) -> None:
    site.change(boot_mode=None)
    site.account.content[site.snapshot()].clear()
    site.account.content[site.snapshot("/dev/xvdb")][77] = block(5)
    site.registry.tags.clear()
    assert len(site.verify().findings) == 3 + REFERENCES


def test_an_ami_of_the_lock_that_nobody_names_is_not_asked_for(tmp_path: Path) -> None:
    made = opened(ami_sample(MadeAmi.of(), MadeAmi.of(name="unused")), tmp_path)
    assert len(made.lock.bake) == 2
    site = Standing(tmp_path / "site")
    site.archive = made
    assert [one.name for one in site.verify().amis] == ["workers"]
