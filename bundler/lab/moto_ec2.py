"""moto's EC2 corrected: a launch template reads back as it was written; the rest is in moto_images.py and others."""

from __future__ import annotations

import copy
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import urls
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.utils import parse_user_data

from bundler.lab.machines import Machines, Network
from bundler.lab.moto_ebs import SnapshotStore
from bundler.lab.moto_images import ImageResponses
from bundler.lab.moto_instances import InstanceResponses
from bundler.lab.moto_patch import put_in_place, route_all
from bundler.lab.moto_snapshots import SnapshotResponses
from bundler.lab.settings import ImageSettings

_MAX_VERSIONS = 200


def correct_ec2(
    store: SnapshotStore, machines: Machines | None, network: Network | None, settings: ImageSettings
) -> None:
    """Put the corrected responses and the corrected template in moto's place."""
    parts: dict[str, Any] = {
        "store": store, "machines": machines, "network": network, "settings": settings, "started": {},
    }  # fmt: skip
    responses: Any = type("LabEc2", (LabEc2Response,), parts)
    route_all(urls.url_paths, responses.dispatch)
    put_in_place(LaunchTemplate, "create_version", _create_version)


def _create_version(self: LaunchTemplate, data: dict[str, Any], description: str) -> LaunchTemplateVersion:
    """Keep a copy, with user data in the type that instances need (moto keeps text in a second version, then fails)."""
    kept = {key: value for key, value in copy.deepcopy(data).items() if value is not None}
    if "UserData" in kept:
        kept["UserData"] = parse_user_data(str(kept["UserData"]))
    version = LaunchTemplateVersion(self, len(self.versions) + 1, kept, description)
    self.versions.append(version)
    return version


class LabEc2Response(ImageResponses, SnapshotResponses, InstanceResponses):
    """Images, snapshots, instances, and here: launch templates."""

    def create_launch_template(self) -> ActionResult:
        """Keep the data as it came: tags of the template itself are not part of it."""
        self.error_on_dryrun()
        template = self.ec2_backend.create_launch_template(
            self._get_param("LaunchTemplateName"),
            self._get_param("VersionDescription"),
            self._get_param("LaunchTemplateData", {}),
            self._parse_tag_specification(),
        )
        return ActionResult({"LaunchTemplate": self._template(template)})

    def create_launch_template_version(self) -> ActionResult:
        """Merge into `SourceVersion` when it is given."""
        self.error_on_dryrun()
        template, source = self._find_template(), self._get_param("SourceVersion")
        base = template.get_version(source).data if source is not None else {}
        data = {**base, **self._get_param("LaunchTemplateData", {})}
        version = template.create_version(data, self._get_param("VersionDescription"))
        return ActionResult({"LaunchTemplateVersion": self._version(template, version)})

    def describe_launch_template_versions(self) -> ActionResult:
        """Every version asked for, once, up to AWS's page of 200."""
        self.error_on_dryrun()
        found = self.ec2_backend.describe_launch_template_versions(
            template_name=self._get_param("LaunchTemplateName"),
            template_id=self._get_param("LaunchTemplateId"),
            versions=self._get_param("Versions", []),
            min_version=self._get_int_param("MinVersion"),
            max_version=self._get_int_param("MaxVersion"),
            max_results=_MAX_VERSIONS,
        )
        once = {(template.id, version.number): (template, version) for template, version in found}
        return ActionResult({"LaunchTemplateVersions": [self._version(*pair) for pair in once.values()]})

    def describe_launch_templates(self) -> ActionResult:
        """All of them; moto stops after 15."""
        self.error_on_dryrun()
        found = self.ec2_backend.describe_launch_templates(
            template_names=self._get_param("LaunchTemplateNames", []),
            template_ids=self._get_param("LaunchTemplateIds", []),
            filters=self._filters_from_querystring(),
        )
        return ActionResult({"LaunchTemplates": [self._template(template) for template in found]})

    def delete_launch_template_versions(self) -> ActionResult:
        """Report success; the numbers of a template are never used again, so the versions may stay."""
        template = self._find_template()
        done = [
            {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "VersionNumber": int(number)}
            for number in self._get_param("Versions", [])
        ]
        return ActionResult({"SuccessfullyDeletedLaunchTemplateVersions": done})

    def _find_template(self) -> LaunchTemplate:
        name, template_id = self._get_param("LaunchTemplateName"), self._get_param("LaunchTemplateId")
        found: LaunchTemplate = (
            self.ec2_backend.get_launch_template_by_name(name) if name
            else self.ec2_backend.get_launch_template(template_id)
        )  # fmt: skip
        return found

    def _template(self, template: LaunchTemplate) -> dict[str, Any]:
        return {
            "CreateTime": template.create_time,
            "CreatedBy": f"arn:{self.partition}:iam::{self.current_account}:root",
            "DefaultVersionNumber": template.default_version_number,
            "LatestVersionNumber": template.latest_version_number,
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "Tags": template.get_tags(),
        }

    def _version(self, template: LaunchTemplate, version: LaunchTemplateVersion) -> dict[str, Any]:
        return {
            "CreateTime": version.create_time,
            "CreatedBy": f"arn:{self.partition}:iam::{self.current_account}:root",
            "DefaultVersion": template.is_default(version),
            "LaunchTemplateData": version.data,
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "VersionDescription": version.description,
            "VersionNumber": version.number,
        }
