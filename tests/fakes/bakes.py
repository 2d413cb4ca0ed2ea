"""What a bake was made from, and what became of it, as the lock records them."""

from __future__ import annotations

from bundler.domain.ami import AmiAttributes, AmiDevice, AmiSource, BakedAmi, LockedAmi, NodeFacts
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest

SOURCE = AmiSource(id="ami-0123456789abcdef0", owner="602401143452", region="eu-west-1", name="source")
FACTS = NodeFacts(
    os="Amazon Linux 2023",
    architecture="amd64",
    kernel="6.12",
    containerd="2.1.5",
    runc="1.3.3",
    kubelet="1.36.0",
    nodeadm="v1",
    kubelet_sha256="3" * 64,
    credential_provider_sha256="1" * 64,
    sandbox_image="pause",
)


def blob(text: str) -> Blob:
    return Blob(media_type="application/octet-stream", digest=Digest.of(text.encode()), size=len(text))


def bake_of(ami: LockedAmi, number: int = 0) -> BakedAmi:
    return BakedAmi(
        name=ami.name,
        architecture=ami.architecture,
        inputs=Digest.of(f"{ami.name} {number}".encode()),
        ami=f"ami-0123456789abcde{number:02}",
        account="444455556666",
        region="eu-west-1",
        partition="aws",
        attributes=AmiAttributes(root_device="/dev/xvda", devices=(AmiDevice(device="/dev/xvda", size=20),)),
        facts=FACTS,
        index=blob("index"),
        blocks=3,
        table=blob("table"),
        packs=(blob("pack"),),
        packed_with="0.25.0",
    )
