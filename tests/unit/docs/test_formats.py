"""docs/formats.md has the keys of definition, site, lock, archive and slip: all of them, and no others."""

from __future__ import annotations

import json
import re

import pytest

from bundler.adapters.documents import parse_document
from bundler.archive.extents import MAX_SPANS
from bundler.archive.layout import LOCK_PATH, METADATA, blob_entries
from bundler.archive.root import MEMBERS_PATH, ROOT_PATH, TRUST_PATH, Root, Totals
from bundler.domain.definition import definition_schema
from bundler.domain.digest import Digest
from bundler.domain.lock import lock_schema, parse_lock
from bundler.domain.parts import PartEntry, PartsTable, WholeArchive
from bundler.domain.schema import Built, refuse_secrets
from bundler.domain.shipment import S3Address, Shipment, slip_bytes
from bundler.domain.site import site_schema
from bundler.errors import PolicyError
from tests.documents import EXAMPLE, FORMATS, KEY, Table, tables

SCHEMAS = {"Definition": definition_schema, "Site": site_schema, "Lock": lock_schema}
MODELS = {
    ("Definition", ""): "",
    ("Definition", "`source`:"): "Source",
    ("Definition", "`core`, installed"): "Core",
    ("Definition", "`core.kubeProxy`:"): "KubeProxy",
    ("Definition", "`core.pause`:"): "Pause",
    ("Definition", "A core chart"): "CoreChart",
    ("Definition", "Where a chart comes from"): "ChartSource",
    ("Definition", "`addons[]`:"): "Addon",
    ("Definition", "Images with reasons"): "ReasonedImage",
    ("Definition", "`images[]` of the definition:"): "ExtraImage",
    ("Definition", "`images[].from`:"): "LocalSource",
    ("Definition", "`tools`:"): "Tools",
    ("Definition", "`tools.helm`, `tools.kubectl`:"): "Tool",
    ("Definition", "A pinned file"): "PinnedFile",
    ("Definition", "`files[]`:"): "File",
    ("Definition", "`amis[]`: baked"): "Ami",
    ("Definition", "`amis[].ami`:"): "AmiOrigin",
    ("Definition", "`amis[].ami.template`:"): "Template",
    ("Definition", "`amis[].ami.bottlerocket`:"): "Bottlerocket",
    ("Definition", "`amis[].floors`: what"): "Floors",
    ("Definition", "`builder`:"): "Builder",
    ("Definition", "`targets[]`: `REPO"): "Target",
    ("Site", ""): "",
    ("Site", "`cluster`:"): "Cluster",
    ("Site", "`registry`:"): "RegistrySettings",
    ("Site", "`endpoints`:"): "Endpoints",
    ("Site", "`state`:"): "StateSettings",
    ("Site", "`restore`:"): "Restore",
    ("Site", "`proxy`:"): "Proxy",
    ("Site", "`nodeGroups[]`:"): "NodeGroup",
    ("Site", "`nodeGroups[].volume`:"): "Volume",
    ("Site", "`nodeGroups[].taints[]`:"): "Taint",
    ("Lock", "`bundle.lock.json`"): "",
    ("Lock", "A blob"): "Blob",
    ("Lock", "A manifest"): "LockedManifest",
    ("Lock", "`images[]`:"): "LockedImage",
    ("Lock", "`images[].evidence[]`:"): "Evidence",
    ("Lock", "`charts[]`:"): "LockedChart",
    ("Lock", "`releases[]`"): "LockedRelease",
    ("Lock", "`tools[]`:"): "LockedTool",
    ("Lock", "`files[]`:"): "LockedFile",
    ("Lock", "`amis[]`, by"): "LockedAmi",
    ("Lock", "`amis[].source`:"): "AmiSource",
    ("Lock", "`amis[].floors`:"): "Floors",
    ("Lock", "`targets[]`:"): "Target",
    ("Lock", "`bake[]`:"): "BakedAmi",
    ("Lock", "`bake[].base`:"): "AmiBase",
    ("Lock", "`bake[].attributes`:"): "AmiAttributes",
    ("Lock", "`bake[].attributes.devices[]`:"): "AmiDevice",
    ("Lock", "`bake[].facts`:"): "NodeFacts",
    ("Lock", "`bake[].facts.images[]`:"): "Preloaded",
}


def schema_keys(name: str, model: str) -> tuple[set[str], set[str]]:
    """All keys of a model in a schema, and those that must be there."""
    schema = SCHEMAS[name]()
    found = schema["$defs"][model] if model else schema
    return set(found["properties"]), set(found.get("required", ()))


