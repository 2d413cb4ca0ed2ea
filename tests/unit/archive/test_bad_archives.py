"""The catalogue of bad archives, rows A01-A23, A30-A36, B01-B12, B28, each with its exit code and message.

Two kinds: the carrier's, who can change bytes but not sign; and the forger's, who holds a trusted key.
"""

from __future__ import annotations

import gzip
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.adapters.archive_file import ArchiveFile
from bundler.archive import reader
from bundler.archive.header import member_header
from bundler.archive.reader import Archive, open_archive
from bundler.archive.root import ROOT_TYPE
from bundler.domain.digest import Digest
from bundler.domain.events import BytesMoved, Event, TransferPlanned
from bundler.envelope import unsigned_envelope, unverified_payload
from bundler.errors import DigestError, FormatError, LimitError, RefusedError, SignatureError, UsageError
from bundler.stages.verify import verify
from bundler.trust import TRUST_TYPE, TrustRoot
from tests.fakes.archives import Forgery, MemorySource, Sample, blob_path, relocked, sample, signer, trust_of

SAMPLE = sample()
GOOD = Forgery.of(SAMPLE).bytes()
LAYOUT = SAMPLE.layout
LAYER = next(member for member in LAYOUT.blobs if member.role == "layer")
SLOT_END = 512 + LAYOUT.slot_bytes


def check(raw: bytes, trust: TrustRoot | None = None) -> Archive:
    """Open an archive and read all of it."""
    return verify(MemorySource(raw), trust=SAMPLE.trust if trust is None else trust, full=True)


def refused(raw: bytes, kind: type[RefusedError], words: str) -> None:
    """The archive is refused for that reason, quickly, with exit code 3."""
    started = time.monotonic()
    with pytest.raises(RefusedError, match=words) as caught:
        check(raw)
    assert type(caught.value) is kind
    assert caught.value.exit_code == 3
    assert caught.value.subject.startswith("sample-7.tar")
    assert time.monotonic() - started < 2


def test_the_honest_archive_passes() -> None:
    archive = check(GOOD)
    assert archive.lock == SAMPLE.lock
    assert archive.trust_digest == Digest.of(SAMPLE.trust.payload)


# The carrier: bytes changed, nothing signed again.


