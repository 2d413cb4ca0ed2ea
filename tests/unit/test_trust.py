"""Trust roots: making them, walking their chain, accepting them at a site; rows B04-B07, B19-B24, L09."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.domain.canonical import canonical_json
from bundler.domain.digest import Digest
from bundler.envelope import Signer
from bundler.errors import (
    ConflictError,
    DigestError,
    FormatError,
    LimitError,
    LocalResourceError,
    PolicyError,
    RefusedError,
    SignatureError,
    UntrustedError,
)
from bundler.trust import (
    TrustRoot,
    accept_trust,
    create_trust,
    load_accepted_trust,
    parse_trust_chain,
    require_bundle_key,
    trust_digest,
    trust_folder,
)
from tests.fakes.archives import signed, signer, trust_json, trust_of, trust_payload

ALICE, BOB, CAROL, EVE = (signer(seed) for seed in range(1, 5))


def parse(raw: bytes) -> TrustRoot:
    return parse_trust_chain(raw, source="trust.json")


def keys(*signers: Signer) -> list[Any]:
    return [one.public_key for one in signers]


def chain(*steps: tuple[bytes, tuple[Signer, ...]]) -> bytes:
    return trust_json(*(signed(payload, *signers) for payload, signers in steps))


FIRST = trust_payload(keys(ALICE))
SECOND = trust_payload(keys(BOB), version=2)
THIRD = trust_payload(keys(CAROL), version=3)


# making


def test_init_makes_a_private_key_for_the_owner_alone_and_a_trust_root_it_signs(tmp_path: Path) -> None:
    root, key_path, trust_path = create_trust(tmp_path / "keys")
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert key_path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    made = Signer.load(key_path).public_key
    assert (root.version, root.root, root.bundle) == (1, root.bundle, root.root)
    assert root.root.key_ids == (made.key_id,)
    assert made.key_id == Digest.of(made.der).hex
    assert parse(trust_path.read_bytes()) == root
    require_bundle_key(root, Signer.load(key_path))


def test_init_under_a_loose_umask_still_makes_a_private_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _, key_path, _ = create_trust(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600


def test_init_never_overwrites(tmp_path: Path) -> None:
    _, key_path, trust_path = create_trust(tmp_path)
    before = key_path.read_bytes(), trust_path.read_bytes()
    with pytest.raises(ConflictError, match="never overwritten") as caught:
        create_trust(tmp_path)
    assert caught.value.exit_code == 7
    assert (key_path.read_bytes(), trust_path.read_bytes()) == before


def test_init_killed_between_key_and_trust_root_finishes_with_that_key(tmp_path: Path) -> None:
    root, key_path, trust_path = create_trust(tmp_path)
    key = key_path.read_bytes()
    trust_path.unlink()
    assert create_trust(tmp_path)[0] == root
    assert key_path.read_bytes() == key


def test_the_private_key_stands_in_no_other_file(tmp_path: Path) -> None:
    _, key_path, trust_path = create_trust(tmp_path)
    assert sorted(tmp_path.iterdir()) == [key_path, trust_path]
    secret = base64.b64decode(key_path.read_text().splitlines()[1])[-32:]
    assert secret not in base64.b64decode(json.loads(trust_path.read_bytes())[0]["payload"])


def test_a_signer_outside_the_bundle_role_is_refused_before_the_work() -> None:
    with pytest.raises(SignatureError):
        require_bundle_key(parse(trust_of(ALICE)), EVE)


# the chain


def test_the_trust_digest_is_that_of_the_newest_payload() -> None:
    raw = chain((FIRST, (ALICE,)), (SECOND, (ALICE, BOB)))
    assert trust_digest(parse(raw)) == Digest.of(SECOND)


def test_a_chain_is_walked_to_its_newest_version() -> None:
    raw = chain((FIRST, (ALICE,)), (SECOND, (ALICE, BOB)), (THIRD, (BOB, CAROL)))
    assert parse(raw).version == 3
    assert set(parse(raw).keys) == {CAROL.public_key.key_id}


def test_fifty_rotations_are_walked() -> None:
    steps, before = [], ALICE
    for version in range(1, 51):
        after = signer(100 + version)
        steps.append((trust_payload(keys(after), version=version), (before, after)))
        before = after
    assert parse(chain(*steps)).version == 50


def test_roles_have_keys_of_their_own() -> None:
    raw = chain((trust_payload(keys(ALICE), bundle=keys(BOB)), (ALICE,)))
    root = parse(raw)
    root.verify_bundle(signed(b"x", BOB, payload_type="t"), payload_type="t", subject="root")
    with pytest.raises(SignatureError):
        root.verify_bundle(signed(b"x", ALICE, payload_type="t"), payload_type="t", subject="root")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(chain((FIRST, (EVE,))), id="version 1 not signed by its own role"),
        pytest.param(chain((FIRST, (ALICE,)), (SECOND, (BOB,))), id="B19 signed only by the new keys"),
        pytest.param(chain((FIRST, (ALICE,)), (SECOND, (ALICE,))), id="signed only by the old keys"),
        pytest.param(chain((FIRST, (ALICE,)), (THIRD, (ALICE, CAROL))), id="B20 version 2 missing"),
        pytest.param(chain((SECOND, (BOB,))), id="B20 version 1 missing"),
        pytest.param(
            chain((trust_payload(keys(ALICE, BOB), threshold=2), (ALICE,))), id="one of two signatures in version 1"
        ),
        pytest.param(
            trust_json(ALICE.sign(FIRST, "application/vnd.eks-bundler.root.v1+json")), id="B04 a bundle's root"
        ),
    ],
)
def test_a_chain_with_a_broken_link_is_refused(raw: bytes) -> None:
    with pytest.raises(SignatureError) as caught:
        parse(raw)
    assert caught.value.exit_code == 3


def first(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Version 1 with a change, signed by Alice."""
    document = json.loads(FIRST)
    change(document)
    return chain((canonical_json(document), (ALICE,)))


