"""Small charts, and where their images are in a private registry."""

from __future__ import annotations

from collections.abc import Mapping

from bundler.adapters.chart_tar import pack
from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap, PrivateImage, PrivateRegistry
from bundler.domain.reference import Reference

ECR = PrivateRegistry(host="123456789012.dkr.ecr.eu-central-1.amazonaws.com", prefix="eks")

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  replicas: {{ .Values.replicas }}
  selector:
    matchLabels: {app: {{ .Release.Name }}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
    spec:
      containers:
        - name: app
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
          args: ["--helper=quay.io/shop/helper:v2"]
          on: yes
"""
HOOK = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-setup
  annotations:
    helm.sh/hook: post-install,post-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: setup
          image: {{ .Values.hookImage }}
"""
VALUES = """\
image: {repository: quay.io/shop/app, tag: ""}
hookImage: quay.io/shop/hook:v3
replicas: 1
"""
IMAGES = ("quay.io/shop/app:v1", "quay.io/shop/helper:v2", "quay.io/shop/hook:v3")


def chart(files: Mapping[str, str] | None = None, *, name: str = "web", version: str = "1.0.0") -> bytes:
    """A packed chart; without files, a Deployment whose one image the values name."""
    given = {"values.yaml": VALUES, "templates/deployment.yaml": DEPLOYMENT} if files is None else files
    metadata = f"apiVersion: v2\nname: {name}\nversion: {version}\nappVersion: v1\n"
    return pack(name, {path: text.encode() for path, text in {"Chart.yaml": metadata, **given}.items()})


def with_hook() -> bytes:
    """The same chart with a hook."""
    return chart({"values.yaml": VALUES, "templates/deployment.yaml": DEPLOYMENT, "templates/hook.yaml": HOOK})


def private(source: str, *, registry: PrivateRegistry = ECR) -> PrivateImage:
    """An image of the bundle, its digest made of its name."""
    reference, digest = Reference.parse(source), Digest.of(source.encode())
    return PrivateImage(source=reference, digests=frozenset({digest}), target=registry.image(reference).pinned(digest))


def image_map(*sources: str, registry: PrivateRegistry = ECR) -> ImageMap:
    """The map of these images, or of all that the charts here name."""
    return ImageMap.of(registry.host, [private(source, registry=registry) for source in sources or IMAGES])
