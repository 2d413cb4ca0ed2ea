"""The real helm, 3 and 4: rendering shut off from the user's Helm, rewriting, charts as we pack them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.adapters import helm as helm_module
from bundler.adapters import process
from bundler.adapters.charts import ChartFinder, built_in_chart
from bundler.adapters.helm import Helm, HelmSettings
from bundler.adapters.process import run
from bundler.domain.chart import FetchedChart
from bundler.domain.definition import ChartSource
from bundler.domain.image_values import values_overrides
from bundler.domain.kubernetes_images import find_images
from bundler.domain.oci import OCI_MANIFEST, Manifest, parse_manifest
from bundler.domain.reference import Reference
from bundler.domain.release import Rendering
from bundler.domain.rewrite import outside_images, refuse_outside, rewrite_manifests
from bundler.errors import ClosureError, DefinitionError, LimitError, MissingToolError, PolicyError, ProgramError
from tests.fakes.charts import HOOK, IMAGES, chart, image_map, private, with_hook
from tests.fakes.scripted_server import client_of
from tests.peers import StartRegistry

pytestmark = pytest.mark.loopback
WEB = Rendering(release="web", namespace="shop", kubernetes_version="1.36")


@pytest.fixture
def client(helm: Path, tmp_path: Path) -> Helm:
    return Helm(HelmSettings(binary=helm, work=tmp_path))


def is_helm4(client: Helm) -> bool:
    return client.version()[0] == 4


def test_version_is_read(client: Helm) -> None:
    assert client.version() in {(3, 19, 0), (4, 1, 4)}


@pytest.mark.parametrize(("said", "error"), [("v3.10.1", PolicyError), ("v5.0.0", PolicyError), ("", ProgramError)])
def test_a_helm_that_is_too_old_or_none_is_refused(tmp_path: Path, said: str, error: type[Exception]) -> None:
    (tmp_path / "helm").write_text(f"#!/bin/sh\necho {said}\n")
    (tmp_path / "helm").chmod(0o755)
    with pytest.raises(error):
        Helm(HelmSettings(binary=tmp_path / "helm", work=tmp_path)).version()


def test_a_helm_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="helm: is not installed"):
        Helm(HelmSettings(binary=tmp_path / "helm", work=tmp_path)).version()


def test_values_kubernetes_version_and_apis_reach_the_templates(client: Helm) -> None:
    template = (
        "kind: ConfigMap\ndata:\n  a: {{ .Values.deep.key | quote }}\n  b: {{ .Capabilities.KubeVersion.Version }}\n"
        '  c: "{{ .Capabilities.APIVersions.Has "example.com/v1" }}"\n'
        "  d: {{ .Release.Namespace }}/{{ .Release.Name }}\n"
    )
    rendering = Rendering(
        release="web",
        namespace="shop",
        values={"deep": {"key": "ä: 'x'\n"}},
        kubernetes_version="1.36",
        api_versions=("example.com/v1",),
    )
    text = client.render(chart({"templates/a.yaml": template}), rendering)
    assert "a: \"ä: 'x'\\n\"" in text
    assert "b: v1.36.0" in text
    assert 'c: "true"' in text
    assert "d: shop/web" in text


def test_hooks_tests_and_crds_are_rendered(client: Helm) -> None:
    crd = "kind: CustomResourceDefinition\nmetadata: {name: x}\n"
    text = client.render(chart({"crds/x.yaml": crd, "templates/h.yaml": HOOK, "values.yaml": "hookImage: a/b:1"}), WEB)
    assert "CustomResourceDefinition" in text
    assert [found.text for found in find_images(text, subject="x")] == ["a/b:1"]


def test_the_users_own_helm_is_not_looked_at(client: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "user"
    plugin = home / "plugins" / "spy"
    plugin.mkdir(parents=True)
    (plugin / "plugin.yaml").write_text('name: spy\nversion: 1.0.0\ncommand: "touch $HELM_PLUGIN_DIR/ran"\n')
    for name in ("HELM_PLUGINS", "HELM_DATA_HOME", "HELM_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(name, str(home / ("plugins" if name == "HELM_PLUGINS" else "")))
    monkeypatch.setenv("HELM_NAMESPACE", "elsewhere")
    assert client.render(chart({"templates/a.yaml": "a: {{ .Release.Namespace }}"}), WEB).endswith("a: shop\n")
    assert sorted(path.name for path in home.rglob("*")) == ["plugin.yaml", "plugins", "spy"]


def test_nothing_of_values_or_chart_stays_behind(client: Helm, tmp_path: Path) -> None:
    rendering = Rendering(release="web", namespace="shop", values={"password": "hunter2"}, kubernetes_version="1.36")
    client.render(chart({"templates/a.yaml": "a: b"}), rendering, images=image_map())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert not list(tmp_path.glob("helm-*/*.json"))


def test_a_chart_that_does_not_render_says_why(client: Helm) -> None:
    template = '{{ required "clusterName \\u001b[31mis missing" .Values.clusterName }}'
    with pytest.raises(DefinitionError, match=r"release web: does not render: .*clusterName .*is missing") as caught:
        client.render(chart({"templates/a.yaml": template}), WEB)
    assert str(caught.value).isprintable()


def test_values_that_the_schema_refuses_are_an_error(client: Helm) -> None:
    schema = json.dumps({"properties": {"replicas": {"type": "integer"}}})
    rendering = Rendering(release="web", namespace="shop", values={"replicas": "three"}, kubernetes_version="1.36")
    with pytest.raises(DefinitionError, match="replicas"):
        client.render(chart({"values.schema.json": schema, "templates/a.yaml": "a: b"}), rendering)


def test_an_endless_template_is_ended(client: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_module, "RENDER_LIMIT_S", 1.0)
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    started = time.monotonic()
    endless = "{{ range until 100000000 }}{{ range until 100000000 }}{{ end }}{{ end }}"
    with pytest.raises(LimitError, match="release web: does not render"):
        client.render(chart({"templates/a.yaml": endless}), WEB)
    assert time.monotonic() - started < 15


def test_h09_a_template_that_only_takes_time_is_ended(client: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_module, "RENDER_LIMIT_S", 1.0)
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    slow = "{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}"
    with pytest.raises(LimitError, match="release web: does not render within 1 s"):
        client.render(chart({"templates/a.yaml": slow}), WEB)


@pytest.mark.parametrize(
    "template",
    [
        '{{ $s := "0123456789abcdef" }}{{ range until 40 }}{{ $s = print $s $s }}{{ end }}{{ len $s }}',
        "{{ range until 2000000000 }}{{ end }}",
    ],
    ids=["a string that doubles", "a list without end"],
)
def test_h09_a_template_that_eats_memory_is_refused_in_plain_words(client: Helm, template: str) -> None:
    with pytest.raises(LimitError) as caught:
        client.render(chart({"templates/a.yaml": template}), WEB)
    assert str(caught.value) == "release web: does not render: its templates need more than 1024 MiB of memory"


def test_h09_a_template_that_writes_without_end_is_refused_by_name(
    client: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.run, "__kwdefaults__", {**process.run.__kwdefaults__, "max_output_bytes": 1 << 20})
    with pytest.raises(LimitError, match="release web: does not render: helm wrote more than 1048576 bytes"):
        client.render(chart({"templates/a.yaml": "a: {{ repeat 2000000 `x` }}"}), WEB)


def test_a_chart_that_is_merely_large_renders(client: Helm) -> None:
    data = "".join(f"  k{number}:\n    description: what the field is for\n" for number in range(400))
    config = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\ndata:\n"
    done = client.render(chart({f"templates/t{number}.yaml": config + data for number in range(20)}), WEB)
    assert done.count("description") == 8000


def test_what_pods_run_is_rewritten_and_nothing_else(client: Helm) -> None:
    plain = client.render(chart(), WEB)
    done = client.render(chart(), WEB, images=image_map())
    refuse_outside(done, image_map(), subject="x")
    assert str(private("quay.io/shop/app:v1").target) in done
    assert f"--helper={private('quay.io/shop/helper:v2').target}" in done
    if not is_helm4(client):  # Helm 4 formats what it gives to a post-renderer
        assert done == rewrite_manifests(plain, image_map(), subject="x").text
    assert "on: yes" in done


def test_hooks_are_rewritten_by_helm_4_and_seen_by_the_verifying_render_of_helm_3(client: Helm) -> None:
    done = client.render(with_hook(), WEB, images=image_map())
    if is_helm4(client):
        refuse_outside(done, image_map(), subject="x")
        return
    assert [found.where for found in outside_images(done, image_map(), subject="x")] == [
        "Job/web-setup (hook post-install,post-upgrade): container setup"
    ]


def test_values_reach_hooks_too(client: Helm) -> None:
    values = values_overrides(client.defaults(with_hook()), {"replicas": 3}, image_map())
    rendering = Rendering(release="web", namespace="shop", values=values, kubernetes_version="1.36")
    done = client.render(with_hook(), rendering)
    refuse_outside(done, image_map(), subject="x")
    assert "replicas: 3" in done


def test_an_image_that_the_bundle_does_not_hold_stops_helm(client: Helm) -> None:
    with pytest.raises(ClosureError, match=r"release web: .*'quay.io/shop/app:v1' \(Deployment/web: container app\)"):
        client.render(chart(), WEB, images=image_map("quay.io/shop/other:v1"))


def test_manifests_that_are_no_yaml_stop_helm(client: Helm) -> None:
    with pytest.raises((ClosureError, DefinitionError)):
        client.render(chart({"templates/a.yaml": "a: *nowhere"}), WEB, images=image_map())


def test_kube_proxy_renders_as_eks_runs_it(client: Helm) -> None:
    values = {"image": "quay.io/shop/app:v1", "clusterEndpoint": "https://x.example.com", "mode": "nftables"}
    rendering = Rendering(release="kube-proxy", namespace="kube-system", values=values, kubernetes_version="1.36")
    text = client.render(built_in_chart("kube-proxy").tgz, rendering)
    assert [found.text for found in find_images(text, subject="x")] == ["quay.io/shop/app:v1"]
    assert "server: https://x.example.com" in text
    assert "mode: nftables" in text
    with pytest.raises(DefinitionError, match="clusterEndpoint is missing"):
        client.render(
            built_in_chart("kube-proxy").tgz,
            Rendering(release="kube-proxy", namespace="kube-system", values={"image": "a"}, kubernetes_version="1.36"),
        )


def test_wrapped_manifests_render_to_themselves(client: Helm, tmp_path: Path) -> None:
    content = "kind: ConfigMap\nmetadata: {name: a}\ndata: {x: '{{ .not.a.template }}'}\n---\nkind: Pod\n"
    (tmp_path / "all.yaml").write_text(content)
    wrapped = folder_finder(tmp_path).wrap("extra", "all.yaml")
    text = client.render(wrapped.tgz, WEB)
    assert text.replace("# Source: extra/templates/manifest.yaml\n", "").strip("-\n") == content.strip("\n")


def folder_finder(folder: Path) -> ChartFinder:
    class Nothing:
        def stream(self, url: str) -> Iterator[bytes]:
            raise AssertionError(url)

        def manifest(self, reference: Reference) -> Manifest:
            raise AssertionError(reference)

        def read_blob(self, *_: object, **__: object) -> None:
            raise AssertionError

    return ChartFinder(folder=folder, urls=Nothing(), images=Nothing())


def push_chart(address: str, found: FetchedChart) -> str:
    """Put the chart into a registry exactly as the bundle carries it."""
    client = client_of()
    reference = Reference.parse(f"{address}/charts/{found.name}:{found.version}")
    manifest = parse_manifest(found.manifest, subject="x")
    assert isinstance(manifest, Manifest)
    for descriptor, content in zip(manifest.blobs, found.blobs, strict=True):
        client.upload_blob(reference, descriptor, lambda start, content=content: iter([memoryview(content)[start:]]))
    client.put_manifest(reference, found.manifest, OCI_MANIFEST)
    return f"oci://{address}/charts/{found.name}"


def test_helm_pulls_a_chart_that_we_packed_from_a_real_registry(
    helm: Path, tmp_path: Path, shared_docker_registry: StartRegistry
) -> None:
    (tmp_path / "web" / "templates").mkdir(parents=True)
    (tmp_path / "web" / "Chart.yaml").write_text("apiVersion: v2\nname: web\nversion: 1.0.0\ndeprecated: true\n")
    (tmp_path / "web" / "templates" / "a.yaml").write_text("a: {{ .Release.Name }}\n")
    found = folder_finder(tmp_path).find(ChartSource.model_validate({"path": "web"}))
    url = push_chart(shared_docker_registry(), found)
    argv = [str(helm), "pull", url, "--version", "1.0.0", "--plain-http", "--destination", str(tmp_path)]
    done = run(argv, timeout_s=60, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.tail
    assert (tmp_path / "web-1.0.0.tgz").read_bytes() == found.tgz
    shown = run([str(helm), "show", "chart", str(tmp_path / "web-1.0.0.tgz")], timeout_s=60, env={"HOME": "/"})
    assert b"version: 1.0.0" in shown.stdout


def test_all_images_of_the_test_charts_are_found(client: Helm) -> None:
    text = client.render(with_hook(), WEB)
    assert [found.text for found in find_images(text, subject="x")] == [IMAGES[0], IMAGES[2]]
