"""Definition -> AMIs of the bundle, each pinned by the id of what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bundler.domain.ami import AmiSource, LockedAmi
from bundler.domain.bake import template_digest
from bundler.domain.definition import Ami, Definition, Template
from bundler.domain.digest import Digest
from bundler.domain.lock import LockedImage
from bundler.domain.machine_image import FoundImage, require_portable
from bundler.domain.oci import Platform
from bundler.domain.reference import Reference
from bundler.domain.schema import Architecture
from bundler.errors import DefinitionError, NotFoundUpstreamError, PolicyError

_MACHINES: dict[Architecture, str] = {"amd64": "x86_64", "arm64": "arm64"}
_BOTTLEROCKET = {"standard": "", "nvidia": "-nvidia", "fips": "-fips"}
Kind = Literal["bake", "template", "id", "bottlerocket"]


class Parameters(Protocol):
    """AWS's public parameters."""

    def value(self, name: str) -> str:
        """Return the value of a parameter.

        Raises:
            NotFoundUpstreamError: there is none of that name.
        """
        ...


class Images(Protocol):
    """EC2, describing AMIs."""

    def image(self, ami: str) -> FoundImage | None:
        """Return an AMI, None where this account does not see it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """Where AMIs, and what goes onto them, are looked for.

    Attributes:
        region: of the AMIs.
        parameters: SSM; made only where AWS is to name an AMI.
        images: EC2; made only where there is an AMI to look at.
        folder: relative paths start here (the definition's folder).
        digest_of: what a folder holds, names and content.
    """

    region: str
    parameters: Callable[[], Parameters]
    images: Callable[[], Images]
    folder: Path
    digest_of: Callable[[Path], Digest]


def pin(definition: Definition, *, images: Sequence[LockedImage], sights: Sights) -> tuple[LockedAmi, ...]:
    """Return every AMI of the definition for each of its architectures, by name.

    Args:
        definition: what a person wrote.
        images: the locked images; what an AMI preloads is one of them.
        sights: the outside.

    Raises:
        NotFoundUpstreamError: AWS names no such AMI, or this account does not see it.
        PolicyError: it is not AWS's own, or none that may be carried.
        DefinitionError: a preload that the bundle does not hold, a path that does not exist, another architecture.
    """
    run = _Pin(definition, images, sights)
    return tuple(
        run.one(ami, machine)
        for ami in sorted(definition.amis, key=lambda ami: ami.name)
        for machine in run.architectures(ami)
    )


@dataclass(frozen=True, slots=True)
class _Pin:
    definition: Definition
    images: Sequence[LockedImage]
    sights: Sights

    def architectures(self, ami: Ami) -> Sequence[Architecture]:
        """The architectures of an AMI: its own, or those of the bundle."""
        if ami.architectures is not None:
            return ami.architectures
        carried = {platform.architecture for platform in self.definition.platforms}
        return [machine for machine in _MACHINES if machine in carried]

    def one(self, ami: Ami, machine: Architecture) -> LockedAmi:
        kind = _kind(ami)
        template = ami.ami.template
        return LockedAmi(
            name=ami.name,
            architecture=machine,
            kind=kind,
            source=None if kind == "template" else self._source(ami, machine),
            template=None if template is None else self._template(template),
            preload=tuple(self._preload(ami, machine)) if kind in ("bake", "template") else (),
            certificates=self._file(ami.certificates),
            registry_hosts=None
            if ami.registry_hosts is None
            else self.sights.digest_of(self.sights.folder / ami.registry_hosts),
            floors=ami.floors,
            volume_size=self.definition.builder.volume_size_gib if kind in ("bake", "template") else None,
        )

    def _source(self, ami: Ami, machine: Architecture) -> AmiSource:
        parameter, name = self._named(ami, machine)
        found = self.sights.images().image(name)
        if found is None:
            cause = f"{self.sights.region} has no such AMI, or this account may not see it"
            hint = "Correct the id or builder.region in the definition, or have the AMI shared with this account."
            raise NotFoundUpstreamError(f"AMI {name}", cause, hint=hint)
        if parameter and found.alias != "amazon":
            cause = f"belongs to account {found.owner} and not to AWS, although AWS's parameter {parameter} names it"
            hint = (
                "What answered may not be AWS: check AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_SSM and proxies, then run"
                " bundle lock again. To use an AMI of your own, name it by its id (amis, ami.id)."
            )
            raise PolicyError(found.subject, cause, hint=hint)
        require_portable(found)
        if found.architecture != machine:
            raise DefinitionError(
                f"amis: {ami.name}", f"{found.subject} is for {found.architecture}, the definition says {machine}"
            )
        release = self.sights.parameters().value(_release(parameter)) if parameter and _kind(ami) == "bake" else ""
        return AmiSource(
            id=found.id,
            owner=found.owner,
            region=self.sights.region,
            name=found.name,
            parameter=parameter,
            release=release,
        )

    def _named(self, ami: Ami, machine: Architecture) -> tuple[str, str]:
        """The parameter that names an AMI, empty where a person did, and the AMI's id."""
        if ami.ami.id is not None:
            return "", ami.ami.id
        parameter = self._parameter(ami, machine)
        return parameter, self.sights.parameters().value(parameter)

    def _parameter(self, ami: Ami, machine: Architecture) -> str:
        """EKS user guide, "Retrieve recommended AMI IDs"; Bottlerocket, QUICKSTART-EKS."""
        version, word = self.definition.kubernetes_version, _MACHINES[machine]
        rocket = ami.ami.bottlerocket
        if rocket is not None:
            variant = f"aws-k8s-{version}{_BOTTLEROCKET[rocket.variant]}"
            return f"/aws/service/bottlerocket/{variant}/{word}/{rocket.version or 'latest'}/image_id"
        variant, release = ami.ami.variant or "standard", ami.ami.release
        image = "recommended" if release is None else f"amazon-eks-node-al2023-{word}-{variant}-{version}-{release}"
        return f"/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/{word}/{variant}/{image}/image_id"

    def _preload(self, ami: Ami, machine: Architecture) -> Iterator[Reference]:
        """Core images, and what the AMI asks for; all of the bundle and of that architecture."""
        own = {str(image.reference): image for image in (self._held(ami, reference) for reference in ami.preload)}
        wanted = {str(image.reference): image for image in self._core()} | own
        for text in sorted(wanted):
            if _serves(wanted[text], machine):
                yield wanted[text].reference
            elif text in own:
                cause = f"preloads {text}, which is not carried for linux/{machine}"
                hint = f"Add linux/{machine} to the platforms of the image, or take it out of preload."
                raise DefinitionError(f"amis: {ami.name}", cause, hint=hint)

    def _held(self, ami: Ami, wanted: Reference) -> LockedImage:
        """The image of the bundle that a person means; where they give a digest, it is that one."""
        image = next((one for one in self.images if _is_meant(wanted, one)), None)
        if image is None:
            cause, hint = (
                f"preloads {wanted}, which is no image of the bundle",
                "Add it to images, or correct the name.",
            )
            raise DefinitionError(f"amis: {ami.name}", cause, hint=hint)
        return image

    def _core(self) -> Iterator[LockedImage]:
        for image in self.images:
            if any(evidence.by.startswith("core ") for evidence in image.evidence):
                yield image

    def _template(self, template: Template) -> Digest:
        folder = self.sights.folder / template.folder
        digest = template_digest(template, self.sights.digest_of(folder))
        if not (folder / template.file).is_file():
            raise DefinitionError(str(folder), f"holds no {template.file}", hint="Name the template: template.file.")
        return digest

    def _file(self, name: str | None) -> Digest | None:
        if name is None:
            return None
        try:
            return Digest.of((self.sights.folder / name).read_bytes())
        except OSError as error:
            raise DefinitionError(str(self.sights.folder / name), f"cannot be read: {error.strerror}") from error


def _kind(ami: Ami) -> Kind:
    origin = ami.ami
    if origin.id is not None:
        return "id"
    if origin.bottlerocket is not None:
        return "bottlerocket"
    return "bake" if origin.template is None else "template"


def _serves(image: LockedImage, machine: Architecture) -> bool:
    return any(platform.matches(Platform(os="linux", architecture=machine)) for platform in image.platforms)


def _is_meant(wanted: Reference, image: LockedImage) -> bool:
    if wanted.digest is not None and wanted.digest not in (image.target.digest, image.upstream_digest):
        return False
    return (wanted.name, wanted.tag or image.reference.tag) == (image.reference.name, image.reference.tag)


def _release(parameter: str) -> str:
    return parameter.removesuffix("image_id") + "release_version"