def table_of(section: str, prefix: str) -> Table:
    """The one table of docs/formats.md under a heading, after a paragraph that begins so."""
    fitting = [
        table
        for table in tables(FORMATS)
        if table.section == section and (table.title.startswith(prefix) if prefix else not table.title)
    ]
    assert len(fitting) == 1, f"{section}, {prefix}: {len(fitting)} tables"
    return fitting[0]


@pytest.mark.parametrize(("place", "model"), MODELS.items(), ids=lambda value: " ".join(value) if value else "")
def test_a_table_of_keys_agrees_with_the_schema(place: tuple[str, str], model: str) -> None:
    """All keys and no others; a star where one must be there (the lock is written by us: no stars)."""
    section, prefix = place
    known, required = schema_keys(section, model)
    told = table_of(section, prefix).keys
    assert set(told) == known
    if section != "Lock":
        assert {key for key, star in told.items() if star} == required


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_model_of_a_schema_has_its_table(name: str) -> None:
    told = {model for (section, _), model in MODELS.items() if section == name}
    assert told == {"", *(key for key, model in SCHEMAS[name]()["$defs"].items() if "properties" in model)}


def test_members_and_roles_are_those_of_the_layout() -> None:
    [table] = [table for table in tables(FORMATS) if table.section == "Archive, format 1"]
    told = {KEY.findall(row[0])[0][0]: {role for role, _ in KEY.findall(row[1])} for row in table.rows}
    blobs = told.pop("blobs/sha256/<hex>")
    head = {ROOT_PATH: set(), TRUST_PATH: {"trust"}, MEMBERS_PATH: {"members"}}
    assert told == head | {path: {role} for path, role in METADATA.items()}
    raw = (EXAMPLE / "bundle.lab.lock.json").read_bytes()
    found = {entry.role for entry in blob_entries(parse_lock(raw, source="lab"), source=LOCK_PATH)}
    assert blobs == found | {"file"} | {
        "ami-index",
        "ami-difference",
        "ami-table",
        "ami-pack",
    }  # the lab's bundle has neither


def test_the_record_of_an_unfinished_member_has_room_for_as_many_spans_as_described() -> None:
    text = FORMATS.read_text(encoding="utf-8")
    assert re.findall(r"number of spans \((\d+) at most\)", text) == [str(MAX_SPANS)]


def test_the_root_is_described_with_all_its_keys() -> None:
    text = FORMATS.read_text(encoding="utf-8")
    described = text[text.index("- **Root.**") : text.index("- **Slot.**")]
    keys = {field.serialization_alias or name for model in (Root, Totals) for name, field in model.model_fields.items()}
    assert [key for key in sorted(keys) if f"`{key}`" not in described] == []


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("`STEM.parts.json`:", PartsTable),
        ("`archive` of `STEM.parts.json`:", WholeArchive),
        ("`parts[]` of `STEM.parts.json`:", PartEntry),
    ],
)
def test_the_table_of_parts_is_described_with_all_its_keys(title: str, model: type[Built]) -> None:
    keys = {field.alias or name for name, field in model.model_fields.items()}
    assert table_of("Parts", title).keys == dict.fromkeys(keys, True)


def test_the_slip_is_described_with_all_its_keys() -> None:
    text = FORMATS.read_text(encoding="utf-8")
    described = text[text.index("## Transfer slip") : text.index("## registries.yaml")]
    digest = Digest.of(b"")
    sent = Shipment(name="a.tar", size=0, digest=digest, parts=())
    address = S3Address(bucket="bucket")
    slip = json.loads(
        slip_bytes(archive=sent, address=address, root=digest, trust=digest, installer=sent, parts=[sent])
    )
    assert [
        key for key in (*slip, *slip["archive"]) if f'"{key}"' not in described and f"`{key}`" not in described
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        *(f"{kind}{'A' * 16}" for kind in ("AKIA", "ASIA")),
        *(f"-----BEGIN {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "EC ", "OPENSSH ")),
        *(f"gh{kind}_{'a' * 36}" for kind in "pousr"),
        *(f"xox{kind}-{'1' * 20}" for kind in "bap"),
    ],
)
def test_a_kind_of_credential_that_is_listed_is_recognised(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^bundle\.yaml:1:10: values\.secret"):
        refuse_secrets(parse_document(f"values: {{secret: 'x {text}'}}".encode(), source="bundle.yaml"))


@pytest.mark.parametrize("text", ["hunter2-hunter2", "A" * 40, "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "glpat-" + "a" * 20])
def test_nothing_else_is_as_the_document_says(text: str) -> None:
    refuse_secrets(parse_document(f"values: {{password: '{text}'}}".encode(), source="bundle.yaml"))