A = ALICE.public_key.key_id


def second_id(document: dict[str, Any]) -> None:
    document["keys"]["deadbeef"] = document["keys"][A]
    document["roles"]["bundle"] = {"keyIds": [A, "deadbeef"], "threshold": 2}


def role(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["roles"]["bundle"].update(fields)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(first(second_id), id="B07 one key under two ids"),
        pytest.param(first(role(threshold=0)), id="B23 threshold 0"),
        pytest.param(first(role(threshold=-1)), id="B23 threshold -1"),
        pytest.param(first(role(threshold=2)), id="B23 threshold above the keys"),
        pytest.param(first(role(threshold=True)), id="threshold true"),
        pytest.param(first(role(threshold="1")), id="threshold text"),
        pytest.param(first(role(keyIds=[A, A])), id="one key id twice"),
        pytest.param(first(role(keyIds=[])), id="no keys"),
        pytest.param(first(role(keyIds=["f" * 64])), id="a key id without a key"),
        pytest.param(first(role(keyIds=[[A]])), id="a key id that is a list"),
        pytest.param(first(role(extra=1)), id="an unknown key in a role"),
        pytest.param(first(lambda d: d.update(version=0)), id="version 0"),
        pytest.param(first(lambda d: d.update(version=True)), id="version true"),
        pytest.param(first(lambda d: d.update(version="1")), id="version text"),
        pytest.param(first(lambda d: d.update(extra=1)), id="an unknown key"),
        pytest.param(first(lambda d: d.update(keys=[])), id="keys is a list"),
        pytest.param(first(lambda d: d["roles"].pop("root")), id="no root role"),
        pytest.param(first(lambda d: d["keys"].update({A: "AAAA"})), id="a key that is none"),
        pytest.param(first(lambda d: d["keys"].update({A: 7})), id="a key that is a number"),
        pytest.param(chain((b" " + FIRST, (ALICE,))), id="a payload in another spelling"),
        pytest.param(chain((b"[]", (ALICE,))), id="a payload that is a list"),
        pytest.param(trust_of(ALICE).replace(b":", b": "), id="a file in another spelling"),
        pytest.param(trust_of(ALICE)[1:-2], id="an envelope instead of a list"),
        pytest.param(b"[]\n", id="an empty list"),
        pytest.param(b"[7]\n", id="a list of numbers"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_trust_root_is_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse(raw)
    assert caught.value.exit_code == 3


def test_b24_a_trust_root_with_ten_thousand_keys_is_refused() -> None:
    with pytest.raises(LimitError):
        parse(first(lambda d: d["keys"].update({f"{n:064x}": "AAAA" for n in range(10_000)})))


def test_b24_a_huge_trust_json_is_refused_unread() -> None:
    with pytest.raises(LimitError):
        parse(b" " * (100 << 20))


def test_more_than_a_thousand_versions_are_refused() -> None:
    with pytest.raises(LimitError):
        parse(b"[" + b",".join([b"1"] * 1001) + b"]")


# the site's store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "trust"


def accept(raw: bytes, store: Path) -> TrustRoot:
    return accept_trust(raw, expect=trust_digest(parse(raw)), folder=store)


def test_what_was_accepted_is_believed(store: Path) -> None:
    root = accept(trust_of(ALICE), store)
    assert load_accepted_trust(store) == root
    assert stat.S_IMODE(store.stat().st_mode) == 0o755
    assert stat.S_IMODE((store / "trust.json").stat().st_mode) == 0o644


def test_nothing_is_believed_before_a_person_accepts_it(store: Path) -> None:
    with pytest.raises(UntrustedError) as caught:
        load_accepted_trust(store)
    assert caught.value.exit_code == 3
    assert caught.value.hint.endswith(": bundle trust accept trust.json --expect sha256:…")


def test_another_digest_than_the_expected_is_refused_and_leaves_nothing(store: Path) -> None:
    with pytest.raises(DigestError, match="has another trust digest") as caught:
        accept_trust(trust_of(EVE), expect=trust_digest(parse(trust_of(ALICE))), folder=store)
    assert "Do not accept it" in caught.value.hint
    assert not store.exists()


def test_the_expected_digest_does_not_make_a_broken_chain_good(store: Path) -> None:
    raw = chain((FIRST, (ALICE,)), (SECOND, (BOB,)))
    with pytest.raises(SignatureError):
        accept_trust(raw, expect=Digest.of(SECOND), folder=store)
    assert not store.exists()


def test_accepting_twice_writes_once(store: Path) -> None:
    accept(trust_of(ALICE), store)
    before = (store / "trust.json").stat()
    accept(trust_of(ALICE), store)
    assert (store / "trust.json").stat() == before


def test_a_continued_chain_replaces_the_shorter_one(store: Path) -> None:
    accept(chain((FIRST, (ALICE,))), store)
    assert accept(chain((FIRST, (ALICE,)), (SECOND, (ALICE, BOB))), store).version == 2
    assert load_accepted_trust(store).version == 2


def test_b21_an_older_version_than_the_site_has_is_refused(store: Path) -> None:
    accept(chain((FIRST, (ALICE,)), (SECOND, (ALICE, BOB))), store)
    with pytest.raises(PolicyError, match="accepted version 2 before"):
        accept(chain((FIRST, (ALICE,))), store)
    assert load_accepted_trust(store).version == 2


def test_an_unrelated_trust_root_does_not_replace_the_accepted_one(store: Path) -> None:
    accept(trust_of(ALICE), store)
    with pytest.raises(PolicyError, match="does not continue") as caught:
        accept(trust_of(EVE), store)
    assert f"remove {store / 'trust.json'} first" in caught.value.hint


@pytest.mark.parametrize("name", ["", "trust.json"])
def test_l09_a_store_that_everybody_may_change_is_refused(store: Path, name: str) -> None:
    accept(trust_of(ALICE), store)
    path = store / name
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(PolicyError, match="every user"):
        load_accepted_trust(store)
    with pytest.raises(PolicyError):
        accept(trust_of(ALICE), store)


def test_l09_an_empty_store_that_everybody_may_change_is_refused(store: Path) -> None:
    store.mkdir(parents=True)
    store.chmod(0o777)
    with pytest.raises(PolicyError):
        accept(trust_of(ALICE), store)


@pytest.mark.parametrize("name", ["", "trust.json"])
def test_l09_a_store_of_another_user_is_refused(store: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(trust_of(ALICE), store)
    if os.geteuid() == 0:
        os.chown(store / name, 12345, -1)
    else:  # only root can give a file away: then we are somebody else ourselves
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PolicyError, match="neither root nor you"):
        load_accepted_trust(store)


def test_a_link_in_place_of_the_accepted_file_is_refused(store: Path, tmp_path: Path) -> None:
    store.mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(trust_of(EVE))
    (store / "trust.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError):
        load_accepted_trust(store)


def test_a_pipe_in_place_of_the_accepted_file_is_refused_at_once(store: Path) -> None:
    store.mkdir(parents=True)
    os.mkfifo(store / "trust.json")
    with pytest.raises(PolicyError, match="not a regular file"):
        load_accepted_trust(store)


def test_a_damaged_store_is_refused_not_repaired(store: Path) -> None:
    accept(trust_of(ALICE), store)
    (store / "trust.json").write_bytes(b"[]")
    with pytest.raises(RefusedError):
        load_accepted_trust(store)


def test_a_store_that_cannot_be_made_is_the_hosts_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalResourceError):
        accept(trust_of(ALICE), tmp_path / "file" / "trust")


def test_the_store_is_the_chosen_one_else_the_systems_else_the_users(tmp_path: Path) -> None:
    system = tmp_path / "system"
    environ = {"XDG_CONFIG_HOME": "/xdg", "HOME": "/home/me"}
    assert trust_folder(Path("mine"), environ=environ, system=system) == Path("mine")
    assert trust_folder(None, environ=environ, system=system) == Path("/xdg/eks-bundler/trust")
    assert trust_folder(None, environ={"HOME": "/home/me"}, system=system) == Path("/home/me/.config/eks-bundler/trust")
    relative = {"XDG_CONFIG_HOME": "relative", "HOME": "/home/me"}
    assert trust_folder(None, environ=relative, system=system) == Path("/home/me/.config/eks-bundler/trust")
    system.mkdir()
    assert trust_folder(None, environ=environ, system=system) == system
