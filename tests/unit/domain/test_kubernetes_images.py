"""Which images the podSpec walk finds."""

from __future__ import annotations

from bundler.domain.kubernetes_images import FoundImage, find_images

EVERYTHING = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      initContainers: [{name: prepare, image: busybox}]
      containers:
      - {name: app, image: "quay.io/shop/app:v1"}
      - {name: side, image: 'quay.io/shop/side@sha256:%s'}
      ephemeralContainers: [{name: debug, image: quay.io/shop/debug:1}]
      volumes:
      - {name: data, image: {reference: quay.io/shop/data:7}}
      - {name: other, configMap: {name: x}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {generateName: nightly-}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: quay.io/shop/cron:1}]}}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: setup, annotations: {helm.sh/hook: "pre-install,pre-upgrade"}}
spec: {template: {spec: {containers: [{name: c, image: quay.io/shop/hook:1}]}}}
---
apiVersion: v1
kind: List
items:
- {kind: Pod, metadata: {name: listed}, spec: {containers: [{name: c, image: quay.io/shop/listed:1}]}}
---
apiVersion: example.com/v1
kind: Database
metadata: {name: db}
spec: {podTemplate: {containers: [{name: c, image: quay.io/shop/db:1}]}, image: not/seen:1, containers: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.example.com}
spec: {containers: [{name: c, image: quay.io/never:1}]}
""" % ("a" * 64)


def test_every_place_where_a_pod_names_an_image_is_found() -> None:
    assert find_images(EVERYTHING, subject="x") == [
        FoundImage(text="busybox", where="Deployment/web: init container prepare"),
        FoundImage(text="quay.io/shop/app:v1", where="Deployment/web: container app"),
        FoundImage(text="quay.io/shop/side@sha256:" + "a" * 64, where="Deployment/web: container side"),
        FoundImage(text="quay.io/shop/debug:1", where="Deployment/web: ephemeral container debug"),
        FoundImage(text="quay.io/shop/data:7", where="Deployment/web: image volume data"),
        FoundImage(text="quay.io/shop/cron:1", where="CronJob/nightly-: container c"),
        FoundImage(text="quay.io/shop/hook:1", where="Job/setup (hook pre-install,pre-upgrade): container c"),
        FoundImage(text="quay.io/shop/listed:1", where="Pod/listed: container c"),
        FoundImage(text="quay.io/shop/db:1", where="Database/db: container c"),
    ]


def test_an_image_behind_a_merge_key_is_found() -> None:
    text = (
        "kind: Pod\nmetadata: {name: p}\nx: &base {image: quay.io/a/b:1}\nspec: {containers: [{<<: *base, name: c}]}\n"
    )
    assert [found.text for found in find_images(text, subject="x")] == ["quay.io/a/b:1"]


def test_an_image_that_a_merge_is_overridden_with_is_the_only_one() -> None:
    text = (
        "kind: Pod\nx: &base {image: quay.io/a/b:1}\nspec: {containers: [{<<: *base, name: c, image: quay.io/a/b:2}]}\n"
    )
    assert [found.text for found in find_images(text, subject="x")] == ["quay.io/a/b:2"]


def test_names_from_a_chart_cannot_break_a_line() -> None:
    text = 'kind: "Pod\\n\\e[2J"\nmetadata: {name: "p\\tq"}\nspec: {containers: [{name: "c\\n", image: a}]}\n'
    assert find_images(text, subject="x")[0].where == "Pod??[2J/p?q: container c?"
