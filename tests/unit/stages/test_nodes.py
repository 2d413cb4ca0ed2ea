"""Node groups: what is written when, and what never is."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.events import Event, Noted
from bundler.domain.infrastructure import MachineImage
from bundler.domain.node_template import LaunchTemplate, ScalingGroup, node_template
from bundler.domain.plan import Plan
from bundler.domain.site import Site
from bundler.errors import ConflictError
from bundler.stages.nodes import NodesPlan, nodes, observe_nodes, plan_nodes
from tests.fakes.node_cloud import KilledError, NodeCloud
from tests.fakes.sites import PROFILE, group_document, make_site

AMI = "ami-0123456789abcdef0"
IMAGE = MachineImage(id=AMI, state="available", architecture="amd64", root_device="/dev/xvda", root_gib=20)
BUNDLE, OTHER = Digest.of(b"bundle"), Digest.of(b"other")


def planned(site: Site, cloud: NodeCloud, bundle: Digest = BUNDLE) -> NodesPlan:
    found = observe_nodes(site, templates=cloud, groups=cloud)
    return plan_nodes(site, bundle=bundle, images={group.name: IMAGE for group in site.node_groups}, found=found)


def apply(site: Site, cloud: NodeCloud, bundle: Digest = BUNDLE) -> Plan:
    plan = planned(site, cloud, bundle)
    nodes(plan, templates=cloud, groups=cloud)
    return plan.plan


def site_of(**changes: Any) -> Site:
    return make_site(nodeGroups=[group_document(**changes)])


def data_of(site: Site) -> Mapping[str, Any]:
    return node_template(site, site.node_groups[0], IMAGE).data


def test_a_new_group_gets_a_template_and_then_an_auto_scaling_group() -> None:
    cloud = NodeCloud()
    plan = apply(make_site(), cloud)
    assert [str(action) for action in plan] == [
        "create launch template c1-main",
        "create Auto Scaling group c1-main (min 1, max 4, desired 2)",
    ]
    group = cloud.groups["c1-main"]
    assert (group.desired, group.template_id, group.version) == (2, "lt-c1-main", "1")
    assert group.subnets == {"subnet-0000000000000000a", "subnet-0000000000000000b"}


def test_the_third_run_writes_nothing_even_for_another_bundle() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    done = len(cloud.writes)
    assert apply(make_site(), cloud).empty
    assert apply(make_site(), cloud, OTHER).empty
    assert len(cloud.writes) == done


def test_desired_is_written_at_creation_and_never_again() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    cloud.groups["c1-main"] = replace(cloud.groups["c1-main"], desired=4)
    assert apply(site_of(desiredSize=1), cloud).empty
    apply(site_of(desiredSize=1, maxSize=9), cloud)
    assert cloud.groups["c1-main"].desired == 4


def test_size_limits_follow_the_site() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    plan = apply(site_of(minSize=2, maxSize=7), cloud)
    assert [str(action) for action in plan] == ["update Auto Scaling group c1-main (min 2, max 7, template version 1)"]
    group = cloud.groups["c1-main"]
    assert (group.min_size, group.max_size) == (2, 7)


def test_other_content_makes_a_version_and_the_group_follows_it() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    plan = apply(site_of(instanceType="m6i.xlarge"), cloud)
    assert [action.verb for action in plan] == ["update", "update"]
    assert cloud.groups["c1-main"].version == "2"
    assert apply(site_of(instanceType="m6i.xlarge"), cloud).empty


def test_going_back_uses_the_version_that_exists() -> None:
    cloud = NodeCloud()
    for kind in ("m6i.large", "m6i.xlarge", "m6i.large"):
        apply(site_of(instanceType=kind), cloud)
    assert cloud.groups["c1-main"].version == "1"
    assert len(cloud.templates["c1-main"].versions) == 2


def test_of_two_versions_with_our_content_the_one_in_use_stays() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    template = cloud.templates["c1-main"]
    twin = replace(template.versions[0], number=2)
    cloud.templates["c1-main"] = replace(template, versions=(*template.versions, twin))
    assert apply(make_site(), cloud).empty


@pytest.mark.parametrize("die_at", [1, 2, 3])
def test_killed_before_any_write_a_second_run_finishes_without_doubles(die_at: int) -> None:
    cloud = NodeCloud(die_at=die_at)
    site = make_site(nodeGroups=[group_document(), group_document(name="other")])
    with pytest.raises(KilledError):
        apply(site, cloud)
    cloud.die_at = 0
    apply(site, cloud)
    assert apply(site, cloud).empty
    assert [len(template.versions) for template in cloud.templates.values()] == [1, 1]


def test_a_second_call_carries_the_token_of_the_first() -> None:
    tokens = []
    for _ in range(2):
        cloud = NodeCloud()
        apply(make_site(), cloud)
        tokens += cloud.tokens
    assert len(set(tokens)) == 1
    other = NodeCloud()
    apply(make_site(), other, OTHER)
    assert other.tokens[0] not in tokens


@pytest.mark.parametrize("tags", [{}, {"bundle:cluster": "c2"}])
def test_what_others_made_under_our_name_is_refused(tags: dict[str, str]) -> None:
    foreign = LaunchTemplate(id="lt-1", name="c1-main", tags=tags)
    with pytest.raises(ConflictError, match="launch template c1-main"):
        planned(make_site(), NodeCloud(templates={"c1-main": foreign}))
    group = ScalingGroup(name="c1-main", min_size=0, max_size=1, desired=0, template_id=None, version="", tags=tags)
    with pytest.raises(ConflictError, match="Auto Scaling group c1-main"):
        planned(make_site(), NodeCloud(groups={"c1-main": group}))


def test_tags_that_somebody_removed_come_back() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    group = cloud.groups["c1-main"]
    kept = {key: value for key, value in group.tags.items() if "autoscaler" not in key}
    cloud.groups["c1-main"] = replace(group, tags=kept)
    apply(make_site(), cloud)
    assert cloud.groups["c1-main"].tags == group.tags
    assert cloud.writes[-1] == "CreateOrUpdateTags c1-main"


def test_other_subnets_are_told_and_not_moved() -> None:
    cloud = NodeCloud()
    apply(make_site(), cloud)
    plan = planned(site_of(subnets=["subnet-0000000000000000c"]), cloud)
    told: list[Event] = []
    nodes(plan, templates=cloud, groups=cloud, emit=told.append)
    assert plan.plan.empty
    assert [event.warning for event in told if isinstance(event, Noted)] == [True]


def test_the_template_is_what_the_design_asks_for() -> None:
    key = "arn:aws:kms:ap-northeast-1:111122223333:key/k"
    data = data_of(site_of(hopLimit=2, volume={"sizeGiB": "50", "kmsKey": key}, keyPair="ops"))
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 2,
    }
    (interface,) = data["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is False
    assert interface["Groups"] == ["sg-0123456789abcdef0"]
    assert data["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/xvda",
            "Ebs": {
                "VolumeType": "gp3",
                "VolumeSize": 50,
                "Encrypted": True,
                "DeleteOnTermination": True,
                "KmsKeyId": key,
            },
        }
    ]
    assert data["KeyName"] == "ops"
    assert data["IamInstanceProfile"] == {"Arn": PROFILE}
    assert b"NodeConfig" in base64.b64decode(data["UserData"])


def test_without_a_key_pair_or_kms_key_none_is_named() -> None:
    data = data_of(make_site())
    assert "KeyName" not in data
    assert "KmsKeyId" not in data["BlockDeviceMappings"][0]["Ebs"]
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def test_a_group_that_may_be_empty_tells_the_autoscaler_what_its_nodes_would_be() -> None:
    cloud = NodeCloud()
    taints = [{"key": "only", "value": "batch", "effect": "NoSchedule"}]
    apply(site_of(minSize=0, labels={"pool": "main"}, taints=taints), cloud)
    tags = cloud.groups["c1-main"].tags
    prefix = "k8s.io/cluster-autoscaler"
    assert tags[f"{prefix}/node-template/label/pool"] == "main"
    assert tags[f"{prefix}/node-template/taint/only"] == "batch:NoSchedule"
    assert tags[f"{prefix}/c1"] == "owned"


groups = st.fixed_dictionaries(
    {
        "minSize": st.integers(0, 2),
        "desiredSize": st.integers(2, 3),
        "maxSize": st.integers(3, 6),
        "hopLimit": st.integers(1, 3),
        "instanceType": st.sampled_from(["m6i.large", "m6i.xlarge"]),
        "labels": st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")),
    }
)


@given(st.lists(groups, min_size=1, max_size=4))
def test_a_plan_made_after_its_application_is_empty(history: list[dict[str, Any]]) -> None:
    cloud = NodeCloud()
    for changes in history:
        apply(site_of(**changes), cloud)
        assert planned(site_of(**changes), cloud).plan.empty


def mappings(**changes: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = data_of(site_of(**changes))["BlockDeviceMappings"]
    return found


def test_the_volume_of_a_group_is_the_root_volume_and_on_bottlerocket_the_data_volume() -> None:
    encrypted = {"VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    sized = {"DeviceName": "/dev/xvda", "Ebs": {**encrypted, "VolumeSize": 80}}
    for os in ("al2023", "al2"):
        assert mappings(os=os, volume={"sizeGiB": 80}) == [sized]
    assert mappings(os="bottlerocket", volume={"sizeGiB": 80}) == [
        {"DeviceName": "/dev/xvda", "Ebs": encrypted},
        {**sized, "DeviceName": "/dev/xvdb"},
    ]


def test_both_volumes_of_bottlerocket_have_the_key() -> None:
    key = "arn:aws:kms:ap-northeast-1:111122223333:key/1"
    found = mappings(os="bottlerocket", volume={"kmsKey": key})
    assert [mapping["Ebs"]["KmsKeyId"] for mapping in found] == [key, key]


def test_a_group_with_a_legacy_system_is_warned_of_at_every_install() -> None:
    cloud, site = NodeCloud(), site_of(os="al2")
    for _ in range(2):
        said: list[Event] = []
        nodes(planned(site, cloud), templates=cloud, groups=cloud, emit=said.append)
        [note] = [event for event in said if isinstance(event, Noted)]
        assert note.warning
        assert "2025-11-26" in note.text