def raw_header(
    name: bytes, size: int = 0, *, kind: bytes = b"0", mode: bytes = b"0000644\0", link: bytes = b""
) -> bytes:
    """Any ustar header, with the right checksum: what a careless reader believes."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = mode + b"0000000\0" * 2
    block[124:148] = b"%011o\0" % size + b"00000000000\0"
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    return sealed(block)


def sealed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def with_size_field(field: bytes) -> bytes:
    block = bytearray(member_header(LAYER.path, LAYER.size))
    block[124:136] = field
    return sealed(block)


def put(offset: int, content: bytes) -> bytes:
    return GOOD[:offset] + content + GOOD[offset + len(content) :]


PATH = LAYER.path.encode()
CYRILLIC_A = chr(0x430)
HOSTILE_HEADERS = [
    pytest.param(raw_header(b"../../x", LAYER.size), id="A01 name leads out"),
    pytest.param(raw_header(b"/etc/x", LAYER.size), id="A02 absolute name"),
    pytest.param(raw_header(PATH, kind=b"2", link=b"/etc"), id="A03 symlink"),
    pytest.param(raw_header(PATH, kind=b"1", link=b"/etc/passwd"), id="A04 hardlink"),
    pytest.param(raw_header(PATH, kind=b"5"), id="A05 folder"),
    pytest.param(raw_header(PATH, kind=b"6"), id="A06 fifo"),
    pytest.param(raw_header(PATH, kind=b"3"), id="A06 character device"),
    pytest.param(raw_header(PATH, kind=b"4"), id="A06 block device"),
    pytest.param(raw_header(PATH, LAYER.size, mode=b"0004755\0"), id="A07 setuid"),
    pytest.param(raw_header(PATH, LAYER.size, mode=b"0007777\0"), id="A07 mode 7777"),
    pytest.param(raw_header(PATH.replace(b"/", b"\\"), LAYER.size), id="A08 backslash"),
    pytest.param(raw_header(b"C:" + PATH, LAYER.size), id="A08 drive letter"),
    pytest.param(raw_header(b"NUL", LAYER.size), id="A08 NUL"),
    pytest.param(raw_header(PATH + b".", LAYER.size), id="A08 trailing dot"),
    pytest.param(raw_header(PATH.replace(b"a", CYRILLIC_A.encode()), LAYER.size), id="A09 look-alike"),
    pytest.param(raw_header(PATH[:10] + b"\0" + PATH[11:], LAYER.size), id="A10 NUL inside the name"),
    pytest.param(raw_header(b"x", 20, kind=b"x"), id="A11 PAX header"),
    pytest.param(raw_header(b"x", 20, kind=b"g"), id="A11 global PAX header"),
    pytest.param(raw_header(b"././@LongLink", 20, kind=b"L"), id="A11 GNU long name"),
    pytest.param(raw_header(PATH, LAYER.size - 1), id="A15 size one too small"),
    pytest.param(raw_header(PATH, LAYER.size + 1), id="A15 size one too large"),
    pytest.param(with_size_field(b"\xff" * 12), id="A16 negative base-256 size"),
    pytest.param(with_size_field(b"\x80" + LAYER.size.to_bytes(11, "big")), id="A16 base-256 for a small size"),
    pytest.param(with_size_field(b"\x80" + (1 << 50).to_bytes(11, "big")), id="A17 one petabyte"),
    pytest.param(raw_header(b"x", 200 << 20, kind=b"x"), id="A18 PAX record of 200 MiB"),
    pytest.param(raw_header(PATH, kind=b"S"), id="A20 GNU sparse"),
    pytest.param(raw_header(PATH, LAYER.size, kind=b"7"), id="contiguous file"),
    pytest.param(raw_header(PATH, LAYER.size, kind=b"\0"), id="old regular file"),
    pytest.param(os.urandom(512), id="A31 garbage"),
    pytest.param(bytes(512), id="A31 zeros, where other readers end"),
]


@pytest.mark.parametrize("header", HOSTILE_HEADERS)
def test_any_header_but_ours_is_refused(header: bytes) -> None:
    refused(put(LAYER.header_offset, header), FormatError, "has another header before blobs/sha256/")


@pytest.mark.parametrize("header", HOSTILE_HEADERS)
def test_any_header_but_ours_is_refused_when_only_that_blob_is_used(header: bytes) -> None:
    archive = open_archive(MemorySource(put(LAYER.header_offset, header)), SAMPLE.trust)
    with pytest.raises(FormatError):
        b"".join(map(bytes, archive.stream(LAYER.digest)))
    with pytest.raises(FormatError, match=f"another header before {LAYER.path}"):
        next(archive.pieces(LAYER.digest))
    with pytest.raises(FormatError):
        archive.read(LAYER.digest)


FIRST = bytearray(GOOD[:512])


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"00000200009\0", id="a digit that is not octal"),
        pytest.param(b"     200000\0", id="blanks before the size"),
        pytest.param(b"00000200000 ", id="another end of the field"),
        pytest.param(b"\x80" + (65536).to_bytes(11, "big"), id="A16 base-256"),
        pytest.param(b"\xff" * 12, id="A16 negative"),
        pytest.param(b"\0" * 12, id="nothing"),
    ],
)
def test_the_one_header_that_is_read_has_one_spelling_too(field: bytes) -> None:
    block = FIRST.copy()
    block[124:136] = field
    refused(put(0, sealed(block)), FormatError, "another header before root.dsse.json")


def test_a05_a_name_of_255_characters_has_no_way_in() -> None:
    header = bytearray(raw_header(b"d" * 100, LAYER.size))
    header[345:500] = b"p" * 155
    refused(put(LAYER.header_offset, sealed(header)), FormatError, "has another header")


def entry(offset: int) -> bytes:
    """The bytes of the member that begins there: header, content, padding."""
    member = next(member for member in LAYOUT.members if member.header_offset == offset)
    return GOOD[offset : member.end]


SECOND = next(member for member in LAYOUT.blobs if member.role == "layer" and member.offset > LAYER.offset)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(
            GOOD[: LAYER.end] + entry(LAYER.header_offset) + GOOD[LAYER.end :], "bytes after its end", id="A12 twice"
        ),
        pytest.param(
            put(LAYER.header_offset, GOOD[SECOND.header_offset : SECOND.end] + entry(LAYER.header_offset)),
            "has another header",
            id="A13 reordered",
        ),
        pytest.param(
            GOOD[: LAYER.end] + raw_header(b"extra") + GOOD[LAYER.end :], "bytes after its end", id="A14 extra member"
        ),
        pytest.param(GOOD[: LAYER.header_offset] + GOOD[LAYER.end :], "is cut", id="A14 member missing"),
        pytest.param(
            GOOD[:-1024] + b"".join(raw_header(b"%07d" % n) for n in range(10_000)) + bytes(1024),
            "5120000 bytes after its end",
            id="A19 ten thousand empty members",
        ),
        pytest.param(GOOD[:-1024], "is cut", id="A32 no end blocks"),
        pytest.param(GOOD[:-512], "is cut", id="A32 one end block"),
        pytest.param(GOOD + bytes(1 << 20), "1048576 bytes after its end", id="A32 trailing megabyte"),
        pytest.param(GOOD + b"x", "1 bytes after its end", id="A32 one byte more"),
        pytest.param(GOOD[:-1] + b"x", "does not end with two blocks of zeros", id="A32 end is not zero"),
        pytest.param(put(LAYER.offset + LAYER.size, b"x"), "something else than zeros", id="A33 padding"),
        pytest.param(put(SLOT_END - 1, b"\t"), "envelope and spaces", id="A33 padding of the root"),
    ],
)
def test_a_changed_order_or_end_is_refused(raw: bytes, words: str) -> None:
    refused(raw, FormatError, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(gzip.compress(GOOD), "is not a bundle: it is a gzip file", id="A23 gzip"),
        pytest.param(b"\x28\xb5\x2f\xfd" + bytes(2000), "is not a bundle: it is a zstd file", id="A23 zstd"),
        pytest.param(b"PK\x03\x04" + bytes(2000), "is not a bundle: it is a zip file", id="A23 zip"),
        pytest.param(b"\x7fELF" + bytes(2000), "is not a bundle: it is not a tar", id="A23 something else"),
        pytest.param(bytes(4096), "is not a bundle: it is not a tar", id="A23 zeros"),
        pytest.param(b"x", "is cut", id="one byte"),
    ],
)
def test_a_file_that_is_no_bundle_is_called_so(content: bytes, words: str) -> None:
    refused(content, FormatError, words)


@pytest.mark.parametrize("path", [m.path for m in LAYOUT.members if m.size])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a34_a_flipped_bit_names_member_and_bytes(path: str, place: str) -> None:
    member = next(member for member in LAYOUT.members if member.path == path)
    at = member.offset + (0 if place == "first" else member.size - 1)
    words = f"{path} .{member.role}, bytes {member.offset} to {member.offset + member.size}. is damaged"
    refused(put(at, bytes([GOOD[at] ^ 1])), DigestError, words)


def collect(archive: Archive, digest: Digest, into: list[bytes]) -> None:
    into.extend(map(bytes, archive.stream(digest)))


@pytest.mark.parametrize("role", ["manifest", "config", "layer", "chart", "tool"])
def test_a34_a_damaged_blob_is_never_handed_out_whole(role: str) -> None:
    member = next(member for member in LAYOUT.blobs if member.role == role)
    archive = open_archive(MemorySource(put(member.offset, bytes([GOOD[member.offset] ^ 1]))), SAMPLE.trust)
    got: list[bytes] = []
    with pytest.raises(DigestError):
        collect(archive, member.digest, got)
    assert len(b"".join(got)) < member.size
    with pytest.raises(DigestError):
        archive.read(member.digest)


def test_a34_a_flipped_bit_in_the_root_is_refused() -> None:
    for at in range(512, 512 + 1400, 7):
        with pytest.raises(RefusedError):
            check(put(at, bytes([GOOD[at] ^ 1])))


def test_a35_an_archive_cut_anywhere_is_refused() -> None:
    cuts = {*range(512, 65536, 512), *(random.Random(35).randrange(1, len(GOOD)) for _ in range(200))}
    for cut in sorted(cuts):
        with pytest.raises(FormatError, match="is cut"):
            check(GOOD[:cut])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a30_a_file_replaced_after_it_was_verified_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "sample-7.tar", GOOD)
    with ArchiveFile.open(path) as source:
        archive = verify(source, trust=SAMPLE.trust, full=True)
        write(tmp_path / "other", put(LAYER.offset, bytes(LAYER.size))).replace(path)
        assert archive.read(LAYER.digest) == SAMPLE.blobs[LAYER.digest]


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        pytest.param(LAYER.offset, "is damaged", id="content"),
        pytest.param(600, "has changed since it was opened: its signed root", id="root"),
        pytest.param(0, "has changed since it was opened: its first header", id="first header"),
    ],
)
def test_a30_a_file_changed_in_place_after_it_was_opened_is_refused(tmp_path: Path, offset: int, words: str) -> None:
    path = write(tmp_path / "sample-7.tar", GOOD)
    with ArchiveFile.open(path) as source:
        archive = open_archive(source, SAMPLE.trust)
        write(path, put(offset, bytes([GOOD[offset] ^ 1])))
        with pytest.raises(RefusedError, match=words):
            archive.verify_all()


def test_a30_a_file_cut_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "sample-7.tar", GOOD)
    with ArchiveFile.open(path) as source:
        archive = open_archive(source, SAMPLE.trust)
        os.truncate(path, LAYER.offset + 1)
        with pytest.raises(FormatError, match="is cut"):
            archive.verify_all()


def test_a36_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "empty", b"")
    kinds = {
        tmp_path: "a folder",
        Path("/dev/zero"): "a device",
        tmp_path / "pipe": "a pipe",
        tmp_path / "empty": "empty",
    }
    for path, kind in kinds.items():
        with pytest.raises(FormatError, match=f"is {kind}"):
            ArchiveFile.open(path)


def test_a_missing_archive_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        ArchiveFile.open(tmp_path / "sample-7.tar")
    assert caught.value.exit_code == 2


# Signatures.


def test_b01_an_archive_without_a_root_is_unsigned() -> None:
    refused(GOOD[SLOT_END:], SignatureError, "has no signed root")


def test_b01_an_envelope_of_spaces_is_none() -> None:
    refused(put(512, b" " * LAYOUT.slot_bytes), FormatError, "envelope and spaces")


def forged(**changes: Any) -> bytes:
    forgery = Forgery.of(SAMPLE)
    for name, value in changes.items():
        setattr(forgery, name, value)
    return forgery.bytes()


def slot(envelope: bytes) -> bytes:
    return put(512, envelope.ljust(LAYOUT.slot_bytes))


PAYLOAD = unverified_payload(GOOD[512:SLOT_END].rstrip(), subject="sample")


def test_b02_a_root_without_signatures_is_unsigned() -> None:
    refused(slot(unsigned_envelope(PAYLOAD, ROOT_TYPE)), SignatureError, "0 valid signatures of the 1")


def test_b03_a_changed_root_is_not_signed() -> None:
    envelope = SAMPLE.signer.sign(PAYLOAD, ROOT_TYPE)
    other = unsigned_envelope(PAYLOAD.replace(b'"sequence":7', b'"sequence":8'), ROOT_TYPE)
    mixed = other.split(b'"payloadType"')[0] + b'"payloadType"' + envelope.split(b'"payloadType"')[1]
    refused(slot(mixed), SignatureError, "0 valid signatures")


def test_b04_a_trust_root_is_no_bundle() -> None:
    refused(forged(payload_type=TRUST_TYPE), SignatureError, "is signed as 'application/vnd.eks-bundler.trust")


def test_b05_the_key_of_another_site_signs_nothing_here() -> None:
    refused(forged(signers=(signer(9),)), SignatureError, "0 valid signatures")


def test_b05_a_bundle_cannot_bring_its_own_trust() -> None:
    stranger = Sample(lock=SAMPLE.lock, blobs=SAMPLE.blobs, signer=signer(9))
    refused(Forgery.of(stranger).bytes(), SignatureError, "0 valid signatures")


def test_a22_a_root_of_five_mib_is_refused_unread() -> None:
    refused(forged(slot=5 << 20), LimitError, "has a root of 5242880 bytes")


# The forger: signed with a trusted key.


def change(forgery: Forgery, member: str, /, **fields: object) -> None:
    line = next(line for line in forgery.lines if line["path"] == member)
    line.update(fields)


def forge(make: Callable[[Forgery], object], *, relist: bool = True) -> bytes:
    forgery = Forgery.of(SAMPLE)
    make(forgery)
    if relist:
        forgery.relist()
    return forgery.bytes()


TOOL = blob_path(SAMPLE, "tool")


def rename(name: str) -> Callable[[Forgery], None]:
    def make(forgery: Forgery) -> None:
        change(forgery, TOOL, path=name)
        forgery.contents = {name if path == TOOL else path: c for path, c in forgery.contents.items()}
        forgery.headers[name] = raw_header(name.encode()[:100], len(forgery.contents[name]))

    return make


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("../../x", id="A01 leads out"),
        pytest.param("/etc/x", id="A02 absolute"),
        pytest.param("a\\b", id="A08 backslash"),
        pytest.param("blobs/sha256/" + CYRILLIC_A, id="A09 look-alike"),
        pytest.param("blobs/sha256/\x00", id="A10 NUL"),
        pytest.param("BLOBS/x", id="upper case"),
        pytest.param("x" * 120, id="long"),
        pytest.param("", id="empty"),
    ],
)
def test_a_signed_name_outside_the_grammar_is_refused(name: str) -> None:
    refused(forge(rename(name)), FormatError, "members.jsonl line .* is not a member")


@pytest.mark.parametrize("name", ["blobs/sha256/../../x", "tool", "blobs/sha256/" + "0" * 64, TOOL + "0"])
def test_a_signed_name_that_is_not_its_digest_is_refused(name: str) -> None:
    refused(forge(rename(name)), FormatError, "is not the path of its digest")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"sha256": TOOL[13:].upper()}, id="B28 digest in upper case"),
        pytest.param({"sha256": TOOL[13:-1]}, id="B28 digest too short"),
        pytest.param({"sha256": "sha1:" + "0" * 40}, id="B28 sha1"),
        pytest.param({"size": -1}, id="B28 size -1"),
        pytest.param({"size": 1500.0}, id="B28 size a float"),
        pytest.param({"size": "1500"}, id="B28 size text"),
        pytest.param({"size": True}, id="size true"),
        pytest.param({"size": None}, id="size null"),
        pytest.param({"size": 10**20}, id="size of 21 digits"),
        pytest.param({"role": "Tool"}, id="role in upper case"),
        pytest.param({"role": "\x1b[31m"}, id="role with an escape sequence"),
        pytest.param({"absent": True}, id="absent: a delta"),
        pytest.param({"extra": 1}, id="an unknown key"),
    ],
)
def test_a_signed_line_outside_the_grammar_is_refused(fields: dict[str, object]) -> None:
    refused(forge(lambda f: change(f, TOOL, **fields), relist=False), FormatError, "is not a member")


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(lambda t: t.replace(b":", b": ", 1), id="a blank"),
        pytest.param(lambda t: t[:-1], id="no last newline"),
        pytest.param(lambda t: t + b"\n", id="an empty line"),
        pytest.param(lambda t: b"\xef\xbb\xbf" + t, id="a byte order mark"),
        pytest.param(lambda t: t.replace(b"\n", b"\r\n"), id="other line ends"),
        pytest.param(lambda t: t.replace(b"}\n", b',"size":1}\n', 1), id="B11 a key twice"),
        pytest.param(lambda t: b"[" * 10_000, id="B11 depth 10 000"),
    ],
)
def test_a_signed_table_in_another_spelling_is_refused(table: Callable[[bytes], bytes]) -> None:
    raw = forged(table=table(LAYOUT.generated["members.jsonl"]))
    refused(raw, FormatError, "members.jsonl line .* is not a member")


def test_a17_a_signed_member_of_a_petabyte_is_refused_at_once() -> None:
    refused(forge(lambda f: change(f, TOOL, size=1 << 50)), LimitError, "names a member of")


def swap(forgery: Forgery) -> None:
    forgery.lines[1:3] = forgery.lines[2:0:-1]
    paths = [*forgery.contents]
    paths[1:3] = paths[2:0:-1]
    forgery.contents = {path: forgery.contents[path] for path in paths}


def swap_blobs(forgery: Forgery) -> None:
    forgery.lines[-3:-1] = forgery.lines[-2:-4:-1]
    paths = [*forgery.contents]
    paths[-3:-1] = paths[-2:-4:-1]
    forgery.contents = {path: forgery.contents[path] for path in paths}


def add(forgery: Forgery) -> None:
    content = b"a stowaway"
    digest = Digest.of(content)
    path = f"blobs/sha256/{digest.hex}"
    forgery.lines.append({"path": path, "role": "file", "sha256": digest.hex, "size": len(content)})
    forgery.contents[path] = content


def drop(forgery: Forgery) -> None:
    forgery.lines = [line for line in forgery.lines if line["path"] != TOOL]
    del forgery.contents[TOOL]


def twice(forgery: Forgery) -> None:
    forgery.lines.append(forgery.lines[-1])
    forgery.tail = member_header(str(forgery.lines[-1]["path"]), 0)


def twice_with_two_sizes(forgery: Forgery) -> None:
    forgery.lines.append(dict(next(line for line in forgery.lines if line["path"] == TOOL), size=3))
    forgery.tail = member_header(TOOL, 3) + forgery.contents[TOOL][:3].ljust(512, b"\0")


def other_bundle(forgery: Forgery) -> None:
    forgery.root["name"] = "another"


def other_sequence(forgery: Forgery) -> None:
    forgery.root["sequence"] = 99


def other_role(forgery: Forgery) -> None:
    change(forgery, TOOL, role="file")


def wrong_size(forgery: Forgery) -> None:
    forgery.contents[TOOL] += b"x"
    change(forgery, TOOL, size=len(forgery.contents[TOOL]))


def metadata_role(forgery: Forgery) -> None:
    forgery.lines[1]["role"] = "sbom"


def lock_with_two_sizes(forgery: Forgery) -> None:
    def liar(document: dict[str, Any]) -> None:
        second = dict(document["tools"][0], platform="linux/arm64")
        second["content"] = dict(second["content"], size=3)
        document["tools"].append(second)

    forgery.relock(relocked(SAMPLE, liar))


def empty_with_a_digest(forgery: Forgery) -> None:
    """The lock says that the tool has no bytes, and what the digest of those is."""

    def liar(document: dict[str, Any]) -> None:
        document["tools"][0]["content"]["size"] = 0

    forgery.relock(relocked(SAMPLE, liar))
    forgery.contents[TOOL] = b""
    change(forgery, TOOL, size=0)


def test_an_empty_blob_that_should_have_content_is_damaged() -> None:
    raw = forge(empty_with_a_digest)
    refused(raw, DigestError, f"{TOOL} .* is damaged")
    archive = open_archive(MemorySource(raw), SAMPLE.trust)
    with pytest.raises(DigestError):
        collect(archive, Digest.parse("sha256:" + TOOL[13:]), [])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(swap, "does not list its metadata members in their order", id="A13 metadata out of order"),
        pytest.param(metadata_role, "does not list its metadata", id="metadata in another role"),
        pytest.param(swap_blobs, "in another order", id="A13 blobs out of order"),
        pytest.param(add, "which its lock does not name", id="A14 extra blob"),
        pytest.param(drop, "which its lock names", id="A14 missing blob"),
        pytest.param(twice, "lists a blob twice", id="A12 member twice"),
        pytest.param(twice_with_two_sizes, "which its lock does not name", id="B28 blob twice, two sizes"),
        pytest.param(wrong_size, "which its lock names", id="size of another"),
        pytest.param(other_role, "which its lock names", id="role of another"),
        pytest.param(other_bundle, "different bundles", id="root of another bundle"),
        pytest.param(other_sequence, "different bundles", id="root of another sequence"),
        pytest.param(lock_with_two_sizes, "two sizes", id="B28 lock with two sizes"),
    ],
)
def test_root_members_and_lock_must_tell_one_story(make: Callable[[Forgery], object], words: str) -> None:
    refused(forge(make), FormatError, words)


@pytest.mark.parametrize("totals", [{"members": 1, "contentBytes": 5}, {"members": 30, "contentBytes": 1}])
def test_totals_that_are_not_those_of_the_members_are_refused(totals: dict[str, int]) -> None:
    refused(forged(root=Forgery.of(SAMPLE).root | {"totals": totals}), FormatError, "other totals")


def with_root(**fields: object) -> bytes:
    return forged(root=Forgery.of(SAMPLE).root | fields)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(with_root(format=2, extra=1), "has format 2; this tool reads format 1", id="a later format"),
        pytest.param(with_root(minReader=2), "needs reader 2", id="a later reader"),
        pytest.param(with_root(features=["delta"]), "uses 'delta'", id="an unknown feature"),
        pytest.param(with_root(format=0), "wrong at format", id="format 0"),
        pytest.param(with_root(format="1"), "wrong at format", id="format text"),
        pytest.param(with_root(extra=1), "wrong at extra", id="an unknown key"),
        pytest.param(with_root(sequence=0), "wrong at sequence", id="sequence 0"),
        pytest.param(with_root(sequence="7"), "one spelling", id="sequence text"),
        pytest.param(with_root(sequence=True), "one spelling", id="sequence true"),
        pytest.param(with_root(name="../x"), "wrong at name", id="name leads out"),
        pytest.param(with_root(previous="sha1:00"), "wrong at previous", id="previous sha1"),
        pytest.param(with_root(created=""), "wrong at created", id="no time"),
        pytest.param(forged(payload=b"[]"), "not an object", id="B12 list"),
        pytest.param(forged(payload=b"null"), "not an object", id="B12 null"),
        pytest.param(forged(payload=b""), "is not strict JSON", id="nothing"),
        pytest.param(forged(payload=PAYLOAD + b" "), "one spelling", id="a blank after it"),
        pytest.param(forged(payload=PAYLOAD.replace(b":7", b":7.0")), "is not strict JSON", id="B28 float"),
        pytest.param(forged(payload=b'{"a":1,"a":1}'), "is not strict JSON", id="B11 a key twice"),
        pytest.param(forged(payload=b'{"a":NaN}'), "is not strict JSON", id="B11 NaN"),
        pytest.param(forged(payload=b"[" * 10_000), "is not strict JSON", id="B11 depth 10 000"),
        pytest.param(forged(tables={"trust": {"path": "x"}}), "names other members", id="trust.json elsewhere"),
        pytest.param(forged(tables={"members": {"size": -1}}), "wrong at members.size", id="size -1"),
        pytest.param(forged(tables={"members": {"sha256": "F" * 64}}), "wrong at members.sha256", id="upper case"),
        pytest.param(forged(slot=131072), "has 131072 bytes for its root", id="a slot larger than needed"),
        pytest.param(forged(slot_fill=b"\n"), "envelope and spaces", id="a slot filled otherwise"),
        pytest.param(forged(trust=b"[]\n"), "is not a list of trust roots", id="trust.json that is none"),
    ],
)
def test_a_signed_root_that_is_not_the_formats_is_refused(raw: bytes, words: str) -> None:
    refused(raw, FormatError, words)


@pytest.mark.parametrize(
    "tables",
    [
        pytest.param({"members": {"size": (64 << 20) + 1}}, id="members.jsonl over 64 MiB"),
        pytest.param({"trust": {"size": (4 << 20) + 1}}, id="trust.json over 4 MiB"),
    ],
)
def test_signed_sizes_beyond_the_limits_are_refused_unread(tables: dict[str, Any]) -> None:
    refused(forged(tables=tables), LimitError, "larger than any honest one")


def test_a_lock_beyond_its_limit_is_refused_unread() -> None:
    """The size is signed and right: the archive has a hole of 300 MiB where its lock should be."""

    class Sparse(MemorySource):
        def read_at(self, offset: int, length: int) -> bytes:
            assert length < 200 << 20
            return super().read_at(offset, length)

    forgery = Forgery.of(SAMPLE)
    forgery.lines[0]["size"] = (256 << 20) + 1
    forgery.relist()
    source = Sparse(forgery.bytes())
    honest = len(forgery.contents["lock.json"])
    source.size += (256 << 20) + 1 + (-((256 << 20) + 1) % 512) - honest - (-honest % 512)
    with pytest.raises(LimitError, match="has a lock of"):
        open_archive(source, SAMPLE.trust)


def test_a_lock_that_is_none_is_refused() -> None:
    refused(forge(lambda f: f.relock(b"{}")), FormatError, "is not a lock")


def test_an_archive_whose_trust_root_differs_from_the_sites_is_read_by_the_sites() -> None:
    raw = forged(trust=trust_of(SAMPLE.signer, signer(5)))
    archive = check(raw)
    assert archive.trust_digest != Digest.of(SAMPLE.trust.payload)


# Each guard, removed: then, and only then, the bad archive passes.


def nothing(*_: object, **__: object) -> None:
    return None


def believing(self: TrustRoot, raw: bytes, *, payload_type: str, subject: str) -> bytes:
    return unverified_payload(raw, subject=subject)


def dislocated(forgery: Forgery) -> None:
    """The line of a blob names the digest of other content, which stands there."""
    forgery.contents[TOOL] = forgery.contents[TOOL][::-1]
    change(forgery, TOOL, sha256=Digest.of(forgery.contents[TOOL]).hex)


SETUID = raw_header(PATH, LAYER.size, mode=b"0007777\0")
GUARDS = [
    pytest.param(
        put(LAYER.header_offset, raw_header(PATH, LAYER.size, mode=b"0007777\0")), "_check_header", id="header"
    ),
    pytest.param(put(LAYER.offset, b"\xff"), "_check_digest", id="digest"),
    pytest.param(put(LAYER.offset + LAYER.size, b"x"), "_check_padding", id="padding"),
    pytest.param(GOOD[:-1] + b"x", "_check_end", id="end"),
    pytest.param(GOOD + b"x", "_check_size", id="size"),
    pytest.param(forge(dislocated), "_check_paths", id="path is digest"),
    pytest.param(forge(metadata_role), "_check_paths", id="metadata"),
    pytest.param(with_root(totals={"members": 1, "contentBytes": 1}), "_check_totals", id="totals"),
    pytest.param(forge(add), "_check_lock", id="lock: extra blob"),
    pytest.param(forge(drop), "_check_lock", id="lock: missing blob"),
    pytest.param(forge(other_sequence), "_check_lock", id="lock: other root"),
    pytest.param(forged(slot=131072), "_check_slot", id="slot"),
]


@pytest.mark.parametrize(("raw", "guard"), GUARDS)
def test_without_its_guard_the_bad_archive_would_pass(raw: bytes, guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError):
        check(raw)
    monkeypatch.setattr(reader, guard, nothing)
    check(raw)


def test_without_the_signature_check_a_strangers_archive_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = forged(signers=(signer(9),))
    with pytest.raises(SignatureError):
        check(raw)
    monkeypatch.setattr(TrustRoot, "verify_bundle", believing)
    check(raw)


def test_without_the_spaces_check_another_filling_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = forged(slot_fill=b"\n")
    with pytest.raises(FormatError):
        check(raw)
    monkeypatch.setattr(reader, "_unpadded", lambda slot, name: slot)
    check(raw)


# Reading what is good.


def test_blobs_and_metadata_are_read_whole() -> None:
    archive = open_archive(MemorySource(GOOD), SAMPLE.trust)
    for member in LAYOUT.blobs:
        assert archive.read(member.digest) == SAMPLE.blobs[member.digest]
    assert archive.read("closure.json") == LAYOUT.generated["closure.json"]
    assert archive.blob(LAYER.digest) == LAYER


def test_a_blob_streams_whole() -> None:
    archive = open_archive(MemorySource(GOOD), SAMPLE.trust)
    large = next(member for member in LAYOUT.blobs if member.size == 900)
    assert b"".join(map(bytes, archive.stream(large.digest))) == SAMPLE.blobs[large.digest]


@pytest.mark.parametrize("start", [0, 1, 699, 700, 899, 900])
def test_pieces_of_a_blob_are_what_stands_there_damaged_or_not(start: int) -> None:
    content = bytearray(GOOD)
    content[LAYER.offset + 5] ^= 1
    archive = open_archive(MemorySource(content), SAMPLE.trust)
    there = bytes(content[LAYER.offset + start : LAYER.offset + LAYER.size])
    assert b"".join(map(bytes, archive.pieces(LAYER.digest, start))) == there
    with pytest.raises(DigestError, match=LAYER.path):
        archive.check(LAYER.digest)
    assert archive.holds(LAYER.digest)
    assert not archive.holds(Digest.of(b"elsewhere"))


def test_a_stream_notices_damage_before_its_last_piece() -> None:
    large, given = next(member for member in LAYOUT.blobs if member.size == 900), list[bytes]()
    archive = open_archive(MemorySource(put(large.offset, b"\xff")), SAMPLE.trust)
    with pytest.raises(DigestError):
        given.extend(map(bytes, archive.stream(large.digest)))
    assert sum(map(len, given)) < large.size


def test_an_empty_blob_is_a_blob() -> None:
    archive = open_archive(MemorySource(GOOD), SAMPLE.trust)
    assert (archive.read(Digest.of(b"")), [*archive.stream(Digest.of(b""))]) == (b"", [])


@pytest.mark.parametrize("key", ["root.dsse.json", "../../etc/passwd", Digest.of(b"not there")])
def test_what_the_archive_does_not_hold_is_said_so(key: str | Digest) -> None:
    with pytest.raises(FormatError, match="holds no"):
        open_archive(MemorySource(GOOD), SAMPLE.trust).read(key)


def test_opening_reads_no_blob_and_verifying_reads_each_byte_once(tmp_path: Path) -> None:
    class Counting(MemorySource):
        seen = 0

        def read_at(self, offset: int, length: int) -> bytes:
            self.seen += length
            return super().read_at(offset, length)

    source = Counting(GOOD)
    archive = open_archive(source, SAMPLE.trust)
    assert source.seen < LAYOUT.blobs[0].header_offset
    source.seen = 0
    events: list[Event] = []
    archive.verify_all(emit=events.append, workers=3)
    assert source.seen == len(GOOD)
    assert events[0] == TransferPlanned(phase="verify", total_bytes=len(GOOD), items=len(LAYOUT.members))
    moved = sum(event.count for event in events if isinstance(event, BytesMoved))
    assert moved == len(GOOD)
