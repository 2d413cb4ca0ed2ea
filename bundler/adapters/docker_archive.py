"""Images in a `docker save` archive (docker, podman and skopeo write it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeGuard

from bundler.adapters.docker_export import SavedImage, export, read_exported
from bundler.adapters.tar_index import IndexedTar, open_tar
from bundler.cache import Cache
from bundler.domain.oci import MAX_LAYERS, MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_strict_json
from bundler.domain.reference import Reference
from bundler.errors import FormatError, LimitError, NotFoundUpstreamError
from bundler.ports import Sink

MAX_IMAGES = 1000


class DockerArchive:
    """A file that `docker save` wrote. Exported blobs stand in the cache."""

    def __init__(self, path: Path, *, cache: Cache) -> None:
        self._path = path
        self._cache = cache

    def manifest(self, reference: Reference) -> Manifest:
        """Return the image's manifest, after putting all its blobs into the cache.

        Raises:
            NotFoundUpstreamError: no such image in the archive.
            FormatError: not such an archive.
            DigestError: a layer is not what the image's config says.
        """
        archive = open_tar(self._path)
        try:
            images = saved_images(archive, subject=str(self._path))
            image = choose_image(images, reference, subject=str(self._path))
            found = export(archive, image, cache=self._cache, subject=f"{self._path} ({reference.tagged})")
        finally:
            archive.close()
        if reference.digest not in (None, found.digest):
            raise NotFoundUpstreamError(str(reference), f"{self._path} holds {found.digest} under this name")
        return found

    def read_blob(self, name: Reference, blob: Descriptor, sink: Sink, *, restart: Callable[[], None]) -> None:
        """Send an exported blob to `sink`; a lost one is exported again."""
        read_exported(self._cache, blob, sink, restart=restart, again=lambda: self.manifest(name))


def saved_images(archive: IndexedTar, *, subject: str) -> tuple[SavedImage, ...]:
    """Return the images that a `docker save` archive lists.

    Raises:
        FormatError: its manifest.json is not one.
    """
    try:
        raw = archive.read("manifest.json", limit=MAX_MANIFEST_BYTES)
    except NotFoundUpstreamError as error:
        raise FormatError(subject, "is not a docker save archive: it holds no manifest.json") from error
    entries = parse_strict_json(raw, subject=f"{subject}: manifest.json")
    if not isinstance(entries, list) or len(entries) > MAX_IMAGES:
        raise FormatError(subject, f"its manifest.json is not a list of at most {MAX_IMAGES} images")
    return tuple(_saved_image(entry, subject) for entry in entries)


def _saved_image(entry: object, subject: str) -> SavedImage:
    fields: Mapping[str, object] = entry if isinstance(entry, dict) else {}
    config, tags, layers = fields.get("Config"), fields.get("RepoTags") or [], fields.get("Layers")
    if not isinstance(config, str) or not _is_text_list(tags) or not _is_text_list(layers):
        raise FormatError(subject, "its manifest.json has an entry without Config and Layers")
    if len(layers) > MAX_LAYERS:
        raise LimitError(subject, f"has an image of {len(layers)} layers; at most {MAX_LAYERS} are allowed")
    return SavedImage(config=config, tags=tuple(tags), layers=tuple(layers))


def _is_text_list(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def choose_image(images: tuple[SavedImage, ...], reference: Reference, *, subject: str) -> SavedImage:
    """Return the image that bears the reference's tag; a single one without any tag serves too.

    Raises:
        NotFoundUpstreamError: there is none, with the tags that there are.
    """
    tags = [tag for image in images for tag in image.tags]
    found = next((image for image in images if any(_names(tag, reference) for tag in image.tags)), None)
    if found is None and len(images) == 1 and not tags:
        found = images[0]
    if found is None:
        raise NotFoundUpstreamError(str(reference), f"{subject} holds {', '.join(tags[:20]) or 'no such image'}")
    return found


def _names(tag: str, reference: Reference) -> bool:
    try:
        return Reference.parse(tag).tagged == reference.tagged
    except FormatError:
        return False
