"""Plans of shipments."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.shipment import (
    MOST_OBJECT_BYTES,
    Part,
    S3Address,
    Shipment,
    StoredObject,
    StoredPart,
    holds,
    is_same,
    make_slots,
    part_size,
    slip_bytes,
)
from bundler.errors import UsageError

MIB = 1 << 20
SIZE = 40 * MIB


def shipment(*marks: str) -> Shipment:
    parts = tuple(
        Part(number=slot.number, offset=slot.offset, size=slot.size, digest=Digest.of(mark.encode()))
        for slot, mark in zip(make_slots(SIZE), marks, strict=True)
    )
    return Shipment(name="a-1.tar", size=SIZE, digest=Digest.of(b"whole"), parts=parts)


FILE = shipment("x", "y", "z")


def md5_of(part: Part) -> str:
    return hashlib.md5(part.digest.hex.encode(), usedforsecurity=False).hexdigest()


def never(part: Part) -> str:
    raise AssertionError("the file is read again without need")


def stored(part: Part, *, checksum: bool = True) -> StoredPart:
    return StoredPart(
        number=part.number, size=part.size, etag=md5_of(part), checksum=part.checksum if checksum else None
    )


def etag(*parts: Part) -> str:
    joined = b"".join(bytes.fromhex(md5_of(part)) for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


@given(st.integers(min_value=1, max_value=MOST_OBJECT_BYTES))
def test_parts_are_at_least_16_mib_and_fewer_than_s3_takes(size: int) -> None:
    step = part_size(size)
    assert step >= 16 * MIB
    assert step % MIB == 0
    assert -(-size // step) <= 9000


def test_a_file_larger_than_one_object_is_refused() -> None:
    with pytest.raises(UsageError):
        part_size(MOST_OBJECT_BYTES + 1)


def test_parts_cover_the_file_without_gap() -> None:
    assert [(part.number, part.offset, part.size) for part in FILE.parts] == [
        (1, 0, 16 * MIB),
        (2, 16 * MIB, 16 * MIB),
        (3, 32 * MIB, 8 * MIB),
    ]


@pytest.mark.parametrize("checksum", [True, False])
def test_an_upload_holds_a_part_that_an_earlier_try_sent(checksum: bool) -> None:
    part = FILE.parts[1]
    assert holds(stored(part, checksum=checksum), part, md5_of=never if checksum else md5_of)


@pytest.mark.parametrize("checksum", [True, False])
def test_a_part_of_other_content_is_not_held(checksum: bool) -> None:
    other = shipment("x", "other", "z")
    assert not holds(stored(other.parts[1], checksum=checksum), FILE.parts[1], md5_of=md5_of)


def test_a_part_of_another_size_is_not_held() -> None:
    short = StoredPart(number=3, size=5, etag=md5_of(FILE.parts[2]), checksum=FILE.parts[2].checksum)
    assert not holds(short, FILE.parts[2], md5_of=never)


JOINED = hashlib.sha256(b"".join(bytes.fromhex(part.digest.hex) for part in FILE.parts)).digest()
COMPOSITE, WHOLE = (base64.b64encode(raw).decode() for raw in (JOINED, hashlib.sha256(b"whole").digest()))


@pytest.mark.parametrize("checksum", [f"{COMPOSITE}-3", COMPOSITE, WHOLE])
def test_the_same_object_is_known_by_its_checksum_without_reading_the_file(checksum: str) -> None:
    there = StoredObject(size=SIZE, etag="kms-random", checksum=checksum)
    assert is_same(FILE, there, md5_of=never)


def test_the_same_object_is_known_by_its_etag_where_there_is_no_checksum() -> None:
    there = StoredObject(size=SIZE, etag=etag(*FILE.parts))
    assert is_same(FILE, there, md5_of=md5_of)


@pytest.mark.parametrize(
    "there",
    [
        StoredObject(size=SIZE, etag=etag(*FILE.parts), checksum="AAAA-3"),
        StoredObject(size=SIZE, etag=etag(*shipment("x", "other", "z").parts)),
        StoredObject(size=SIZE - 1, etag=etag(*FILE.parts), checksum=COMPOSITE),
        StoredObject(size=SIZE, etag="0" * 32),
    ],
)
def test_another_object_of_that_name_is_not_the_same(there: StoredObject) -> None:
    assert not is_same(FILE, there, md5_of=md5_of)


@pytest.mark.parametrize(
    ("text", "bucket", "key"), [("s3://abc", "abc", ""), ("s3://abc/", "abc", ""), ("s3://a.b-c/x/y/", "a.b-c", "x/y")]
)
def test_an_address_has_a_bucket_and_perhaps_a_prefix(text: str, bucket: str, key: str) -> None:
    address = S3Address.parse(text)
    assert (address.bucket, address.key) == (bucket, key)
    assert str(address.below("f.tar")).endswith("/f.tar")


@pytest.mark.parametrize("text", ["abc/x", "s3://", "s3://A/x", "https://abc/x", "s3://abc/x\ny", "s3://a"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        S3Address.parse(text)


def test_the_slip_names_root_archive_and_trust() -> None:
    raw = slip_bytes(
        archive=FILE, address=S3Address.parse("s3://abc/in"), root=Digest.of(b"root"), trust=Digest.of(b"trust")
    )
    slip = json.loads(raw)
    assert slip["root"] == str(Digest.of(b"root"))
    assert slip["trust"] == str(Digest.of(b"trust"))
    assert slip["archive"] == {
        "name": "a-1.tar",
        "size": SIZE,
        "digest": str(Digest.of(b"whole")),
        "address": "s3://abc/in/a-1.tar",
    }
