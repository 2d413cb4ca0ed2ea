"""What once went wrong for people who used the whole program, each as they met it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.lab.tools import Tools
from tests.fakes.images import image, layer_bytes
from tests.journey import Workspace, small_definition, workspace
from tests.peers import StartRegistry

pytestmark = pytest.mark.loopback
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec: {containers: [{name: app, image: "registry.example/team/app-0:1.0.0"}]}
"""
BUILD = ("build", "--key", "keys/bundle.key")


def with_helm(text: str, tools: Tools) -> str:
    """Replace the tools that nobody runs by real ones."""
    entries = "".join(
        f"  {name}:\n    version: {tool.version}\n"
        f"    platforms: {{linux/amd64: {{path: {tool.path}, sha256: {tool.sha256}}}}}\n"
        for name, tool in (("helm", tools.helm4), ("kubectl", tools.kubectl))
    )
    return f"{text[: text.index('tools:')]}tools:\n{entries}"


def with_addons(text: str, *addons: str) -> str:
    """Add releases to a definition."""
    return text.replace("images:\n", "addons:\n" + "".join(f"  - {addon}\n" for addon in addons) + "images:\n", 1)


def write_chart(folder: Path, template: str = POD, *, name: str = "web") -> None:
    """Write a chart as a folder."""
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    (folder / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 1.0.0\n")
    (folder / "templates" / "pod.yaml").write_text(template)


def rewrite_lock(place: Workspace, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the lock as a person, or a merge, does."""
    path = place.folder / "bundle.lock.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


@pytest.mark.parametrize("values", ["{cpu: 1.5, least: 0.001}", '{greeting: "\\U0001F600 日本"}'])
def test_a_chart_takes_fractions_and_every_character_in_its_values(tmp_path: Path, tools: Tools, values: str) -> None:
    text = with_helm(small_definition(tmp_path, images=1), tools)
    write_chart(tmp_path / "web")
    place = workspace(tmp_path, None, with_addons(text, f"{{name: web, chart: {{path: web}}, values: {values}}}"))
    place.build()
    assert "unchanged" in place.bundle("lock").stdout
    place.bundle("verify", "small-1.tar", "--trust", "trust")


def test_two_charts_that_share_name_and_version_are_refused(tmp_path: Path) -> None:
    text = small_definition(tmp_path, images=1)
    write_chart(tmp_path / "one")
    write_chart(tmp_path / "two", POD + "---\n")
    addons = [f"{{name: {name}, chart: {{path: {name}}}}}" for name in ("one", "two")]
    refused = workspace(tmp_path, None, with_addons(text, *addons)).bundle("lock", expect=2)
    assert "web 1.0.0" in refused.stderr
    assert not (tmp_path / "bundle.lock.json").exists()


def test_a_chart_that_was_edited_after_the_lock_is_not_left_behind_in_silence(tmp_path: Path, tools: Tools) -> None:
    text = with_helm(small_definition(tmp_path, images=1), tools)
    write_chart(tmp_path / "web")
    place = workspace(tmp_path, None, with_addons(text, "{name: web, chart: {path: web}}"))
    place.bundle("lock")
    write_chart(tmp_path / "web", POD.replace("name: app}", "name: other}", 1))
    refused = place.bundle(*BUILD, expect=2)
    assert "charts/web:1.0.0" in refused.stderr
    assert "bundle lock" in refused.stderr
    place.bundle("lock")
    place.build()


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock["images"][0]["manifests"][0]["blobs"].pop(),
        lambda lock: lock["images"][0]["manifests"].pop(),
        lambda lock: lock["images"][0].update(form="manifest"),
        lambda lock: lock["images"][0]["target"].update(mediaType="application/vnd.oci.image.manifest.v1+json"),
        lambda lock: lock.update(tools=[]),
    ],
    ids=["a blob less", "a platform less", "another form", "another media type", "no tools"],
)
def test_nothing_is_signed_that_an_edited_lock_describes_wrongly(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    place = workspace(tmp_path, None, small_definition(tmp_path, images=1))
    place.bundle("lock")
    rewrite_lock(place, change)
    refused = place.bundle(*BUILD, expect=2)
    assert "bundle lock" in refused.stderr
    assert not list(tmp_path.glob("*.tar"))
    place.bundle("lock")
    place.build()


def test_a_broken_lock_names_a_next_step_that_works(tmp_path: Path) -> None:
    place = workspace(tmp_path, None, small_definition(tmp_path, images=1))
    for content in ("", "[]", "<<<<<<< HEAD\n{}\n"):
        (tmp_path / "bundle.lock.json").write_text(content)
        refused = place.bundle("lock", expect=3)
        assert "remove" in refused.stderr
    (tmp_path / "bundle.lock.json").unlink()
    place.bundle("lock")


def test_two_digests_of_one_tag_are_pushed_beside_each_other(tmp_path: Path, docker_registry: StartRegistry) -> None:
    text = small_definition(tmp_path, images=1)
    layout, names = tmp_path / "layout", []
    for seed in ("first", "second"):
        made = image(seed, layers=[layer_bytes(seed, 500)])
        for digest, content in {**made.blobs, **{key: raw for key, (_, raw) in made.manifests.items()}}.items():
            (layout / "blobs" / "sha256" / digest.hex).write_bytes(content)
        names.append(f"registry.example/team/tagged:1@{made.digest}")
    entry = "  - {{image: '{}', reason: a test, from: {{layout: layout}}, platforms: [linux/amd64]}}\n"
    text = text.replace("images:\n", "images:\n" + "".join(entry.format(name) for name in names))
    place, registry = workspace(tmp_path, None, text), docker_registry()
    place.build()
    for _ in range(2):
        place.bundle("push", "small-1.tar", f"{registry}/closed", "--trust", "trust")


def test_a_credential_is_not_repeated_where_it_is_wrong_as_well(tmp_path: Path) -> None:
    place = workspace(tmp_path, None, small_definition(tmp_path, images=1))
    secret = "ghp_" + "A1b2" * 9
    text = (tmp_path / "bundle.yaml").read_text()
    (tmp_path / "bundle.yaml").write_text(text.replace("registry.example/team/app-0:1.0.0", f"!{secret}"))
    refused = place.bundle("lock", expect=3)
    assert secret not in refused.stdout + refused.stderr
