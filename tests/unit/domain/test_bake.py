"""What a bake depends on: it changes with each of its inputs, and with nothing else."""

from __future__ import annotations

import pytest

from bundler.domain.ami import Floors, LockedAmi
from bundler.domain.bake import (
    ami_description,
    ami_name,
    bake_inputs,
    client_token,
    content_inputs,
    group_name,
    kept_bakes,
    key_prefix,
    template_digest,
    with_bakes,
)
from bundler.domain.definition import Template
from bundler.domain.digest import Digest
from bundler.domain.lock import Evidence, Lock, lock_bytes, parse_lock
from bundler.errors import FormatError
from tests.fakes.bakes import SOURCE, bake_of
from tests.fakes.images import image
from tests.fakes.preloads import CHINA, GOV, ami_of, lock_of, locked

CNI, PROXY = (locked(f"registry.k8s.io/{name}:v1", image(name)) for name in ("cni", "proxy"))
OURS, OTHER = Digest.of(b"template"), Digest.of(b"another template")


def lock_with(*amis: LockedAmi) -> Lock:
    return lock_of(CNI, PROXY, targets=(GOV,)).model_copy(update={"amis": amis})


WORKERS = ami_of(lock_of(CNI), source=SOURCE, volume_size=20)
LOCK = lock_with(WORKERS)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "others"},
        {"architecture": "arm64"},
        {"kind": "template"},
        {"source": SOURCE.model_copy(update={"id": "ami-0123456789abcdef1"})},
        {"source": SOURCE.model_copy(update={"release": "1.36.0-20261101"})},
        {"template": OURS},
        {"preload": (CNI.reference, PROXY.reference)},
        {"preload": ()},
        {"certificates": OURS},
        {"registry_hosts": OURS},
        {"floors": Floors(runc="1.3")},
        {"volume_size": 40},
    ],
    ids="-".join,
)
def test_every_property_of_an_ami_is_an_input(change: dict[str, object]) -> None:
    changed = WORKERS.model_copy(update=change)
    assert content_inputs(LOCK, changed) != content_inputs(LOCK, WORKERS)
    assert bake_inputs(LOCK, changed, template=OURS) != bake_inputs(LOCK, WORKERS, template=OURS)


def test_all_properties_of_an_ami_are_tried() -> None:
    tried = {
        "name", "architecture", "kind", "source", "template", "preload", "certificates", "registry_hosts", "floors",
        "volume_size",
    }  # fmt: skip
    assert set(LockedAmi.model_fields) == tried


def test_the_content_of_a_preload_is_an_input_and_its_evidence_is_none() -> None:
    moved = locked(str(CNI.reference), image("another"))
    assert content_inputs(LOCK.model_copy(update={"images": (moved, PROXY)}), WORKERS) != content_inputs(LOCK, WORKERS)
    asked = CNI.model_copy(update={"evidence": (Evidence(by="somebody", where="somewhere"),)})
    assert content_inputs(LOCK.model_copy(update={"images": (asked, PROXY)}), WORKERS) == content_inputs(LOCK, WORKERS)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "renamed"},
        {"sequence": 9},
        {"created": "2027-01-01T00:00:00Z"},
        {"previous": OURS},
        {"definition": OURS},
        {"images": (CNI,)},
        {"kubernetes_version": "1.35"},
        {"amis": (WORKERS, WORKERS.model_copy(update={"name": "b"}))},
    ],
    ids="-".join,
)
def test_the_rest_of_the_lock_is_none(change: dict[str, object]) -> None:
    assert content_inputs(LOCK.model_copy(update=change), WORKERS) == content_inputs(LOCK, WORKERS)


def test_targets_are_an_input_where_they_name_a_preload() -> None:
    other = LOCK.model_copy(update={"targets": (GOV, CHINA)})
    assert content_inputs(other, WORKERS) != content_inputs(LOCK, WORKERS)
    empty = WORKERS.model_copy(update={"preload": ()})
    assert content_inputs(other, empty) == content_inputs(LOCK, empty)


