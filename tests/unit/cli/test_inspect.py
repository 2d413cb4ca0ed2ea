"""`bundle inspect` of a bundle with AMIs, as text and for machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from bundler.cli.inspect import inspect
from tests.fakes.amis import MadeAmi, ami_sample
from tests.fakes.archives import Sample
from tests.fakes.bakes import FACTS

KUBELET, PROVIDER = "3" * 12, "1" * 12
ODD = {
    "root_device": "/dev/xvda",
    "devices": [{"device": "/dev/xvda", "size": 20}],
    "boot_mode": "uefi",
    "ena_support": False,
    "tpm_support": "v2.0",
}


def inspected(made: Sample, folder: Path, *options: str) -> str:
    trust = folder / "trust"
    trust.mkdir()
    (trust / "trust.json").write_bytes(made.trust_json)
    path = made.build(folder)
    result = CliRunner().invoke(inspect, [str(path), "--trust", str(trust), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def baked() -> Sample:
    """One AMI that was baked, and one that is carried as it is, of which nothing is known from within."""
    return ami_sample(MadeAmi.of(facts=FACTS), MadeAmi.of({"/dev/xvda": {0: 1}}, kind="id", name="odd", attributes=ODD))


def test_the_text_tells_how_an_ami_is_registered_and_what_runs_on_it(tmp_path: Path) -> None:
    said = inspected(baked(), tmp_path)
    _, _, amis = said.partition("MADE FROM")
    assert "workers amd64  Amazon Linux 2023, kernel 6.12\n" in amis
    assert "  root /dev/xvda, boot mode uefi-preferred, ENA yes, IMDS v2.0, TPM none\n" in amis
    assert f"  sha256 of kubelet {KUBELET}, of ecr-credential-provider {PROVIDER}\n" in amis
    assert f"{KUBELET}3" not in amis, "short"
    assert "\nodd amd64\n  root /dev/xvda, boot mode uefi, ENA no, IMDS by default, TPM v2.0\n" in amis
    assert amis.count("sha256 of kubelet") == 1, "nothing is known of the other one"


def test_machines_are_told_all_of_it(tmp_path: Path) -> None:
    made = baked()
    workers, odd = json.loads(inspected(made, tmp_path, "-o", "json"))["amis"]
    (lock_workers, _) = made.lock.bake
    facts: dict[str, Any] = workers["facts"]
    assert (facts["kubeletSha256"], facts["credentialProviderSha256"]) == ("3" * 64, "1" * 64)
    assert workers["attributes"] == lock_workers.attributes.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert workers["attributes"]["bootMode"] == "uefi-preferred"
    assert (workers["name"], workers["kind"], workers["index"]) == ("workers", "bake", str(lock_workers.index.digest))
    assert workers["writtenBytes"] == lock_workers.written_bytes
    assert (odd["name"], odd["kind"], odd["facts"]) == ("odd", "id", None)
    assert (odd["attributes"]["enaSupport"], odd["attributes"]["tpmSupport"]) == (False, "v2.0")
    assert "imdsSupport" not in odd["attributes"]


def test_a_bundle_without_amis_has_no_table_of_them(tmp_path: Path) -> None:
    made = ami_sample()
    none = replace(made, lock=made.lock.model_copy(update={"amis": (), "bake": ()}))
    assert "MADE FROM" not in inspected(none, tmp_path)
