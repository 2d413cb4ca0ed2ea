"""moto's ECR corrected: what the API tells is what the registry holds.

moto makes digests of layer digests, takes images without layers, has tokens of 2015 that never end, and no registry.
Repositories, policies and tags of the API stay moto's.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from typing import Any, TypeVar

from moto.core.responses import ActionResult
from moto.ecr import urls
from moto.ecr.models import ecr_backends
from moto.ecr.responses import ECRResponse

from bundler.domain.digest import Digest
from bundler.errors import FormatError
from bundler.lab.ecr import EcrRules, EcrSettings, Tokens
from bundler.lab.moto_patch import Refused, route_all
from bundler.lab.registry import Registry, read_manifest, references_of
from bundler.lab.registry_refusal import RegistryError
from bundler.lab.registry_store import RegistryStore, Repository, StoredManifest

Result = TypeVar("Result")
PAGE_ITEMS = 100
PART_BYTES = 20 << 20
_API_CODES = {
    "NAME_UNKNOWN": "RepositoryNotFoundException",
    "TAG_INVALID": "ImageTagAlreadyExistsException",
    "BLOB_UNKNOWN": "LayersNotFoundException",
    "MANIFEST_BLOB_UNKNOWN": "ReferencedImagesNotFoundException",
    "DIGEST_INVALID": "ImageDigestDoesNotMatchException",
    "BLOB_UPLOAD_INVALID": "LayerPartTooSmallException",
}


def find_settings(account: str, region: str) -> Callable[[str], Any]:
    """Return what finds a repository of the API by name."""
    return ecr_backends[account][region].repositories.get


def correct_ecr(
    registry: Registry, store: RegistryStore, rules: EcrRules, *, settings: EcrSettings, tokens: Tokens
) -> None:
    """Put the corrected responses in moto's place, over this registry."""
    LabEcrResponse.registry = registry
    LabEcrResponse.store = store
    LabEcrResponse.rules = rules
    LabEcrResponse.settings = settings
    LabEcrResponse.tokens = tokens
    route_all(urls.url_paths, LabEcrResponse.dispatch)


