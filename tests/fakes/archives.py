"""Small archives: honest ones by our own writer, and forged ones whose maker holds a trusted key and means harm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundler.archive.header import member_header, padding
from bundler.archive.layout import Layout, plan_layout
from bundler.archive.metadata import closure_report, provenance, sbom
from bundler.archive.root import ROOT_PATH, ROOT_TYPE, root_payload, slot_bytes
from bundler.archive.writer import ArchiveWriter
from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.domain.lock import (
    Blob,
    Evidence,
    Lock,
    LockedChart,
    LockedFile,
    LockedImage,
    LockedManifest,
    LockedTool,
    parse_lock,
)
from bundler.domain.oci import (
    HELM_CHART,
    HELM_CONFIG,
    OCI_MANIFEST,
    Index,
    Manifest,
    Platform,
    derive_index,
    parse_manifest,
)
from bundler.domain.reference import Reference
from bundler.envelope import PublicKey, Signer, encode_base64
from bundler.errors import FormatError
from bundler.trust import TRUST_TYPE, TrustRoot, parse_trust_chain
from tests.fakes.images import FakeImage, attestation, image, index, layer_bytes

Contents = Mapping[Digest, bytes]


def signer(seed: int = 1) -> Signer:
    """A key that is the same in every run, and no secret."""
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def trust_payload(
    keys: list[PublicKey], *, version: int = 1, threshold: int = 1, bundle: list[PublicKey] | None = None
) -> bytes:
    """A trust root that gives `keys` the root role, and `bundle` (else them too) the bundle role."""

    def role(members: list[PublicKey]) -> dict[str, object]:
        return {"keyIds": [key.key_id for key in members], "threshold": threshold}

    everybody = {key.key_id: encode_base64(key.der) for key in (*keys, *(bundle or []))}
    roles = {"root": role(keys), "bundle": role(keys if bundle is None else bundle)}
    return canonical_json({"keys": everybody, "roles": roles, "version": version})


def signed(payload: bytes, *signers: Signer, payload_type: str = TRUST_TYPE) -> bytes:
    """The envelope of `payload` with the signatures of all `signers`."""
    envelopes = [json.loads(one.sign(payload, payload_type)) for one in signers]
    envelopes[0]["signatures"] = [entry for envelope in envelopes for entry in envelope["signatures"]]
    return canonical_json(envelopes[0])


def trust_json(*envelopes: bytes) -> bytes:
    """The trust.json of a chain."""
    return b"[" + b",".join(envelopes) + b"]\n"


def trust_of(*signers: Signer) -> bytes:
    """The trust.json of version 1 with `signers` in both roles."""
    keys = [one.public_key for one in signers]
    return trust_json(signed(trust_payload(keys), *signers))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A lock, the content of every blob it names, and who signs."""

    lock: Lock
    blobs: Contents
    signer: Signer = field(default_factory=signer)

    @property
    def trust_json(self) -> bytes:
        return trust_of(self.signer)

    @property
    def trust(self) -> TrustRoot:
        return parse_trust_chain(self.trust_json, source="trust.json")

    @property
    def layout(self) -> Layout:
        return plan_layout(
            self.lock,
            generated={
                "trust.json": self.trust_json,
                "closure.json": closure_report(self.lock),
                "sbom.cdx.json": sbom(self.lock),
                "provenance.json": provenance(self.lock, definition=self.lock.definition, tool_version="0.0.0"),
            },
        )

    def build(self, folder: Path, *, failpoint: Callable[[str], None] = lambda name: None) -> Path:
        """Build, or go on building, the archive in `folder`."""
        path = folder / f"{self.lock.name}-{self.lock.sequence}.tar"
        with ArchiveWriter(path, self.layout, failpoint=failpoint) as writer:
            for member in writer.missing():
                place = writer.write_at(member)
                content = memoryview(self.blobs[member.digest])
                for start in range(0, len(content), 1000):
                    place.write(content[start : start + 1000])
                place.commit()
            return writer.seal(self.signer)


