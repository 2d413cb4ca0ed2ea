"""Which authorities we and the programs we run believe."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from bundler.adapters.authorities import believing, joined
from bundler.errors import LocalResourceError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / f"{name}.pem" for name in ("usual", "aws", "added")}
    for name, path in found.items():
        path.write_text(f"{name}\n")
    return found


def test_each_file_is_joined_once(files: dict[str, Path]) -> None:
    assert joined(files["usual"], files["added"], files["usual"]) == b"usual\n\nadded\n\n"
    with pytest.raises(LocalResourceError, match=r"none\.pem"):
        joined(Path("/none.pem"))


def test_a_program_believes_the_added_file_beside_what_its_variables_name(
    files: dict[str, Path], tmp_path: Path
) -> None:
    environ = {"PATH": "/bin", "SSL_CERT_FILE": str(files["usual"]), "AWS_CA_BUNDLE": str(files["aws"])}
    made = believing(environ, files["added"], work=tmp_path)
    assert made["PATH"] == "/bin"
    assert Path(made["SSL_CERT_FILE"]).read_text() == "usual\n\nadded\n\n"
    assert Path(made["AWS_CA_BUNDLE"]).read_text() == "aws\n\nadded\n\n"


def test_where_no_variable_names_one_the_systems_authorities_stay(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ssl.get_default_verify_paths()._replace(cafile=str(files["usual"]))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    made = believing({}, files["added"], work=tmp_path)
    texts = [Path(made[name]).read_text() for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE")]
    assert texts == ["usual\n\nadded\n\n"] * 2
    (tmp_path / "hashed").mkdir()
    (tmp_path / "hashed" / "0a1b2c3d.0").write_text("one\n")
    paths = paths._replace(cafile=None, capath=str(tmp_path / "hashed"))
    assert Path(believing({}, files["added"], work=tmp_path)["SSL_CERT_FILE"]).read_text() == "one\n\nadded\n\n"


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    assert believing({"SSL_CERT_FILE": "/x"}, None, work=tmp_path) == {"SSL_CERT_FILE": "/x"}
    assert not list(tmp_path.iterdir())
