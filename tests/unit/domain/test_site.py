from __future__ import annotations

import pytest

from bundler.errors import DefinitionError
from tests.fakes.sites import make_site


@pytest.mark.parametrize("port", ["99999", "https", "-1"])
def test_a_port_that_is_none_is_an_error_of_the_site_file(port: str) -> None:
    cluster = make_site().cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
    with pytest.raises(DefinitionError, match=r"site.yaml:.*[Pp]ort"):
        make_site(cluster={**cluster, "endpoint": f"https://cluster.example:{port}"})


def test_an_override_with_a_port_that_is_none_is_an_error_of_the_site_file() -> None:
    with pytest.raises(DefinitionError, match="port"):
        make_site(endpoints={"ecr.dkr": "vpce.example:99999"})