def sample(**changes: object) -> Sample:
    """A bundle with one of everything: raw, derived and single images, attestation, Docker types, chart, tool, file."""
    shared = layer_bytes("shared", 900)
    amd, arm = (
        image(f"pause {platform}", platform=platform, layers=[shared, layer_bytes(platform, 300)])
        for platform in ("linux/amd64", "linux/arm64")
    )
    proof = attestation(amd)
    whole = index(amd, arm, extra=[proof])
    wide = index(image("coredns", layers=[shared]), image("coredns", platform="linux/s390x"))
    docker = image("metrics", docker=True)
    tool, file = layer_bytes("helm", 1500), b""
    blobs: dict[Digest, bytes] = {Digest.of(content): content for content in (tool, file)}
    images = [
        locked_image("registry.k8s.io/pause:3.10", whole, blobs),
        locked_image("public.ecr.aws/eks/coredns:v1", wide, blobs, keep="linux/amd64"),
        locked_image("registry.k8s.io/metrics-server/metrics-server:v0.7", docker, blobs),
    ]
    lock = Lock(
        name="sample",
        sequence=7,
        created="2026-01-02T03:04:05Z",
        definition=Digest.of(b"definition"),
        kubernetes_version="1.34",
        platforms=(Platform.parse("linux/amd64"),),
        operator_platforms=(Platform.parse("linux/amd64"),),
        images=tuple(sorted(images, key=lambda one: str(one.reference))),
        charts=(_chart(blobs),),
        tools=(LockedTool(name="helm", version="3.19.0", platform=Platform.parse("linux/amd64"), content=_blob(tool)),),
        files=(LockedFile(name="empty", purpose="an empty file", content=_blob(file)),),
    )
    return Sample(lock=lock.model_copy(update=changes), blobs=blobs)


def _blob(content: bytes, media_type: str = "application/octet-stream") -> Blob:
    return Blob(media_type=media_type, digest=Digest.of(content), size=len(content))


def locked_image(name: str, made: FakeImage, blobs: dict[Digest, bytes], *, keep: str | None = None) -> LockedImage:
    """`made` as a lock has it, its content added to `blobs`; with `keep`, an index derived for that platform alone."""
    found = parse_manifest(made.raw, subject=name)
    blobs.update(made.blobs)
    blobs.update({digest: raw for digest, (_, raw) in made.manifests.items()})
    target, upstream, wanted = _blob(made.raw, made.media_type), None, list(made.manifests)
    if keep is not None:
        assert isinstance(found, Index)
        child = next(entry for entry in found.manifests if str(entry.platform) == keep)
        derived = derive_index(found, keep=[child.digest])
        blobs[Digest.of(derived)] = derived
        target, upstream, wanted = _blob(derived, made.media_type), target, [child.digest]
    return LockedImage(
        reference=Reference.parse(name),
        target=target,
        form="derived" if keep else "index" if len(wanted) > 1 else "manifest",
        upstream=upstream,
        manifests=tuple(_manifest(blobs[digest]) for digest in wanted if b'"config"' in blobs[digest]),
        origin="registry",
        evidence=(Evidence(by="chart core", where="Deployment/x"),),
    )


def _manifest(raw: bytes) -> LockedManifest:
    found = parse_manifest(raw, subject="sample")
    assert isinstance(found, Manifest)
    is_proof = b"statement" in raw
    return LockedManifest(
        media_type=found.media_type,
        digest=found.digest,
        size=len(raw),
        platform=None if is_proof else Platform.parse("linux/amd64"),
        blobs=tuple(Blob.of(blob) for blob in found.blobs),
    )


def _chart(blobs: dict[Digest, bytes]) -> LockedChart:
    config, content = b'{"name":"core","version":"1.0.0+a"}', layer_bytes("chart", 800)
    parts = (_blob(config, HELM_CONFIG), _blob(content, HELM_CHART))
    descriptors = [{"mediaType": part.media_type, "digest": str(part.digest), "size": part.size} for part in parts]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptors[0], "layers": descriptors[1:]}
    raw = canonical_json(document)
    blobs.update({Digest.of(one): one for one in (config, content, raw)})
    manifest = LockedManifest(media_type=OCI_MANIFEST, digest=Digest.of(raw), size=len(raw), blobs=parts)
    return LockedChart(name="core", version="1.0.0+a", origin="path", manifest=manifest)