def test_our_template_is_an_input_of_what_it_bakes_and_of_nothing_else() -> None:
    assert bake_inputs(LOCK, WORKERS, template=OURS) != bake_inputs(LOCK, WORKERS, template=OTHER)
    carried = WORKERS.model_copy(update={"kind": "id", "preload": ()})
    assert bake_inputs(LOCK, carried, template=OURS) == bake_inputs(LOCK, carried, template=None)


def test_a_teams_template_is_its_folder_its_file_its_user_and_its_variables() -> None:
    template = Template(folder="packer", variables={"a": "1", "b": "2"})
    same = Template(folder="moved", variables={"b": "2", "a": "1"})
    assert template_digest(template, OURS) == template_digest(same, OURS)
    changes = (
        {"file": "other.json"},
        {"builder_user": "admin"},
        {"variables": {"a": "1"}},
        {"variables": {"a": "1", "b": "3"}},
    )
    changed = [template_digest(template.model_copy(update=change), OURS) for change in changes]
    assert len({template_digest(template, OURS), template_digest(template, OTHER), *changed}) == 6


def test_names_say_what_a_bake_is_and_fit_into_ec2() -> None:
    inputs = Digest.of(b"inputs")
    assert ami_name(WORKERS, inputs) == f"eks-bundler-workers-amd64-{inputs.hex[:16]}"
    assert len(ami_name(WORKERS.model_copy(update={"name": "n" * 53}), inputs)) <= 128
    assert str(inputs) in ami_description(inputs)
    assert key_prefix(inputs) == f"bundle-bake-{inputs}-"
    assert group_name(inputs) == f"bundle-bake-{inputs.hex[:16]}"
    assert len(client_token("a")) == 64
    assert client_token("a", "b") != client_token("ab")


def test_a_bake_is_kept_for_as_long_as_both_locks_say_the_same_of_its_ami() -> None:
    others = WORKERS.model_copy(update={"name": "others"})
    bakes = (bake_of(others), bake_of(WORKERS))
    before = lock_with(WORKERS, others).model_copy(update={"bake": bakes})
    assert kept_bakes(before, before) == bakes
    changed = WORKERS.model_copy(update={"source": SOURCE.model_copy(update={"id": "ami-0123456789abcdef1"})})
    assert kept_bakes(before, lock_with(changed, others)) == (bake_of(others),)
    assert kept_bakes(before, lock_with(others)) == (bake_of(others),)
    moved = locked(str(CNI.reference), image("another"))
    assert kept_bakes(before, before.model_copy(update={"images": (moved, PROXY)})) == ()
    assert kept_bakes(before, before.model_copy(update={"targets": (CHINA,)})) == ()


def test_a_bake_takes_the_place_of_the_one_before_it_and_they_stand_by_name() -> None:
    a, b = (WORKERS.model_copy(update={"name": name}) for name in "ab")
    lock = with_bakes(lock_with(a, b), (bake_of(b), bake_of(a)))
    assert lock.bake == (bake_of(a), bake_of(b))
    assert with_bakes(lock, (bake_of(b, 1),)).bake == (bake_of(a), bake_of(b, 1))


def test_a_lock_with_amis_and_bakes_is_read_as_it_was_written() -> None:
    lock = with_bakes(LOCK, (bake_of(WORKERS),))
    raw = lock_bytes(lock)
    assert parse_lock(raw, source="lock") == lock
    assert lock_bytes(parse_lock(raw, source="lock")) == raw


def test_a_lock_that_records_a_bake_of_no_ami_is_refused() -> None:
    raw = lock_bytes(LOCK.model_copy(update={"bake": (bake_of(WORKERS.model_copy(update={"name": "stray"})),)}))
    with pytest.raises(FormatError, match="records a bake of stray amd64"):
        parse_lock(raw, source="lock")


def test_a_lock_without_amis_has_none_of_their_keys() -> None:
    raw = lock_bytes(lock_of(CNI))
    assert not any(f'"{key}"'.encode() in raw for key in ("amis", "bake", "targets"))
