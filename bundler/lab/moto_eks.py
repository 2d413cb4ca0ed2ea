"""moto's EKS corrected: access entries and policies, and a cluster that says where the lab's control plane is.

Facts: reference of the EKS API (CreateAccessEntry, AssociateAccessPolicy) and user guide "Create access entries": types
but STANDARD take neither groups nor a user name nor policies, and there is one entry for a principal.
"""

from __future__ import annotations

import base64
import datetime as dt
import uuid
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moto.core.responses import ActionResult
from moto.eks import urls
from moto.eks.models import Cluster
from moto.eks.responses import EKSResponse
from moto.iam.models import iam_backends

from bundler.lab.moto_patch import Refused, route_all

_NODE_USER = "system:node:{{EC2PrivateDNSName}}"
_TYPES = {
    "STANDARD": (None, None),
    "EC2_LINUX": (("system:nodes",), _NODE_USER),
    "EC2_WINDOWS": (("eks:kube-proxy-windows", "system:nodes"), _NODE_USER),
    "FARGATE_LINUX": (("system:bootstrappers", "system:node-proxier", "system:nodes"), "system:node:{{SessionName}}"),
    "EC2": ((), "system:node:{{SessionName}}"),
    "HYBRID_LINUX": (("system:nodes",), "system:node:{{SessionName}}"),
}
ADMIN_POLICY = "AmazonEKSClusterAdminPolicy"
POLICIES = (
    ADMIN_POLICY, "AmazonEKSAdminPolicy", "AmazonEKSEditPolicy", "AmazonEKSViewPolicy", "AmazonEKSAdminViewPolicy",
)  # fmt: skip
_NEW_PATHS = (
    "{0}/clusters/(?P<name>[^/]+)/access-entries$",
    "{0}/clusters/(?P<name>[^/]+)/access-entries/(?P<principalArn>.+)/access-policies$",
    "{0}/clusters/(?P<name>[^/]+)/access-entries/(?P<principalArn>.+)/access-policies/(?P<policyArn>.+)$",
    "{0}/clusters/(?P<name>[^/]+)/access-entries/(?P<principalArn>.+)$",
    "{0}/clusters/(?P<name>[^/]+)/updates/(?P<updateId>[^/]+)$",
    "{0}/access-policies$",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What the lab's control plane says of itself."""

    endpoint: str
    ca_pem: bytes
    service_cidr: str

    @property
    def certificate_authority(self) -> str:
        """Base64 of the PEM, as DescribeCluster gives it."""
        return base64.b64encode(self.ca_pem).decode()


@dataclass(slots=True, kw_only=True)
class AccessEntry:
    """One entry; `policies` by ARN."""

    cluster: str
    principal: str
    arn: str
    type: str
    username: str
    groups: list[str]
    tags: dict[str, str]
    created: dt.datetime
    modified: dt.datetime
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def result(self) -> dict[str, Any]:
        """The entry as the API answers it."""
        return {
            "clusterName": self.cluster, "principalArn": self.principal, "kubernetesGroups": self.groups,
            "accessEntryArn": self.arn, "createdAt": self.created, "modifiedAt": self.modified, "tags": self.tags,
            "username": self.username, "type": self.type,
        }  # fmt: skip


def correct_eks(facts: ClusterFacts) -> None:
    """Put the corrected responses in moto's place; clusters are where `facts` says."""
    LabEksResponse.facts = facts
    for path in _NEW_PATHS:
        urls.url_paths[path] = LabEksResponse.dispatch
    route_all(urls.url_paths, LabEksResponse.dispatch)


class LabEksResponse(EKSResponse):
    """The operations of EKS that the tool calls and moto lacks or gets wrong."""

    facts: ClusterFacts
    entries: ClassVar[dict[tuple[str, str], AccessEntry]] = {}
    updates: ClassVar[dict[str, dict[str, Any]]] = {}

    def create_cluster(self) -> ActionResult:
        """A cluster with a real endpoint and CA; accessConfig is kept, its creator becomes administrator."""
        super().create_cluster()
        cluster = self._cluster()
        config = self._get_param("accessConfig") or {}
        mode = config.get("authenticationMode", "CONFIG_MAP")
        network = self._get_param("kubernetesNetworkConfig") or {}
        vars(cluster).update(
            endpoint=self.facts.endpoint,
            certificate_authority={"data": self.facts.certificate_authority},
            access_config={"authenticationMode": mode},
            kubernetes_network_config={"serviceIpv4Cidr": self.facts.service_cidr, "ipFamily": "ipv4", **network},
        )
        bootstrap = config.get("bootstrapClusterCreatorAdminPermissions", True)
        if bootstrap and mode != "CONFIG_MAP":
            self._add_creator(cluster)
        return ActionResult({"cluster": cluster})

    def update_cluster_config(self) -> ActionResult:
        """Keep accessConfig and answer with the update, as AWS does."""
        config = self._get_param("accessConfig")
        if config is None:
            super().update_cluster_config()
        else:
            vars(self._cluster())["access_config"] = {"authenticationMode": config["authenticationMode"]}
        kind = "EndpointAccessUpdate" if config is None else "AccessConfigUpdate"
        update = {"id": str(uuid.uuid4()), "status": "Successful", "type": kind, "createdAt": _now(), "errors": []}
        self.updates[str(update["id"])] = update
        return ActionResult({"update": update})

    def describe_update(self) -> ActionResult:
        """One update of a cluster."""
        update = self.updates.get(self._get_param("updateId"))
        if update is None:
            raise Refused("ResourceNotFoundException", f"No update found for ID: {self._get_param('updateId')}")
        return ActionResult({"update": update})

    def create_access_entry(self) -> ActionResult:
        """Create an entry for a role or user that exists."""
        cluster, principal = self._cluster_with_entries(), self._get_param("principalArn")
        kind = self._get_param("type") or "STANDARD"
        if kind not in _TYPES:
            raise Refused("InvalidParameterException", f"The type {kind} is not valid")
        self._need_principal(principal)
        if (cluster.name, principal) in self.entries:
            message = "The specified access entry resource is already in use on this cluster."
            raise Refused("ResourceInUseException", message)
        entry = self._new_entry(cluster.name, principal, kind)
        self.entries[cluster.name, principal] = entry
        return ActionResult({"accessEntry": entry.result})

    def describe_access_entry(self) -> ActionResult:
        """One entry."""
        return ActionResult({"accessEntry": self._entry().result})

    def list_access_entries(self) -> ActionResult:
        """ARNs of all principals with an entry."""
        cluster, policy = self._cluster_with_entries(), self._get_param("associatedPolicyArn")
        found = [entry for (name, _), entry in sorted(self.entries.items()) if name == cluster.name]
        names = [entry.principal for entry in found if policy is None or policy in entry.policies]
        return ActionResult({"accessEntries": names})

    def update_access_entry(self) -> ActionResult:
        """Change groups or user name of a STANDARD entry."""
        entry = self._entry()
        groups, username = self._get_param("kubernetesGroups"), self._get_param("username")
        _refuse_system_groups(groups or [])
        entry.groups = entry.groups if groups is None else groups
        entry.username = username or entry.username
        entry.modified = _now()
        return ActionResult({"accessEntry": entry.result})

    def delete_access_entry(self) -> ActionResult:
        """Take an entry away."""
        entry = self._entry()
        del self.entries[entry.cluster, entry.principal]
        return ActionResult({})

    def associate_access_policy(self) -> ActionResult:
        """Give a STANDARD entry one of AWS's access policies."""
        entry, policy = self._entry(), self._get_param("policyArn")
        if entry.type != "STANDARD":
            raise Refused("InvalidRequestException", f"Access policies are not for entries of type {entry.type}")
        if policy not in self._policy_arns():
            raise Refused("InvalidParameterException", "The policyArn parameter format is not valid")
        found = {
            "policyArn": policy, "accessScope": self._get_param("accessScope"),
            "associatedAt": _now(), "modifiedAt": _now(),
        }  # fmt: skip
        entry.policies[policy] = found
        answer = {"clusterName": entry.cluster, "principalArn": entry.principal}
        return ActionResult({**answer, "associatedAccessPolicy": found})

    def disassociate_access_policy(self) -> ActionResult:
        """Take a policy from an entry."""
        entry, policy = self._entry(), self._get_param("policyArn")
        if entry.policies.pop(policy, None) is None:
            raise Refused("ResourceNotFoundException", "The specified policyArn is not associated")
        return ActionResult({})

    def list_associated_access_policies(self) -> ActionResult:
        """The policies of one entry."""
        entry = self._entry()
        answer = {"clusterName": entry.cluster, "principalArn": entry.principal}
        return ActionResult({**answer, "associatedAccessPolicies": list(entry.policies.values())})

    def list_access_policies(self) -> ActionResult:
        """AWS's access policies."""
        return ActionResult(
            {"accessPolicies": [{"name": arn.rpartition("/")[2], "arn": arn} for arn in self._policy_arns()]}
        )

    def _cluster(self) -> Cluster:
        return self.eks_backend.describe_cluster(self._get_param("name") or self._get_param("clusterName"))

    def _cluster_with_entries(self) -> Cluster:
        cluster = self._cluster()
        if vars(cluster).get("access_config", {}).get("authenticationMode") == "CONFIG_MAP":
            message = (
                "The cluster's authentication mode must be set to one of [API, API_AND_CONFIG_MAP] to perform this "
                "operation."
            )
            raise Refused("InvalidRequestException", message)
        return cluster

    def _entry(self) -> AccessEntry:
        entry = self.entries.get((self._cluster_with_entries().name, self._get_param("principalArn")))
        if entry is None:
            message = (
                "The specified principalArn could not be found. You can view your available access entries with "
                "'list-access-entries'."
            )
            raise Refused("ResourceNotFoundException", message)
        return entry

    def _new_entry(self, cluster: str, principal: str, kind: str) -> AccessEntry:
        fixed_groups, fixed_user = _TYPES[kind]
        groups, username = self._get_param("kubernetesGroups") or [], self._get_param("username")
        if fixed_user is not None and (groups or username):
            message = f"The kubernetesGroups and username parameters can't be set for an entry of type {kind}"
            raise Refused("InvalidParameterException", message)
        _refuse_system_groups(groups)
        return AccessEntry(
            cluster=cluster,
            principal=principal,
            arn=self._entry_arn(cluster, principal),
            type=kind,
            username=fixed_user or username or principal,
            groups=list(fixed_groups) if fixed_groups is not None else groups,
            tags=self._get_param("tags") or {},
            created=_now(),
            modified=_now(),
        )

    def _entry_arn(self, cluster: str, principal: str) -> str:
        kind, _, name = principal.rpartition(":")[2].partition("/")
        where = f"arn:{self.partition}:eks:{self.region}:{self.current_account}:access-entry/{cluster}"
        return f"{where}/{kind}/{self.current_account}/{name.rpartition('/')[2]}/{uuid.uuid4()}"

    def _need_principal(self, principal: str) -> None:
        backend = iam_backends[self.current_account][self.partition]
        known = [role.arn for role in backend.roles.values()] + [user.arn for user in backend.users.values()]
        if principal not in known:
            message = "The specified principalArn is invalid: invalid principal."
            raise Refused("InvalidParameterException", message)

    def _add_creator(self, cluster: Cluster) -> None:
        user = iam_backends[self.current_account][self.partition].get_user_from_access_key_id(self.get_access_key())
        if user is None:
            return
        entry = AccessEntry(
            cluster=cluster.name, principal=user.arn, arn=self._entry_arn(cluster.name, user.arn), type="STANDARD",
            username=user.arn, groups=[], tags={}, created=_now(), modified=_now(),
        )  # fmt: skip
        policy = next(arn for arn in self._policy_arns() if arn.endswith(f"/{ADMIN_POLICY}"))
        scope = {"type": "cluster", "namespaces": []}
        entry.policies[policy] = {
            "policyArn": policy, "accessScope": scope, "associatedAt": _now(), "modifiedAt": _now(),
        }  # fmt: skip
        self.entries[cluster.name, user.arn] = entry

    def _policy_arns(self) -> list[str]:
        return [f"arn:{self.partition}:eks::aws:cluster-access-policy/{name}" for name in POLICIES]


def _refuse_system_groups(groups: list[str]) -> None:
    if any(group.startswith(("system:", "eks:", "aws:")) for group in groups):
        message = "The kubernetes group name is invalid: it can't start with system:, eks: or aws:"
        raise Refused("InvalidParameterException", message)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