class MemorySource:
    """An archive in memory (ports.ByteSource)."""

    def __init__(self, content: bytes | bytearray, name: str = "sample-7.tar") -> None:
        self.content = content
        self.name = name
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise FormatError(self.name, "is cut")
        return bytes(self.content[offset : offset + length])

    def stream(self, offset: int, length: int) -> Iterator[memoryview]:
        content = memoryview(self.read_at(offset, length))
        for start in range(0, length, 700):
            yield content[start : start + 700]


@dataclass(kw_only=True)
class Forgery:
    """An archive put together by hand and signed with a trusted key, with anything in it changed.

    Attributes:
        root: the root's document; sizes and digests of trust.json and members.jsonl are filled in.
        lines: the lines of members.jsonl.
        contents: path -> content of each member after members.jsonl, in order.
        headers: path -> header, where it is not the one that belongs there.
        paddings: path -> what follows the content instead of zeros.
        table: members.jsonl itself, where it is not simply the lines.
        tables: `trust` or `members` -> what the root says of it instead of the truth.
        tail: further members, as bytes, before the end.
        payload: what is signed, where it is not simply the root.
    """

    sample: Sample
    root: dict[str, object]
    lines: list[dict[str, object]]
    contents: dict[str, bytes]
    headers: dict[str, bytes] = field(default_factory=dict)
    paddings: dict[str, bytes] = field(default_factory=dict)
    table: bytes | None = None
    tables: dict[str, dict[str, object]] = field(default_factory=dict)
    payload: bytes | None = None
    trust: bytes = b""
    slot: int | None = None
    slot_fill: bytes = b" "
    signers: tuple[Signer, ...] = ()
    payload_type: str = ROOT_TYPE
    tail: bytes = b""
    end: bytes = bytes(1024)

    @classmethod
    def of(cls, made: Sample) -> Forgery:
        """The honest archive, ready to be changed."""
        layout = made.layout
        later = layout.members[2:]
        return cls(
            sample=made,
            root=json.loads(root_payload(layout.root)),
            lines=[{"path": m.path, "role": m.role, "sha256": m.digest.hex, "size": m.size} for m in later],
            contents={m.path: layout.generated.get(m.path, made.blobs.get(m.digest, b"")) for m in later},
            trust=made.trust_json,
            signers=(made.signer,),
        )

    def relock(self, lock: bytes) -> None:
        """Carry another lock."""
        self.contents["lock.json"] = lock
        self.lines[0] |= {"sha256": Digest.of(lock).hex, "size": len(lock)}

    def relist(self) -> None:
        """Make the totals follow the lines."""
        self.root["totals"] = {
            "contentBytes": sum(int(str(line["size"])) for line in self.lines),
            "members": len(self.lines),
        }

    def bytes(self) -> bytes:
        """The archive."""
        table = self.table if self.table is not None else b"".join(canonical_json(line) + b"\n" for line in self.lines)
        for name, path, content in (("trust", "trust.json", self.trust), ("members", "members.jsonl", table)):
            truth: dict[str, object] = {"path": path, "sha256": Digest.of(content).hex, "size": len(content)}
            self.root[name] = truth | self.tables.get(name, {})
        payload = canonical_json(self.root) if self.payload is None else self.payload
        slot = slot_bytes(payload) if self.slot is None else self.slot
        envelope = signed(payload, *self.signers, payload_type=self.payload_type)
        parts = [self.headers.get(ROOT_PATH, member_header(ROOT_PATH, slot)), envelope.ljust(slot, self.slot_fill)]
        for path, content in {"trust.json": self.trust, "members.jsonl": table, **self.contents}.items():
            parts.append(self.headers[path] if path in self.headers else member_header(path, len(content)))
            parts += [content, self.paddings.get(path, bytes(padding(len(content))))]
        return b"".join([*parts, self.tail, self.end])


def blob_path(made: Sample, role: str) -> str:
    """The path of the first blob with that role that has content."""
    return next(m.path for m in made.layout.blobs if m.role == role and m.size)


def relocked(made: Sample, change: Callable[[dict[str, object]], None]) -> bytes:
    """The sample's lock with `change` made to its document."""
    document = json.loads(made.layout.generated["lock.json"])
    change(document)
    raw = (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    parse_lock(raw, source="lock.json")
    return raw
