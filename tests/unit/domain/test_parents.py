"""The base of a delta at a site: found by its tags, fit for new snapshots to begin with, or refused with a way out."""

from __future__ import annotations

import pytest

from bundler.domain.digest import Digest
from bundler.domain.finding import Finding
from bundler.domain.parents import Encryption, check_parents, find_parents, snapshot_tags
from bundler.domain.snapshot import FoundSnapshot
from tests.fakes.deltas import BASE, BUILT, delta_sample
from tests.fakes.sites import make_site

(AMI,) = delta_sample().lock.bake
KEY, OTHER = "arn:aws:kms:eu-central-1:111122223333:key/a", "arn:aws:kms:eu-central-1:111122223333:key/b"
ANY = Encryption(kms_key=None, by_default=False)


def snapshot(
    name: str,
    device: str,
    *,
    state: str = "completed",
    key: str = "",
    index: Digest = BASE.digest,
    made_for: str | None = None,
) -> FoundSnapshot:
    tags = snapshot_tags(index, device, made_for)
    return FoundSnapshot(id=name, state=state, tags=tags, is_encrypted=bool(key), kms_key=key)


def both(key: str = "") -> list[FoundSnapshot]:
    return [snapshot("snap-1", "/dev/xvda", key=key), snapshot("snap-2", "/dev/xvdb", key=key)]


def findings(found: list[FoundSnapshot], encryption: Encryption = ANY) -> list[Finding]:
    made = list(check_parents(AMI, BASE, found=found, encryption=encryption, site=make_site()))
    assert (find_parents(BASE, found=found, encryption=encryption) is None) == bool(made)
    return made


def test_complete_snapshots_of_every_device_are_the_base() -> None:
    parents = find_parents(BASE, found=both(), encryption=ANY)
    assert parents is not None
    assert parents.snapshots == {"/dev/xvda": "snap-1", "/dev/xvdb": "snap-2"}
    assert findings(both()) == []


@pytest.mark.parametrize(
    "found",
    [
        [],
        [snapshot("snap-2", "/dev/xvdb", state="pending")],
        [snapshot("snap-2", "/dev/xvdb", state="error")],
        [snapshot("snap-2", "/dev/xvdb", index=Digest.of(b"other"))],
        [snapshot("snap-2", "/dev/xvdc")],
    ],
)
def test_what_is_not_a_complete_snapshot_of_the_base_is_missing(found: list[FoundSnapshot]) -> None:
    (finding,) = findings([*both()[:1], *found])
    assert finding.exit_code == 7
    assert f"no completed snapshot of /dev/xvdb with the tag bundle:ami-index={BASE.digest}" in finding.cause
    assert f"Install sample-6 (root {BUILT})" in finding.hint
    assert "bundle build --whole" in finding.hint


def test_every_device_that_is_missing_is_told() -> None:
    assert len(findings([])) == 2


@pytest.mark.parametrize(
    ("held", "encryption", "words"),
    [
        ("", Encryption(kms_key=KEY, by_default=False), f"so would it be; restore.kmsKey in the site file is {KEY}"),
        (OTHER, Encryption(kms_key=KEY, by_default=False), f"is encrypted with {OTHER}"),
        ("", Encryption(kms_key=None, by_default=True), "is not encrypted, and so would it be; the account encrypts"),
    ],
)  # fmt: skip
def test_a_base_in_the_wrong_form_is_told_with_the_copy_that_fits(
    held: str, encryption: Encryption, words: str
) -> None:
    (root, data) = findings(both(held), encryption)
    assert words in root.cause
    assert "aws ec2 copy-snapshot --region ap-northeast-1 --source-region ap-northeast-1" in data.hint
    assert "--source-snapshot-id snap-2 --encrypted" in data.hint
    assert f"{{Key=bundle:ami-index,Value={BASE.digest}}},{{Key=bundle:ami-device,Value=/dev/xvdb}}" in data.hint
    assert ("--kms-key-id" in data.hint) == (encryption.kms_key is not None)


@pytest.mark.parametrize(
    ("held", "encryption"),
    [
        (KEY, Encryption(kms_key=KEY, by_default=False)),
        (KEY, Encryption(kms_key=None, by_default=True)),
        (KEY, ANY),
        ("", ANY),
    ],
)
def test_a_base_in_the_right_form_is_taken(held: str, encryption: Encryption) -> None:
    assert findings(both(held), encryption) == []


def test_of_several_the_one_that_fits_is_taken() -> None:
    copies = [snapshot("snap-3", "/dev/xvda", key=KEY), snapshot("snap-4", "/dev/xvdb", key=KEY)]
    encryption = Encryption(kms_key=KEY, by_default=False)
    parents = find_parents(BASE, found=[*both(), *copies], encryption=encryption)
    assert parents is not None
    assert sorted(parents.snapshots.values()) == ["snap-3", "snap-4"]


def test_a_base_that_was_made_for_a_site_with_a_key_is_none_for_a_site_without_but_its_copy_is() -> None:
    devices = {"snap-1": "/dev/xvda", "snap-2": "/dev/xvdb"}
    (root, _) = findings([snapshot(name, device, key=KEY, made_for=KEY) for name, device in devices.items()])
    assert f"is encrypted with {KEY}, and so would it be; restore.kmsKey in the site file is not set" in root.cause
    assert "bundle:kms-key" not in root.hint
    assert findings([snapshot(name, device, key=OTHER) for name, device in devices.items()]) == []


def test_the_copy_that_is_told_bears_the_key_of_the_site() -> None:
    (root, _) = findings(both(OTHER), Encryption(kms_key=KEY, by_default=False))
    assert f"{{Key=bundle:kms-key,Value={KEY}}}" in root.hint


def test_of_two_aliases_each_has_its_own_base() -> None:
    one, other = (f"arn:aws:kms:eu-central-1:111122223333:alias/{name}" for name in ("one", "other"))
    found = [
        snapshot("snap-1", "/dev/xvda", key=KEY, made_for=one),
        snapshot("snap-2", "/dev/xvdb", key=KEY, made_for=one),
    ]
    assert findings(found, Encryption(kms_key=one, by_default=False)) == []
    assert len(findings(found, Encryption(kms_key=other, by_default=False))) == 2
