"""What a bake is asked for: definition and lock, in the words of the stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundler.archive.payload import Payload, folder_digest, write_payload
from bundler.cache import Cache
from bundler.domain.ami import BakedAmi, LockedAmi, NodeFacts
from bundler.domain.bake import BAKE_TAG, bake_inputs, template_digest
from bundler.domain.blob import Blob
from bundler.domain.definition import Ami, Definition, Template
from bundler.domain.digest import Digest
from bundler.domain.lock import Lock
from bundler.domain.node_facts import check_facts, parse_node_facts
from bundler.domain.packer_job import PackerJob
from bundler.domain.preload import Preload, expected_names, plan_preload
from bundler.errors import LockChangedError
from bundler.stages.bake import TEMPLATE_TAG, BakeRequest

FetchBlobs = Callable[[Lock, tuple[Blob, ...]], None]
"""Brings blobs of the lock's images into the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where bakes are made.

    Attributes:
        account: 12 digits, of the credentials.
        template: folder of our own template.
    """

    account: Callable[[], str]
    region: str
    template: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeRequests:
    """Makes the request of each AMI of a lock.

    Attributes:
        folder: relative paths of the definition start here.
        work: the folder of a bake, by its inputs.
        fetch: brings what is preloaded into the cache.
    """

    definition: Definition
    lock: Lock
    folder: Path
    cache: Cache
    workshop: Workshop
    work: Callable[[Digest], Path]
    fetch: FetchBlobs

    def inputs(self, ami: LockedAmi) -> Digest:
        """Return the digest of everything that a bake depends on."""
        if not ami.is_baked:
            return bake_inputs(self.lock, ami, template=None)
        template, key = folder_digest(self.workshop.template), self.definition.builder.kms_key
        return bake_inputs(self.lock, ami, template=template, kms_key=key)

    def check(self, ami: LockedAmi, baked: BakedAmi) -> None:
        """Check again what an AMI said of itself: the bundle may ask for more than it did then."""
        if baked.facts is not None:
            self._check(ami, baked.facts)

    def request(
        self, ami: LockedAmi, inputs: Digest, *, again: bool = False, recorded: BakedAmi | None = None
    ) -> BakeRequest:
        """Return what to ask for; `recorded` where the lock says what it became."""
        preloads = plan_preload(ami, self.lock)
        wanted = next(one for one in self.definition.amis if one.name == ami.name)

        def check(raw: bytes) -> NodeFacts:
            facts = parse_node_facts(raw, subject=f"facts of the AMI {ami.name} {ami.architecture}")
            self._check(ami, facts)
            return facts

        return BakeRequest(
            ami=ami,
            inputs=inputs,
            account=self.workshop.account(),
            region=self.workshop.region,
            template=self.workshop.template,
            variables=self._variables(ami, wanted),
            team=None if wanted.ami.template is None else self._team(ami, wanted.ami.template, inputs),
            payload=lambda: self._payload(ami, wanted, inputs, preloads),
            facts_file=self.work(inputs) / "facts",
            check=check,
            again=again,
            recorded=recorded,
        )

    def _variables(self, ami: LockedAmi, wanted: Ami) -> dict[str, str]:
        builder, template = self.definition.builder, wanted.ami.template
        given = {
            "region": self.workshop.region,
            "instance_type": builder.instance_types.get(ami.architecture, ""),
            "subnet_id": builder.subnet,
            "security_group_id": builder.security_group,
            "iam_instance_profile": builder.instance_profile,
            "kms_key_id": builder.kms_key,
            "volume_size": str(ami.volume_size or ""),
            "ssh_interface": builder.ssh_interface,
            "ssh_username": "ec2-user" if template is None else template.builder_user,
        }
        return {key: value for key, value in given.items() if value}

    def _check(self, ami: LockedAmi, facts: NodeFacts) -> None:
        expected = expected_names(plan_preload(ami, self.lock))
        check_facts(facts, ami=ami, kubernetes_version=self.lock.kubernetes_version, expected=expected)

    def _team(self, ami: LockedAmi, template: Template, inputs: Digest) -> PackerJob:
        folder = self.folder / template.folder
        digest = template_digest(template, folder_digest(folder))
        if digest != ami.template:
            raise LockChangedError(str(folder), "is another template than the lock pins, or has other variables")
        return PackerJob(
            name=f"{ami.name} {ami.architecture}, your template",
            run=inputs,
            folder=folder,
            file=template.file,
            variables=template.variables,
            tags={TEMPLATE_TAG: str(digest), BAKE_TAG: str(inputs)},
        )

    def _payload(self, ami: LockedAmi, wanted: Ami, inputs: Digest, preloads: tuple[Preload, ...]) -> Path:
        """Make the folder that the builder is sent: what is preloaded comes into the cache for it."""
        self.fetch(self.lock, tuple(blob for preload in preloads for blob in preload.blobs))
        folder = self.work(inputs) / "payload"
        payload = Payload(
            ami=ami,
            preloads=preloads,
            scripts=self.workshop.template,
            certificates=None if wanted.certificates is None else self.folder / wanted.certificates,
            hosts=None if wanted.registry_hosts is None else self.folder / wanted.registry_hosts,
        )
        write_payload(folder, payload, read=self.cache.read)
        return folder
