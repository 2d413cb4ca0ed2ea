"""`--ca-file` reaches the programs that we run, and says nothing about who is the cluster."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from bundler.errors import BundleError
from bundler.lab.tls import make_authority, server_context
from bundler.lab.tools import Tools
from bundler.wiring import Surroundings
from bundler.wiring.inside import InstallOptions, status_of
from tests.fakes.scripted_server import Asked, Reply, ScriptedServer
from tests.fakes.sites import make_site

pytestmark = pytest.mark.loopback
VERSION = json.dumps({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}).encode()
PLUGIN = """\
#!/bin/sh
cat "$SSL_CERT_FILE" > "{seen}/ssl"
cat "$AWS_CA_BUNDLE" > "{seen}/aws"
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {{"token": "t"}}}}'
"""


def api(asked: Asked) -> Reply:
    return Reply(
        body=VERSION, headers={"Content-Type": "application/json"}, status=200 if "version" in asked.path else 404
    )


@pytest.mark.parametrize("is_the_clusters", [True, False])
def test_the_token_plugin_believes_the_file_and_kubectl_only_the_sites_authority(
    is_the_clusters: bool, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, other = make_authority("signer"), make_authority("other")
    (tmp_path / "ca.pem").write_bytes(signer.pem)
    (tmp_path / "plugin").write_text(PLUGIN.format(seen=tmp_path))
    (tmp_path / "plugin").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools.kubectl.path.parent}:{os.environ['PATH']}")
    environ = {"PATH": os.environ["PATH"], "XDG_STATE_HOME": str(tmp_path / "state")}
    with ScriptedServer(api, tls=server_context(signer, ("127.0.0.1",), folder=tmp_path / "tls")) as server:
        pem = (signer if is_the_clusters else other).pem
        cluster = {
            "name": "c1",
            "endpoint": server.url,
            "certificateAuthority": base64.b64encode(pem).decode(),
            "serviceCidr": "10.100.0.0/16",
        }
        with pytest.raises(BundleError):  # it has a version and nothing else
            status_of(
                make_site(cluster=cluster),
                Surroundings(environ=environ, ca_file=tmp_path / "ca.pem"),
                InstallOptions(token_command=(str(tmp_path / "plugin"),), deadline_s=1),
            )
        assert bool(server.requests) is is_the_clusters
    for name in ("ssl", "aws"):
        seen = (tmp_path / name).read_bytes()
        assert signer.pem in seen
        assert seen.count(b"BEGIN CERTIFICATE") > 50
