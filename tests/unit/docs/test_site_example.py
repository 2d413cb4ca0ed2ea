"""bundles/closed-minimal/site.yaml: valid as it stands and with all that is commented out, every key shown."""

from __future__ import annotations

import re

from bundler.adapters.documents import parse_document, read_document
from bundler.domain.site import Site, parse_site, site_schema
from tests.documents import EXAMPLE

_COMMENTED = re.compile(r"^(\s*)# ((?: *- | *)[A-Za-z0-9.]+:(?: \S.*)?)$")


def example_site() -> str:
    """The example as it stands in the repository."""
    return (EXAMPLE / "site.yaml").read_text(encoding="utf-8")


def whole_example() -> str:
    """The example with every key in force that it comments out."""
    return "\n".join(_COMMENTED.sub(r"\1\2", line) for line in example_site().splitlines())


def parsed(text: str) -> Site:
    """The site that a text describes."""
    return parse_site(parse_document(text.encode(), source="site.yaml"))


def test_the_example_of_a_site_is_valid() -> None:
    site = parse_site(read_document(EXAMPLE / "site.yaml"))
    assert site.account == "111122223333"
    assert site.access_entries == "ensure"


def test_the_example_of_a_site_is_valid_with_all_that_is_commented_out_and_shows_every_key() -> None:
    text = whole_example()
    site = parsed(text)
    assert site.state is not None
    assert site.node_groups[0].taints
    shown = set(re.findall(r"^[ -]*([A-Za-z.0-9]+):", text, re.MULTILINE))
    schema = site_schema()
    known = {key for model in (schema, *schema["$defs"].values()) for key in model["properties"]}
    assert shown - {"pool"} == known


def test_what_the_example_of_a_site_comments_out_are_the_defaults_where_there_are_any() -> None:
    plain, full = parsed(example_site()), parsed(whole_example())
    assert (full.partition, full.core, full.access_entries) == (plain.partition, plain.core, plain.access_entries)
    for model, other, names in (
        (full.registry, plain.registry, ("create_repositories", "immutable", "scan_on_push")),
        (full.node_groups[0], plain.node_groups[0], ("os", "architecture", "hop_limit", "instance_id_node_name")),
        (full.node_groups[0].volume, plain.node_groups[0].volume, ("size_gib",)),
    ):
        assert [getattr(model, name) for name in names] == [getattr(other, name) for name in names]
