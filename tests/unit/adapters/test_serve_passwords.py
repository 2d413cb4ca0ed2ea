"""htpasswd files with bcrypt, as docker-registry takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.adapters.serve_passwords import MAX_FILE_BYTES, Passwords, load_passwords
from bundler.errors import LocalResourceError, UsageError

PASSWORD = "s3cret-PASSWORD"
HASH = "$2b$04$u/7TEA5nz5EcAGrPs/Ov7.WgpDXSWfQ/4wbrSHm8kgMEyf/gKZmUe"  # bcrypt of PASSWORD


def load(folder: Path, content: str | bytes) -> Passwords:
    path = folder / "htpasswd"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_passwords(path)


@pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
def test_every_kind_of_bcrypt_is_understood(tmp_path: Path, kind: str) -> None:
    users = load(tmp_path, f"# who\n\n  me:{HASH.replace('2b', kind, 1)}\r\n")
    assert users.allowed("me", PASSWORD)
    assert users.allowed("me", PASSWORD), "again"
    assert not users.allowed("me", PASSWORD + "x")
    assert not users.allowed("me", "")
    assert not users.allowed("you", PASSWORD)
    assert not users.allowed("", PASSWORD)


def test_a_hash_is_computed_once_for_a_right_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    check = bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        asked.append(hashed)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    users = load(tmp_path, f"me:{HASH}\n")
    assert [users.allowed("me", PASSWORD) for _ in range(5)] == [True] * 5
    assert len(asked) == 1
    assert not users.allowed("nobody", PASSWORD)
    assert not users.allowed("nobody", PASSWORD)
    assert len(asked) == 3, "somebody unknown takes as long as a wrong password, of the highest cost there is"
    assert asked[-1].startswith(b"$2b$04$")
    assert not check(b"", asked[-1]), "a hash that bcrypt computes, and does not refuse at once"


def test_what_bcrypt_does_not_look_at_does_not_count(tmp_path: Path) -> None:
    long = "ü" * 36 + "tail"
    hashed = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    assert load(tmp_path, f"me:{hashed}").allowed("me", long)


@given(st.text(max_size=30))
def test_no_other_password_is_right(password: str) -> None:
    users = Passwords({b"me": HASH.encode()})
    try:
        assert users.allowed("me", password) is (password == PASSWORD)
    except UnicodeEncodeError:
        pytest.fail("credentials are decoded from UTF-8: they have no surrogates")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no user"),
        ("# nobody\n", "names no user"),
        ("me:CANARY", "line 1 is no user"),
        ("me", "line 1 is no user"),
        (f"me:{HASH}\n:{HASH}", "line 2 is no user"),
        ("me:$apr1$CANARY$xxxxxxxxxxxxxxxxxxxxxx", "line 1 is no user"),
        ("me:{SHA}CANARY=", "line 1 is no user"),
        (f"me:{HASH.replace('$04$', '$31$')}", "line 1 is no user"),
        (f"me:{HASH}\nme:{HASH[:-1]}.", "line 2 names a user a second time"),
        (b"x" * (MAX_FILE_BYTES + 1), "more than any honest"),
    ],
)
def test_other_files_are_refused_and_not_shown(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load(tmp_path, content)
    assert "CANARY" not in f"{caught.value} {caught.value.hint}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalResourceError, match="cannot be read"):
        load_passwords(tmp_path / "absent")
