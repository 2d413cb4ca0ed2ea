"""What is measured: one side of a scenario, once, in a process of its own; Python's start is part of it on both sides.

    python -m tests.bench.sides NAME URL FOLDER

Each prints a line of JSON: what it used at most (VmHWM) and what is needed to verify the result.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

READERS = 64
INDEX, TABLE, PACKS, RAW = "index", "table", "packs", "raw"
"""Files of a prepared folder: index and table, all packs one after the other, and the blocks as they are."""


def ours_export(url: str, folder: Path) -> Mapping[str, object]:
    """Export the stub's snapshot into a cache."""
    from bundler.cache import Cache
    from bundler.domain.snapshot import DeviceSnapshot
    from bundler.exports import ExportFolder
    from bundler.stages.export import export
    from tests.bench.stub import SNAPSHOT

    devices = [DeviceSnapshot(device="/dev/xvda", snapshot=SNAPSHOT)]
    made = export(devices, reader=_ebs(url), place=ExportFolder(Cache(folder), key="bench"))
    (folder / INDEX).write_bytes(made.index.raw)
    (folder / TABLE).write_bytes(made.table.raw)
    return {}


def ours_restore(url: str, folder: Path) -> Mapping[str, object]:
    """Restore what was prepared."""
    from bundler.domain.blocks import parse_block_index
    from bundler.domain.packs import parse_pack_table
    from bundler.stages.restore import Owner, plan_restore, restore
    from tests.bench.archive import FilePacks, NoProgress

    index = parse_block_index((folder / INDEX).read_bytes(), subject=INDEX)
    table = parse_pack_table((folder / TABLE).read_bytes(), subject=TABLE)
    plan = plan_restore(
        index, name="bench", owner=Owner(account="111122223333", region="eu-central-1", tags={}), found=()
    )
    with FilePacks(folder / PACKS, table) as packs:
        made = restore(plan, packs=packs, writer=_ebs(url), progress=NoProgress())
    return {"snapshot": made["/dev/xvda"]}


def _ebs(url: str) -> object:
    from bundler.adapters.aws.clients import Aws, AwsSettings
    from bundler.adapters.aws.ebs import EbsDirect
    from bundler.retry import RetryPolicy
    from bundler.transfer import pause

    aws = Aws(AwsSettings(region="eu-central-1", endpoints={"ebs": url}, connections=READERS))
    return EbsDirect(service=aws.service("ebs"), policy=RetryPolicy(sleep=pause))


def boto3_export(url: str, folder: Path) -> Mapping[str, object]:
    """The bare loop: get, SHA-256, write to its place in a file."""
    import base64
    import hashlib
    import os
    from concurrent.futures import ThreadPoolExecutor

    from tests.bench.stub import SNAPSHOT

    size, api = 512 << 10, _boto3(url)
    listed: list[tuple[int, str]] = []
    more: dict[str, str] = {}
    while True:
        page = api.list_snapshot_blocks(SnapshotId=SNAPSHOT, MaxResults=10_000, **more)
        listed += [(item["BlockIndex"], item["BlockToken"]) for item in page["Blocks"]]
        if not page.get("NextToken"):
            break
        more = {"NextToken": page["NextToken"]}
    handle = os.open(folder / RAW, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def get(block: tuple[int, str]) -> None:
        answer = api.get_snapshot_block(SnapshotId=SNAPSHOT, BlockIndex=block[0], BlockToken=block[1])
        content = answer["BlockData"].read()
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert (len(content), checksum) == (size, answer["Checksum"])
        os.pwrite(handle, content, block[0] * size)

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(get, listed))
    os.close(handle)
    return {}


def boto3_restore(url: str, folder: Path) -> Mapping[str, object]:
    """The bare loop: read from a file, SHA-256, put."""
    import base64
    import hashlib
    import os
    from concurrent.futures import ThreadPoolExecutor

    size, api = 512 << 10, _boto3(url)
    numbers = json.loads((folder / "numbers.json").read_bytes())
    snapshot = api.start_snapshot(VolumeSize=numbers["gib"], Description="bench")["SnapshotId"]
    handle = os.open(folder / RAW, os.O_RDONLY)

    def put(number: int) -> bytes:
        content = os.pread(handle, size, number * size)
        digest = hashlib.sha256(content).digest()
        api.put_snapshot_block(
            SnapshotId=snapshot,
            BlockIndex=number,
            BlockData=content,
            DataLength=size,
            Checksum=base64.b64encode(digest).decode(),
            ChecksumAlgorithm="SHA256",
        )
        return digest

    with ThreadPoolExecutor(READERS) as pool:
        digests = list(pool.map(put, numbers["blocks"]))
    api.complete_snapshot(
        SnapshotId=snapshot,
        ChangedBlocksCount=len(digests),
        Checksum=base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode(),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    os.close(handle)
    return {"snapshot": snapshot}


def _boto3(url: str) -> object:
    import boto3
    from botocore.config import Config

    config = Config(
        max_pool_connections=READERS,
        retries={"max_attempts": 8, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("ebs", region_name="eu-central-1", endpoint_url=url, config=config)


def boto3_download(url: str, path: Path) -> Mapping[str, object]:
    """s3://BUCKET/KEY into a file, with what boto3 does by itself."""
    import boto3

    bucket, _, key = url.removeprefix("s3://").partition("/")
    boto3.client("s3").download_file(bucket, key, str(path))
    return {}


SIDES: Mapping[str, Callable[[str, Path], Mapping[str, object]]] = {
    "ours-export": ours_export,
    "ours-restore": ours_restore,
    "boto3-export": boto3_export,
    "boto3-restore": boto3_restore,
    "boto3-download": boto3_download,
}


def main(arguments: list[str]) -> None:
    name, url, folder = arguments
    found = SIDES[name](url, Path(folder))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({**found, "peak_kib": int(peak[1]) if peak else 0}))


if __name__ == "__main__":
    main(sys.argv[1:])
