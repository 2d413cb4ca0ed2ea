"""kubeconfig."""

from __future__ import annotations

import base64
import json

from bundler.domain.kubeconfig import kubeconfig
from tests.fakes.sites import authority, make_site


def test_it_names_the_cluster_and_a_program_for_tokens_and_holds_no_secret() -> None:
    raw = kubeconfig(make_site(), command=("bundle", "token", "--site", "/x/site.yaml"))
    document = json.loads(raw)
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    assert cluster["server"] == "https://EXAMPLE.gr7.ap-northeast-1.eks.amazonaws.com"
    assert base64.b64decode(cluster["certificate-authority-data"]) == authority()
    assert user == {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "bundle",
            "args": ["token", "--site", "/x/site.yaml"],
            "interactiveMode": "Never",
            "provideClusterInfo": False,
        }
    }
    assert document["current-context"] == document["contexts"][0]["name"]


def test_variables_for_the_program_are_sorted() -> None:
    raw = kubeconfig(make_site(), command=("bundle",), environ={"B": "2", "A": "1"})
    assert json.loads(raw)["users"][0]["user"]["exec"]["env"] == [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "2"},
    ]
