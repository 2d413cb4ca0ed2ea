"""EBS direct APIs: snapshots block by block, every block with its SHA-256 (EBS direct APIs reference)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from bundler.adapters.aws.clients import MAX_PAGES, Answer, Service
from bundler.adapters.aws.direct import Plain
from bundler.domain.blocks import BLOCK_BYTES, BLOCKS_PER_GIB, MAX_VOLUME_GIB
from bundler.domain.snapshot import BlockList, ListedBlock, NewSnapshot, SnapshotBlocks
from bundler.errors import ConflictError, NetworkError, RejectedError, TransientError
from bundler.retry import RetryPolicy, retry

Result = TypeVar("Result")
_PAGE = 10_000
LONGEST_PAUSE_MIN = 4320
"""How long a snapshot may wait for its next block: the most that StartSnapshot takes."""
_BEGIN_AGAIN = "Run the same command again: it finds what is there, and begins a new snapshot where it must."
_ABSENT = "ResourceNotFoundException"
_ALGORITHM = "SHA256"


@dataclass(slots=True)
class _Moved:
    """How many blocks went through, of all threads: only ever a hint that something moves."""

    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EbsDirect:
    """Reads snapshots; any number of threads at a time.

    Attributes:
        service: `ebs`, with as many connections as there are threads.
        policy: for blocks that come damaged; what AWS itself asks to repeat, botocore repeats.
    """

    service: Service
    policy: RetryPolicy
    _moved: _Moved = field(default_factory=_Moved)

    def blocks(self, snapshot: str) -> SnapshotBlocks:
        """Return the written blocks of a snapshot, ascending, with the tokens to read them (they live seven days).

        Raises:
            ConflictError: the snapshot does not exist, or is not complete.
            NetworkError: also for a list that is out of order or without end.
        """
        found, last, token = BlockList(), -1, None
        for _ in range(MAX_PAGES):
            page = self._page(snapshot, token)
            for block in page["Blocks"]:
                if block.number <= last:
                    raise NetworkError(f"snapshot {snapshot}", "its list of blocks is out of order")
                found.add(block)
                last = block.number
            token = page.get("NextToken")
            if token is None:  # a page may be empty and not the last
                return SnapshotBlocks(snapshot=snapshot, gib=page["VolumeSize"], blocks=found)
        raise NetworkError(f"snapshot {snapshot}", f"its list of blocks has more than {MAX_PAGES} pages")

    def read(self, snapshot: str, block: ListedBlock, *, progress: Callable[[], int]) -> tuple[bytes, bytes]:
        """Return a block and its raw SHA-256, checked.

        Args:
            snapshot: id.
            block: as `blocks` listed it.
            progress: grows when anything of the snapshot is read; that renews the budget of tries.

        Raises:
            NetworkError: it comes damaged however often it is asked for.
        """
        about = _about(snapshot, block.number)
        return self._patiently(lambda: self._read(snapshot, block, about), about, progress)

    def start(self, wanted: NewSnapshot) -> str:
        """Start a snapshot, or return the one that the same request started before; return its id.

        Raises:
            ConflictError: the parent does not exist, or the token was used for something else.
        """
        more: dict[str, object] = {}
        if wanted.parent is not None:
            more["ParentSnapshotId"] = wanted.parent
        elif wanted.kms_key is not None:
            more |= {"Encrypted": True, "KmsKeyArn": wanted.kms_key}
        return self.service.ask(
            "StartSnapshot",
            lambda answer: str(answer["SnapshotId"]),
            about=f"{wanted.gib} GiB for {wanted.description}",
            VolumeSize=wanted.gib,
            Description=wanted.description,
            Tags=[{"Key": key, "Value": value} for key, value in sorted(wanted.tags.items())],
            ClientToken=wanted.token,
            Timeout=LONGEST_PAUSE_MIN,
            **more,
        )

    def put(self, snapshot: str, number: int, content: bytes | memoryview, sha256: bytes) -> None:
        """Write a block; any put may be repeated.

        Raises:
            ConflictError: the snapshot does not take blocks (any more).
        """
        about = _about(snapshot, number)
        try:
            self._patiently(lambda: self._put(snapshot, number, content, sha256), about)
        except _NotYetError as error:
            raise ConflictError(about, "does not exist in this account and Region", hint=_BEGIN_AGAIN) from error

    def complete(self, snapshot: str, blocks: int, aggregate: bytes) -> None:
        """Seal a snapshot: AWS compares the number of blocks and the LINEAR aggregate of their SHA-256s.

        Raises:
            ConflictError: AWS holds other blocks, or the snapshot does not take any.
        """
        with _conflicts(f"snapshot {snapshot}", hint=_BEGIN_AGAIN):
            self.service.call(
                "CompleteSnapshot",
                about=snapshot,
                SnapshotId=snapshot,
                ChangedBlocksCount=blocks,
                Checksum=base64.b64encode(aggregate).decode(),
                ChecksumAlgorithm=_ALGORITHM,
                ChecksumAggregationMethod="LINEAR",
            )

    def _patiently(self, call: Callable[[], Result], about: str, progress: Callable[[], int] = lambda: 0) -> Result:
        """Try again what came damaged or met a service without time; every block that gets through renews the budget.

        botocore tries again too, but with one allowance for all threads: in a storm it is soon used up.
        """

        def once() -> Result:
            reached = self._moved.count
            try:
                result = call()
            except TransientError:
                raise
            except NetworkError as error:
                if error.busy or (error.unreachable and self._moved.count > reached):
                    raise _later(error) from error
                raise
            self._moved.count += 1
            return result

        def moved() -> int:
            return self._moved.count + progress()

        return retry(once, subject=about, policy=self.policy, progress=moved)

    def _put(self, snapshot: str, number: int, content: bytes | memoryview, sha256: bytes) -> None:
        about, checksum = _about(snapshot, number), base64.b64encode(sha256).decode()
        plain = Plain(
            operation="PutSnapshotBlock",
            method="PUT",
            target=_target(snapshot, number),
            headers={
                "x-amz-Data-Length": str(len(content)),
                "x-amz-Checksum": checksum,
                "x-amz-Checksum-Algorithm": _ALGORITHM,
            },
            body=memoryview(content),
        )

        def call() -> Answer:
            return self.service.call(
                "PutSnapshotBlock",
                about=about,
                SnapshotId=snapshot,
                BlockIndex=number,
                BlockData=bytes(content),
                DataLength=len(content),
                Checksum=checksum,
                ChecksumAlgorithm=_ALGORITHM,
            )

        with _conflicts(about, hint=_BEGIN_AGAIN, absent=_NotYetError):
            self.service.call_plainly(plain, lambda _headers, _body: {}, call)

    def _page(self, snapshot: str, token: str | None) -> Answer:
        more = {} if token is None else {"NextToken": token}
        hint = "Public snapshots cannot be read either: copy the image into this account first."
        with _conflicts(f"snapshot {snapshot}", hint=hint):
            return self.service.ask(
                "ListSnapshotBlocks", _checked_page, about=snapshot, SnapshotId=snapshot, MaxResults=_PAGE, **more
            )

    def _read(self, snapshot: str, block: ListedBlock, about: str) -> tuple[bytes, bytes]:
        plain = Plain(
            operation="GetSnapshotBlock",
            method="GET",
            target=f"{_target(snapshot, block.number)}?blockToken={_quoted(block.token)}",
        )

        def call() -> Answer:
            return self.service.call(
                "GetSnapshotBlock", about=about, SnapshotId=snapshot, BlockIndex=block.number, BlockToken=block.token
            )

        answer = self.service.call_plainly(plain, _block, call)
        with self.service.reading("GetSnapshotBlock", about):
            content = answer["BlockData"].read()
            stated = (answer["ChecksumAlgorithm"], answer["Checksum"])
        sha256 = hashlib.sha256(content).digest()
        if len(content) != BLOCK_BYTES or stated != (_ALGORITHM, base64.b64encode(sha256).decode()):
            raise TransientError(about, f"came damaged: {len(content)} bytes that are not what their checksum says")
        return content, sha256


class _NotYetError(TransientError):
    """A snapshot that was only just begun may not be known everywhere (coldsnap waits for two minutes)."""

    answered = True


def _later(error: NetworkError) -> TransientError:
    later = TransientError(error.subject, error.cause, hint=error.hint)
    later.answered = error.busy
    return later


@contextmanager
def _conflicts(subject: str, *, hint: str, absent: type[TransientError] | None = None) -> Iterator[None]:
    """Say of a snapshot that AWS does not know, or that is in no state for the call, what it means."""
    try:
        yield
    except RejectedError as error:
        cause = "does not exist in this account and Region" if error.code == _ABSENT else error.cause
        if error.code == _ABSENT and absent is not None:
            raise absent(subject, cause) from error
        raise ConflictError(subject, cause, hint=hint) from error


def _about(snapshot: str, number: int) -> str:
    return f"block {number} of {snapshot}"


def _target(snapshot: str, number: int) -> str:
    return f"/snapshots/{_quoted(snapshot)}/blocks/{number}"


def _quoted(text: str) -> str:
    """Return text quoted as botocore does it, and as it is signed."""
    return quote(text, safe="-._~")


def _block(headers: Mapping[str, str], body: Any) -> Answer:
    return {
        "BlockData": body,
        "Checksum": headers["x-amz-checksum"],
        "ChecksumAlgorithm": headers["x-amz-checksum-algorithm"],
    }


def _checked_page(page: Answer) -> Answer:
    if page["BlockSize"] != BLOCK_BYTES:
        raise ValueError(f"BlockSize {page['BlockSize']}")
    blocks = [_listed(item) for item in page.get("Blocks", [])]
    return {"VolumeSize": int(page["VolumeSize"]), "Blocks": blocks, **_next(page)}


def _listed(item: Answer) -> ListedBlock:
    number, token = int(item["BlockIndex"]), str(item["BlockToken"])
    if not 0 <= number < MAX_VOLUME_GIB * BLOCKS_PER_GIB:
        raise ValueError(f"BlockIndex {number}")
    return ListedBlock(number, token)


def _next(page: Answer) -> dict[str, str]:
    token = page.get("NextToken")
    return {} if not token else {"NextToken": str(token)}
