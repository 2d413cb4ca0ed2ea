"""What is seen in a chart before Helm is run on it (reliability H04-H10)."""

from __future__ import annotations

import pytest

from bundler.adapters import chart_archive, chart_tar
from bundler.adapters.chart_archive import read_chart
from bundler.adapters.chart_tar import pack
from bundler.domain.image_values import ChartDefaults
from bundler.errors import BundleError, FormatError, LimitError, PolicyError


def chart(files: dict[str, str], name: str = "web") -> bytes:
    return pack(name, {path: text.encode() for path, text in {"Chart.yaml": yaml_of(name), **files}.items()})


def yaml_of(name: str, version: str = "1.2.3", more: str = "") -> str:
    return f"apiVersion: v2\nname: {name}\nversion: {version}\n{more}"


def test_metadata_is_typed_as_helm_types_it() -> None:
    more = """
appVersion: 1.10
description: a web server
deprecated: true
keywords: [a, 1]
maintainers: [{name: me, email: me@example.com, x: y}]
annotations: {a: 1}
unknown: {x: y}
dependencies:
- {name: db, version: 1.0.0, repository: "", condition: db.enabled, tags: [t], import-values: [{child: a, parent: b}]}
"""
    read = read_chart(
        chart({"Chart.yaml": yaml_of("web", more=more), "charts/db/Chart.yaml": yaml_of("db")}), subject="x"
    )
    assert read.metadata == {
        "apiVersion": "v2",
        "name": "web",
        "version": "1.2.3",
        "appVersion": "1.10",
        "description": "a web server",
        "deprecated": True,
        "keywords": ["a", "1"],
        "maintainers": [{"name": "me", "email": "me@example.com"}],
        "annotations": {"a": "1"},
        "dependencies": [
            {
                "name": "db",
                "version": "1.0.0",
                "condition": "db.enabled",
                "tags": ["t"],
                "import-values": [{"child": "a", "parent": "b"}],
            }
        ],
    }


def test_defaults_of_subcharts_are_found_in_folders_and_packages() -> None:
    files = {
        "Chart.yaml": yaml_of("web", more="appVersion: 1.0\ndependencies: [{name: db, alias: store}, {name: cache}]\n"),
        "values.yaml": "image: {repository: quay.io/a/web, tag: }\n",
        "charts/db/Chart.yaml": yaml_of("db", more="appVersion: 2.0\n"),
        "charts/db/values.yaml": "a: b\n",
    }
    packed = {name: text.encode() for name, text in files.items()}
    packed["charts/cache-1.2.3.tgz"] = chart({"values.yaml": "c: d\n"}, "cache")
    packed["charts/_ignored.tgz"] = b"not a chart"
    assert read_chart(pack("web", packed), subject="x").defaults == ChartDefaults(
        app_version="1.0",
        values={"image": {"repository": "quay.io/a/web", "tag": None}},
        subcharts={
            "store": ChartDefaults(app_version="2.0", values={"a": "b"}),
            "cache": ChartDefaults(values={"c": "d"}),
        },
    )


@pytest.mark.parametrize("key", ["dependencies", "requirements"])
def test_a_dependency_that_is_not_vendored_is_named(key: str) -> None:
    needs = "dependencies: [{name: db, version: 1.x, repository: https://charts.example.com}]\n"
    files = {"Chart.yaml": yaml_of("web", more=needs if key == "dependencies" else "")}
    if key == "requirements":
        files["requirements.yaml"] = needs
    packed = pack("web", {name: text.encode() for name, text in files.items()})
    with pytest.raises(PolicyError, match=r"needs the chart db 1\.x https://charts\.example\.com, which is not in"):
        read_chart(packed, subject="x")