class LabEcrResponse(ECRResponse):
    """The operations of ECR that deal with images, layers, tokens and account settings."""

    registry: Registry
    store: RegistryStore
    rules: EcrRules
    settings: EcrSettings
    tokens: Tokens

    def get_authorization_token(self) -> ActionResult:
        """A token that ends."""
        token, ends = self.tokens.issue()
        data = {
            "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
            "expiresAt": dt.datetime.fromtimestamp(ends, dt.UTC),
            "proxyEndpoint": f"https://{self.rules.host}",
        }
        return ActionResult({"authorizationData": [data]})

    def get_account_setting(self) -> ActionResult:
        """BLOB_MOUNTING is DISABLED until somebody enables it."""
        name = self._get_param("name")
        values = {
            "BLOB_MOUNTING": "ENABLED" if self.settings.blob_mounting else "DISABLED",
            "BASIC_SCAN_TYPE_VERSION": "AWS_NATIVE",
        }
        if name not in values:
            raise Refused("InvalidParameterException", f"Invalid parameter at 'name': {name}")
        return ActionResult({"name": name, "value": values[name]})

    def put_account_setting(self) -> ActionResult:
        """Only BLOB_MOUNTING means anything here."""
        name, value = self._get_param("name"), self._get_param("value")
        if name != "BLOB_MOUNTING" or value not in ("ENABLED", "DISABLED"):
            raise Refused("InvalidParameterException", f"Invalid parameter: {name}={value}")
        self.settings.blob_mounting = value == "ENABLED"
        return ActionResult({"name": name, "value": value})

    def describe_repositories(self) -> ActionResult:
        """Answer in pages."""
        names, registry = self._get_param("repositoryNames"), self._get_param("registryId")
        found = self.ecr_backend.describe_repositories(repository_names=names, registry_id=registry)
        page, token = self._page(sorted(found, key=lambda repository: repository.name))
        return ActionResult({"repositories": page, "nextToken": token})

    def delete_repository(self) -> ActionResult:
        """Images go with their repository, and only with `force`."""
        repository = self._repository()
        if repository.manifests and not self._get_param("force"):
            message = (
                f"The repository with name '{repository.name}' in registry with id '{self.current_account}' "
                "cannot be deleted because it still contains images"
            )
            raise Refused("RepositoryNotEmptyException", message)
        self.store.forget(repository.name)
        return super().delete_repository()

    def put_image(self) -> ActionResult:
        """Store a manifest by the API; the same checks as by the registry."""
        repository, tag = self._repository(), self._get_param("imageTag")
        raw = self._get_param("imageManifest").encode()
        media_type = self._get_param("imageManifestMediaType") or _own_media_type(raw)
        manifest = _translated(lambda: read_manifest(raw, media_type))
        stated = self._get_param("imageDigest")
        if stated is not None and stated != manifest.digest.text:
            message = f"The image digest '{stated}' does not match {manifest.digest}"
            raise Refused("ImageDigestDoesNotMatchException", message)
        if manifest.digest in repository.manifests and repository.tags.get(tag, manifest.digest) == manifest.digest:
            message = f"Image with digest '{manifest.digest}' and tag '{tag}' already exists in '{repository.name}'"
            if tag is None or tag in repository.tags:
                raise Refused("ImageAlreadyExistsException", message)
        _translated(lambda: self.registry.store_manifest(repository, manifest, tag=tag))
        return ActionResult({"image": self._image(repository, manifest, tag)})

    def list_images(self) -> ActionResult:
        """One entry for each tag, or for a digest without one."""
        repository = self._repository()
        with self.store.lock:
            ids = [
                {"imageDigest": digest.text, **({"imageTag": tag} if tag else {})}
                for digest in sorted(repository.manifests)
                for tag in repository.tags_of(digest) or [""]
            ]
        wanted = (self._get_param("filter") or {}).get("tagStatus", "ANY")
        page, token = self._page([item for item in ids if wanted in ("ANY", _status(item))])
        return ActionResult({"imageIds": page, "nextToken": token})

    def describe_images(self) -> ActionResult:
        """What was really pushed, under its real digest."""
        repository, asked = self._repository(), self._get_param("imageIds")
        with self.store.lock:
            if asked:
                found = {item.digest: item for item in (self._find(repository, image) for image in asked)}
            else:
                found = dict(repository.manifests)
            details = [self._detail(repository, found[digest]) for digest in sorted(found)]
        page, token = self._page(details)
        return ActionResult({"imageDetails": page, "nextToken": token})

    def batch_get_image(self) -> ActionResult:
        """Manifests by tag or digest; what is not there is listed under failures."""
        repository, images, failures = self._repository(), [], []
        for asked in self._get_param("imageIds"):
            with self.store.lock:
                found = repository.find(asked.get("imageDigest") or asked.get("imageTag", ""))
            if found is None:
                reason = "Requested image not found"
                failures.append({"imageId": asked, "failureCode": "ImageNotFound", "failureReason": reason})
            else:
                images.append(self._image(repository, found, asked.get("imageTag")))
        return ActionResult({"images": images, "failures": failures})

    def batch_check_layer_availability(self) -> ActionResult:
        """Which layers the repository has, with their sizes."""
        repository, layers, failures = self._repository(), [], []
        for text in self._get_param("layerDigests"):
            digest = _parse_digest(text)
            if digest is None:
                reason = "Invalid layer digest"
                failures.append({"layerDigest": text, "failureCode": "InvalidLayerDigest", "failureReason": reason})
            elif self.store.holds(repository, digest):
                size = self.store.blob(digest).stat().st_size
                layers.append({"layerDigest": text, "layerAvailability": "AVAILABLE", "layerSize": size})
            else:
                layers.append({"layerDigest": text, "layerAvailability": "UNAVAILABLE"})
        return ActionResult({"layers": layers, "failures": failures})

    def initiate_layer_upload(self) -> ActionResult:
        """Open an upload session, the same kind as the registry's."""
        upload = self.store.start_upload(self._repository())
        return ActionResult({"uploadId": upload.id, "partSize": PART_BYTES})

    def upload_layer_part(self) -> ActionResult:
        """Append a part that begins where the last one ended."""
        repository = self._repository()
        upload = self.store.upload(repository, self._get_param("uploadId"))
        if upload is None:
            raise Refused("UploadNotFoundException", "The upload could not be found")
        if self._get_param("partFirstByte") != upload.received:
            message = f"First byte of the layer part is {self._get_param('partFirstByte')} instead of {upload.received}"
            raise Refused("InvalidLayerPartException", message)
        upload.write([base64.b64decode(self._get_param("layerPartBlob"))])
        answer = {"repositoryName": repository.name, "uploadId": upload.id, "lastByteReceived": upload.received - 1}
        return ActionResult({**answer, "registryId": self.current_account})

    def complete_layer_upload(self) -> ActionResult:
        """Make a layer of the parts; its digest is checked."""
        repository, digest = self._repository(), _parse_digest(self._get_param("layerDigests")[0])
        upload = self.store.upload(repository, self._get_param("uploadId"))
        if upload is None:
            raise Refused("UploadNotFoundException", "The upload could not be found")
        _translated(lambda: self.rules.check_upload(upload))
        if digest is None or upload.digest != digest:
            raise Refused("InvalidLayerException", "The layer digest does not match the uploaded content")
        if self.store.holds(repository, digest):
            raise Refused("LayerAlreadyExistsException", f"Layer with digest '{digest}' already exists")
        self.store.finish_upload(repository, upload)
        answer = {"repositoryName": repository.name, "uploadId": upload.id, "layerDigest": digest.text}
        return ActionResult({**answer, "registryId": self.current_account})

    def batch_delete_image(self) -> ActionResult:
        """Take tags or images away (bundle prune, later): a digest with all its tags."""
        repository, done, failures = self._repository(), [], []
        for asked in self._get_param("imageIds"):
            with self.store.lock:
                found = repository.find(asked.get("imageDigest") or asked.get("imageTag", ""))
                if found is None:
                    failures.append({"imageId": asked, "failureCode": "ImageNotFound", "failureReason": "not found"})
                    continue
                gone = [asked["imageTag"]] if "imageTag" in asked else repository.tags_of(found.digest)
                for tag in gone:
                    repository.tags.pop(tag, None)
                if not repository.tags_of(found.digest):
                    repository.manifests.pop(found.digest, None)
                done.append({"imageDigest": found.digest.text, **asked})
        return ActionResult({"imageIds": done, "failures": failures})

    def _repository(self) -> Repository:
        return _translated(lambda: self.rules.existing(self._get_param("repositoryName")))

    def _find(self, repository: Repository, asked: dict[str, str]) -> StoredManifest:
        found = repository.find(asked.get("imageDigest") or asked.get("imageTag", ""))
        if found is None:
            shown = f"{{imageDigest:'{asked.get('imageDigest', 'null')}', imageTag:'{asked.get('imageTag', 'null')}'}}"
            message = (
                f"The image with imageId {shown} does not exist within the repository with name "
                f"'{repository.name}' in the registry with id '{self.current_account}'"
            )
            raise Refused("ImageNotFoundException", message)
        return found

    def _image(self, repository: Repository, manifest: StoredManifest, tag: str | None) -> dict[str, object]:
        image_id = {"imageDigest": manifest.digest.text, **({"imageTag": tag} if tag else {})}
        return {
            "registryId": self.current_account,
            "repositoryName": repository.name,
            "imageId": image_id,
            "imageManifest": manifest.raw.decode(),
            "imageManifestMediaType": manifest.media_type,
        }

    def _detail(self, repository: Repository, manifest: StoredManifest) -> dict[str, object]:
        tags = repository.tags_of(manifest.digest)
        config = manifest.document.get("config")
        detail: dict[str, object] = {
            "registryId": self.current_account,
            "repositoryName": repository.name,
            "imageDigest": manifest.digest.text,
            "imageSizeInBytes": _size(repository, manifest),
            "imagePushedAt": manifest.pushed_at,
            "imageManifestMediaType": manifest.media_type,
        }
        if isinstance(config, dict):
            detail["artifactMediaType"] = config.get("mediaType")
        return {**detail, "imageTags": tags} if tags else detail

    def _page(self, items: list[Any]) -> tuple[list[Any], str | None]:
        """Return one page (`maxResults`, `nextToken`) and the token of the next."""
        start = int(self._get_param("nextToken") or 0)
        end = start + int(self._get_param("maxResults") or PAGE_ITEMS)
        return items[start:end], str(end) if end < len(items) else None


def _translated(action: Callable[[], Result]) -> Result:
    try:
        return action()
    except RegistryError as error:
        raise Refused(_API_CODES.get(error.code, "InvalidParameterException"), error.message) from error


def _own_media_type(raw: bytes) -> str:
    return str(json.loads(raw).get("mediaType", ""))


def _parse_digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except FormatError:
        return None


def _status(image_id: dict[str, str]) -> str:
    return "TAGGED" if "imageTag" in image_id else "UNTAGGED"


def _size(repository: Repository, manifest: StoredManifest) -> int:
    """Layers of an image; of an index the largest of its images (ECR API Reference, ImageDetail)."""
    if not manifest.is_index:
        return manifest.layer_bytes
    children = [repository.manifests.get(digest) for digest in references_of(manifest)]
    return max((child.layer_bytes for child in children if child is not None), default=0)
