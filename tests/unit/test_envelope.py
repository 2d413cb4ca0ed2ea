"""DSSE envelopes: rows B01-B12 of the catalogue of bad inputs, and key files."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.domain.canonical import canonical_json
from bundler.envelope import PublicKey, Signer, unsigned_envelope, unverified_payload, verify_envelope
from bundler.errors import BundleError, FormatError, LimitError, PolicyError, RefusedError, SignatureError, UsageError
from tests.fakes.archives import signed, signer

KIND = "application/vnd.example.v1+json"
PAYLOAD = b'{"a":1}'
ALICE, BOB, EVE = signer(1), signer(2), signer(3)


def check(raw: bytes, *, threshold: int = 1, keys: list[Signer] | None = None, kind: str = KIND) -> bytes:
    role = [one.public_key for one in keys or [ALICE, BOB]]
    return verify_envelope(raw, payload_type=kind, role_keys=role, threshold=threshold, subject="root")


def changed(raw: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(raw)
    change(document)
    return json.dumps(document).encode()


def envelope(*signers: Signer) -> bytes:
    return signed(PAYLOAD, *(signers or (ALICE,)), payload_type=KIND)


def test_a_signed_payload_comes_back() -> None:
    assert check(envelope()) == PAYLOAD


def test_ecdsa_keys_sign_too() -> None:
    curve = Signer(ec.generate_private_key(ec.SECP256R1()))
    assert check(curve.sign(PAYLOAD, KIND), keys=[curve]) == PAYLOAD


def test_ed25519_signs_the_same_bytes_every_time() -> None:
    assert ALICE.sign(PAYLOAD, KIND) == signer(1).sign(PAYLOAD, KIND)


def test_two_of_two_keys_reach_a_threshold_of_two() -> None:
    assert check(envelope(ALICE, BOB), threshold=2) == PAYLOAD


def test_b09_a_garbage_signature_first_does_not_hide_the_good_one() -> None:
    def spoil_first(document: dict[str, Any]) -> None:
        document["signatures"][0]["sig"] = base64.b64encode(b"garbage").decode()

    assert check(changed(envelope(ALICE, BOB), spoil_first)) == PAYLOAD


def test_b09_garbage_under_the_same_key_id_does_not_hide_the_good_one() -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["signatures"].insert(0, dict(document["signatures"][0], sig="AAAA"))

    assert check(changed(envelope(), spoil)) == PAYLOAD


def test_signatures_of_strangers_are_ignored() -> None:
    assert check(envelope(EVE, ALICE)) == PAYLOAD


def flip_payload(document: dict[str, Any]) -> None:
    document["payload"] = base64.b64encode(b'{"a":2}').decode()


def lend_key_id(document: dict[str, Any]) -> None:
    document["signatures"][0]["keyid"] = BOB.public_key.key_id


def repeat(document: dict[str, Any]) -> None:
    document["signatures"] *= 2


def rename_key(document: dict[str, Any]) -> None:
    document["signatures"].append(dict(document["signatures"][0], keyid="f" * 64))


@pytest.mark.parametrize(
    ("change", "threshold", "cause"),
    [
        pytest.param(lambda d: d.update(signatures=[]), 1, "0 valid signatures of the 1", id="B02 no signatures"),
        pytest.param(flip_payload, 1, "0 valid signatures", id="B03 payload changed"),
        pytest.param(lambda d: d.update(payloadType="application/other"), 1, "is signed as", id="B04 other kind"),
        pytest.param(repeat, 2, "1 valid signatures of the 2", id="B06 one signature twice"),
        pytest.param(rename_key, 2, "1 valid signatures of the 2", id="B07 one signature under a second key id"),
        pytest.param(lend_key_id, 1, "0 valid signatures", id="B08 key id of another"),
    ],
)
def test_an_envelope_without_enough_valid_signatures_is_refused(
    change: Callable[[dict[str, Any]], object], threshold: int, cause: str
) -> None:
    with pytest.raises(SignatureError, match=cause) as caught:
        check(changed(envelope(), change), threshold=threshold)
    assert caught.value.exit_code == 3


def test_b04_a_payload_type_that_was_signed_for_something_else_is_refused() -> None:
    with pytest.raises(SignatureError, match="is signed as 'application/vnd"):
        check(envelope(), kind="application/vnd.another.v1+json")


def test_b05_the_key_of_another_site_is_refused_with_the_next_step() -> None:
    with pytest.raises(SignatureError) as caught:
        check(envelope(EVE))
    assert "bundle trust accept trust.json --expect" in caught.value.hint


def test_b07_a_key_listed_twice_in_the_role_counts_once() -> None:
    with pytest.raises(SignatureError):
        check(envelope(ALICE), threshold=2, keys=[ALICE, ALICE])


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_never_verifies(threshold: int) -> None:
    with pytest.raises(SignatureError):
        check(unsigned_envelope(PAYLOAD, KIND), threshold=threshold)


GOOD = json.loads(envelope())
LONE = chr(0xD800)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(canonical_json(GOOD | {"payload": "eyJhIj\nox fQ=="}), id="B10 base64 with blanks"),
        pytest.param(canonical_json(GOOD | {"payload": GOOD["payload"].rstrip("=")}), id="B10 missing padding"),
        pytest.param(canonical_json(GOOD | {"payload": "eyJhIjoxfR=="}), id="B10 loose last bits"),
        pytest.param(canonical_json(GOOD | {"payload": "eyJh-_oxfQ=="}), id="B10 the other alphabet"),
        pytest.param(canonical_json(GOOD | {"payload": "é"}), id="B10 not ascii"),
        pytest.param(canonical_json(GOOD | {"payload": 7}), id="B10 payload is a number"),
        pytest.param(canonical_json(GOOD | {"signatures": [{"keyid": "a", "sig": "?"}]}), id="B10 signature"),
        pytest.param(b'{"payload":"","payload":"' + GOOD["payload"].encode() + b'"}', id="B11 duplicate key"),
        pytest.param(b'{"payload":NaN,"payloadType":"","signatures":[]}', id="B11 NaN"),
        pytest.param(b'{"payload":1e999,"payloadType":"","signatures":[]}', id="B11 1e999"),
        pytest.param(b'{"payload":' + b"9" * 5000 + b',"payloadType":"","signatures":[]}', id="B11 5000 digits"),
        pytest.param(json.dumps(GOOD | {"payloadType": LONE}).encode(), id="B11 lone surrogate"),
        pytest.param(json.dumps(GOOD | {"payload": [LONE]}).encode(), id="B11 lone surrogate in a list"),
        pytest.param(b"[" * 10_000 + b"]" * 10_000, id="B11 depth 10 000"),
        pytest.param(b"[]", id="B12 list"),
        pytest.param(b"7", id="B12 number"),
        pytest.param(b"null", id="B12 null"),
        pytest.param(b"", id="B12 nothing"),
        pytest.param(b"\xff\xfe", id="B12 not UTF-8"),
        pytest.param(canonical_json({key: GOOD[key] for key in ("payload", "payloadType")}), id="no signatures key"),
        pytest.param(canonical_json(GOOD | {"extra": 1}), id="an unknown key"),
        pytest.param(canonical_json(GOOD | {"signatures": {}}), id="signatures is an object"),
        pytest.param(canonical_json(GOOD | {"signatures": [None]}), id="signature is null"),
        pytest.param(canonical_json(GOOD | {"signatures": [{"keyid": 1, "sig": ""}]}), id="key id is a number"),
        pytest.param(canonical_json(GOOD | {"signatures": [{"sig": ""}]}), id="no key id"),
        pytest.param(canonical_json(GOOD | {"payloadType": 1}), id="payload type is a number"),
    ],
)
def test_what_is_no_envelope_is_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        check(raw)
    assert caught.value.exit_code == 3


def test_a_huge_envelope_is_refused_unread() -> None:
    with pytest.raises(LimitError):
        check(b" " * (4 << 20) + envelope())


def test_a_thousand_signatures_are_refused_unread() -> None:
    with pytest.raises(LimitError):
        check(changed(envelope(), lambda d: d.update(signatures=d["signatures"] * 1000)))


@settings(max_examples=400, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary().map(lambda b: base64.b64encode(b).decode()),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "x"]), inner)
        ),
        max_leaves=12,
    )
)
def test_no_json_document_raises_anything_untyped(value: object) -> None:
    with pytest.raises(RefusedError):
        check(json.dumps(value).encode())


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_a_mutated_envelope_is_refused_or_still_says_the_same(data: st.DataObject) -> None:
    raw = bytearray(envelope(ALICE, BOB))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw) - 1))
        end = data.draw(st.integers(start, min(len(raw), start + 8)))
        raw[start:end] = data.draw(st.binary(max_size=8) | st.sampled_from([b'"', b"}", b"\\", b"=", b"{}", b"[]"]))
    with suppress(RefusedError):
        assert check(bytes(raw)) == PAYLOAD


def test_the_payload_of_an_unsigned_envelope_can_be_compared_but_not_verified() -> None:
    raw = unsigned_envelope(PAYLOAD, KIND)
    assert unverified_payload(raw, subject="root") == PAYLOAD
    with pytest.raises(SignatureError):
        check(raw)


def _der(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(_der(ed25519.Ed25519PrivateKey.generate())[:-1], id="cut"),
        pytest.param(_der(ed25519.Ed25519PrivateKey.generate()) + b"x", id="a byte too many"),
        pytest.param(_der(rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(_der(ec.generate_private_key(ec.SECP384R1())), id="another curve"),
        pytest.param(
            COMPRESSED
            + ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
            id="second DER form of a key",
        ),
    ],
)
def test_a_key_has_one_kind_and_one_form(der: bytes) -> None:
    with pytest.raises(FormatError):
        PublicKey.parse(der, subject="trust.json")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.key"
    path.write_bytes(ALICE.pem())
    path.chmod(0o600)
    return path


def test_a_signer_is_loaded_from_its_file(key_file: Path) -> None:
    assert Signer.load(key_file).public_key == ALICE.public_key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o700])
def test_a_key_file_that_others_may_use_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(PolicyError, match=f"{mode:04o}") as caught:
        Signer.load(key_file)
    assert "chmod 600" in caught.value.hint


def test_a_missing_key_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Signer.load(tmp_path / "bundle.key")
    assert caught.value.hint == "Make a key: bundle trust init"


def _pem(key: Any, *, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"SECRET-CANARY", id="no PEM"),
        pytest.param(_pem(rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(_pem(ec.generate_private_key(ec.SECP384R1())), id="another curve"),
        pytest.param(_pem(ed25519.Ed25519PrivateKey.generate(), password=b"x"), id="encrypted"),
        pytest.param(ALICE.pem().replace(b"A", b"B", 1), id="damaged"),
        pytest.param(b"x" * 100_000, id="large"),
    ],
)
def test_a_file_that_is_no_key_is_refused_without_showing_it(key_file: Path, content: bytes) -> None:
    key_file.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        Signer.load(key_file)
    assert "CANARY" not in "".join(map(str, [caught.value, caught.value.hint, caught.value.__cause__]))


def test_a_pipe_as_key_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bundle.key", 0o600)
    with pytest.raises(FormatError, match="is not a key file"):
        Signer.load(tmp_path / "bundle.key")


def test_a_signer_does_not_show_its_key() -> None:
    assert ALICE.pem().decode().splitlines()[1] not in repr(ALICE) + str(ALICE)


def test_errors_are_of_one_family() -> None:
    with pytest.raises(BundleError):
        check(b"{}")