@pytest.mark.parametrize(
    ("packed", "error", "cause"),
    [
        (pack("web", {"values.yaml": b""}), FormatError, "has no Chart.yaml"),
        (pack("other", {"Chart.yaml": yaml_of("web").encode()}), FormatError, "calls itself 'web' in a folder named"),
        (pack("web", {"Chart.yaml": yaml_of("..").encode()}), FormatError, "has the name"),
        (pack("web", {"Chart.yaml": yaml_of('"a\\e[2J"').encode()}), FormatError, "has the name"),
        (pack("web", {"Chart.yaml": yaml_of("web", "1.2").encode()}), FormatError, "is not SemVer"),
        (pack("web", {"Chart.yaml": yaml_of("web", '"1.2.3\\e[2J"').encode()}), FormatError, "is not SemVer"),
        (pack("web", {"Chart.yaml": b"- a"}), FormatError, "is no map"),
        (pack("web", {"Chart.yaml": b"\xff"}), FormatError, "is not UTF-8"),
        (chart({"values.yaml": "a: ["}), FormatError, "is not YAML"),
        (chart({"values.schema.json": "{"}), FormatError, "is not JSON"),
        (chart({"values.schema.json": '{"$ref": "file:///dev/zero"}'}), LimitError, "file:///dev/zero"),
        (chart({"values.schema.json": '{"a": [{"$ref": "other.json"}]}'}), LimitError, "other.json"),
        (chart({"values.schema.json": '{"$ref": "http://example.com/x"}'}), LimitError, "http://example.com"),
        (chart({"values.schema.json": '{"a":' * 101 + "1" + "}" * 101}), LimitError, "nested deeper"),
    ],
)
def test_what_helm_must_not_see_is_refused(packed: bytes, error: type[BundleError], cause: str) -> None:
    with pytest.raises(error) as caught:
        read_chart(packed, subject="chart x")
    assert cause in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_schema_that_refers_to_itself_is_fine() -> None:
    read_chart(chart({"values.schema.json": '{"$ref": "#/$defs/a", "$defs": {"a": {"multipleOf": 0.5}}}'}), subject="x")


def test_a_schema_of_a_subchart_is_looked_at_too() -> None:
    with pytest.raises(LimitError, match=r"web/charts/db/values\.schema\.json"):
        read_chart(
            chart({"charts/db/Chart.yaml": yaml_of("db"), "charts/db/values.schema.json": '{"$ref":"x"}'}), subject="x"
        )


def test_functions_that_look_outside_are_told() -> None:
    template = (
        '{{ $ns := lookup "v1" "Namespace" "" "x" }}{{- if (lookup\n "v1" "Pod" "" "")}}{{ end }}\n'
        '{{ getHostByName "example.com" }} {{ .Values.env }} {{ range $env := .Values.env }}{{ end }} env "x"\n'
        '{{ include "x.env" . }} {{ "lookup" }} {{/* lookup */}}\n'
    )
    read = read_chart(chart({"templates/a.yaml": template, "templates/b.yaml": "{{ .Values.lookup }}"}), subject="x")
    assert read.notes == (
        "web/templates/a.yaml uses getHostByName: it may render differently in the cluster than here",
        "web/templates/a.yaml uses lookup: it may render differently in the cluster than here",
    )


def test_nested_packages_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = chart({"values.yaml": "#" + "x" * 5000}, "db")
    packed = pack("web", {"Chart.yaml": yaml_of("web").encode(), "charts/a.tgz": inner, "charts/b.tgz": inner})
    read_chart(packed, subject="x")
    monkeypatch.setattr(chart_archive, "MAX_UNPACKED_BYTES", 2 * len(inner) + 2 * chart_tar.MAX_FILES // 4)
    with pytest.raises(LimitError, match=r"web/charts/b\.tgz"):
        read_chart(packed, subject="x")


def test_charts_in_charts_have_an_end() -> None:
    packed = chart({})
    for _ in range(chart_archive.MAX_NESTING + 1):
        packed = pack("web", {"Chart.yaml": yaml_of("web").encode(), "charts/web.tgz": packed})
    with pytest.raises(LimitError, match="nests charts deeper"):
        read_chart(packed, subject="x")
