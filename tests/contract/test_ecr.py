"""What ECR does and other registries do not. Each case names where that is known from."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import urllib3
from botocore.exceptions import ClientError

from bundler.domain.digest import Digest
from bundler.domain.oci import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from bundler.lab.lab import LabFacts
from tests.contract.registries import ECR, OCTETS, Registry, error_code, runs_on
from tests.fakes.images import image, index, layer_bytes
from tests.peers import lab_control

pytestmark = pytest.mark.loopback
on_ecr = runs_on(ECR)
PART = 5 << 20


@contextmanager
def settings(lab: LabFacts, **changed: object) -> Iterator[None]:
    """Change the lab's ECR for the length of a `with`."""
    usual = {"token_life_s": 43200, "expired_as": "text", "same_digest": "accept", "blob_mounting": False}
    lab_control(lab, "PATCH", "settings", changed)
    try:
        yield
    finally:
        lab_control(lab, "PATCH", "settings", usual)


def immutable(registry: Registry, mode: str = "IMMUTABLE", **more: object) -> str:
    name = f"contract/{Digest.of(repr((mode, more)).encode()).short}-{dt.datetime.now(dt.UTC).timestamp()}"
    registry.ecr.create_repository(repositoryName=name, imageTagMutability=mode, **more)
    return name


def with_new_token(registry: Registry) -> Registry:
    token = registry.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    return replace(registry, password=base64.b64decode(token).decode().partition(":")[2])


def code_of(call: Callable[..., object], **asked: object) -> str:
    """The code with which AWS refuses a call."""
    with pytest.raises(ClientError) as failed:
        call(**asked)
    return str(failed.value.response["Error"]["Code"])


@on_ecr
def test_a_push_does_not_create_a_repository(registry: Registry) -> None:
    """ECR User Guide, "Pushing a Docker image": "The Amazon ECR repository must exist before you push the image"."""
    answer = registry.start("contract/never-made")
    assert (answer.status, error_code(answer)) == (404, "NAME_UNKNOWN")
    code = code_of(registry.ecr.describe_repositories, repositoryNames=["contract/never-made"])
    assert code == "RepositoryNotFoundException"


@on_ecr
def test_a_manifest_for_an_absent_repository_is_refused(registry: Registry) -> None:
    """zarf-dev/zarf#1594, aws/containers-roadmap#853: there is no create on push."""
    answer = registry.put_manifest("contract/never-made", "v1", image("x").raw, OCI_MANIFEST)
    assert (answer.status, error_code(answer)) == (404, "NAME_UNKNOWN")


@on_ecr
def test_a_deleted_repository_is_gone_with_its_blobs(registry: Registry) -> None:
    """ECR API Reference, DeleteRepository: `force` deletes a repository with images, without it that is refused."""
    repository = registry.repository()
    registry.push_image(repository, image("gone"))
    assert code_of(registry.ecr.delete_repository, repositoryName=repository) == "RepositoryNotEmptyException"
    registry.ecr.delete_repository(repositoryName=repository, force=True)
    assert registry.manifest(repository, "v1").status == 404
    registry.create(repository)
    assert error_code(registry.manifest(repository, "v1")) == "MANIFEST_UNKNOWN"


@on_ecr
def test_without_a_token_there_is_a_challenge(registry: Registry) -> None:
    """heroku/docker-registry-client as quoted in mdlavin/copy-docker-image#5: status 401, body "Not Authorized"."""
    answer = replace(registry, user="").ask("GET", "/v2/")
    assert (answer.status, answer.data) == (401, b"Not Authorized\n")
    assert answer.headers["WWW-Authenticate"].startswith('Basic realm="https://')
    assert 'service="ecr.amazonaws.com"' in answer.headers["WWW-Authenticate"]


@on_ecr
def test_only_the_user_aws_with_a_token_gets_in(registry: Registry) -> None:
    """ECR User Guide, "Private registry authentication": user name AWS, password from GetAuthorizationToken."""
    assert replace(registry, user="operator").ask("GET", "/v2/").status == 401
    assert replace(registry, password="guessed").ask("GET", "/v2/").status == 401


@on_ecr
def test_a_token_lives_twelve_hours(registry: Registry) -> None:
    """ECR API Reference, GetAuthorizationToken: "The authorization token is valid for 12 hours"."""
    data = registry.ecr.get_authorization_token()["authorizationData"][0]
    left = data["expiresAt"] - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=11, minutes=59) < left <= dt.timedelta(hours=12)
    assert data["proxyEndpoint"] == "https://111122223333.dkr.ecr.eu-central-1.amazonaws.com"


@on_ecr
def test_an_expired_token_is_403_in_plain_text(registry: Registry, lab: LabFacts) -> None:
    """deis/builder#426: "error parsing HTTP 403 response body: invalid character 'Y'"; no challenge comes with it."""
    with settings(lab, token_life_s=0):
        answer = with_new_token(registry).ask("GET", "/v2/")
    assert answer.status == 403
    assert answer.data == b"Your authorization token has expired. Reauthenticate and try again.\n"
    assert "WWW-Authenticate" not in answer.headers


@on_ecr
def test_an_expired_token_may_be_403_in_json(registry: Registry, lab: LabFacts) -> None:
    """flipt-io/flipt#3043: "response status code 403: denied: Your authorization token has expired"."""
    with settings(lab, token_life_s=0, expired_as="json"):
        answer = with_new_token(registry).ask("GET", "/v2/")
    assert (answer.status, error_code(answer)) == (403, "DENIED")


@on_ecr
def test_a_token_that_expires_during_an_upload_ends_it(registry: Registry, lab: LabFacts) -> None:
    """ECR User Guide, "Troubleshooting Docker commands", HTTP 403; the session itself stays for the next token."""
    repository, content = registry.repository(), b"late"
    with settings(lab, token_life_s=1):
        doomed = with_new_token(registry)
    location = doomed.session(repository)
    time.sleep(1.1)
    assert doomed.finish(location, Digest.of(content), content).status == 403
    assert registry.finish(location, Digest.of(content), content).status == 201


@on_ecr
def test_an_immutable_tag_keeps_its_image(registry: Registry) -> None:
    """ECR User Guide, "Preventing image tags from being overwritten"; moby/buildkit#3776 has the registry's words."""
    repository, first, second = immutable(registry), image("first"), image("second")
    registry.push_image(repository, first)
    for content in second.blobs.values():
        registry.push_blob(repository, content)
    answer = registry.put_manifest(repository, "v1", second.raw, OCI_MANIFEST)
    assert (answer.status, error_code(answer)) == (400, "TAG_INVALID")
    assert b"cannot be overwritten because the repository is immutable" in answer.data
    assert registry.manifest(repository, "v1").data == first.raw


@on_ecr
def test_an_immutable_tag_may_get_the_same_image_again(registry: Registry) -> None:
    """ECR API Reference, PutImage: ImageAlreadyExistsException, "no changes to the manifest or image tag"."""
    repository, wanted = immutable(registry), image("same")
    registry.push_image(repository, wanted)
    registry.push_image(repository, wanted)
    assert registry.manifest(repository, "v1").data == wanted.raw


@on_ecr
def test_an_immutable_tag_may_refuse_even_the_same_image(registry: Registry, lab: LabFacts) -> None:
    """aws/containers-roadmap#2179: "even when the digest has not changed, it fails with ImageTagAlreadyExists…"."""
    repository, wanted = immutable(registry), image("same but refused")
    registry.push_image(repository, wanted)
    with settings(lab, same_digest="refuse"):
        answer = registry.put_manifest(repository, "v1", wanted.raw, OCI_MANIFEST)
    assert (answer.status, error_code(answer)) == (400, "TAG_INVALID")


@on_ecr
def test_an_immutable_repository_takes_new_tags_and_digests(registry: Registry) -> None:
    """docker/buildx#663: pushes by digest and new tags of a known image are not overwrites."""
    repository, wanted = immutable(registry), image("many names")
    registry.push_image(repository, wanted)
    assert registry.put_manifest(repository, "v2", wanted.raw, OCI_MANIFEST).status == 201
    assert registry.put_manifest(repository, wanted.digest, wanted.raw, OCI_MANIFEST).status == 201


@on_ecr
def test_excluded_tags_of_an_immutable_repository_move(registry: Registry) -> None:
    """ECR API Reference, PutImageTagMutability: imageTagMutabilityExclusionFilters with wildcards."""
    filters = [{"filterType": "WILDCARD", "filter": "latest*"}]
    mode = "IMMUTABLE_WITH_EXCLUSION"
    repository = immutable(registry, mode, imageTagMutabilityExclusionFilters=filters)
    registry.push_image(repository, image("one"), tag="latest")
    registry.push_image(repository, image("two"), tag="latest")
    registry.push_image(repository, image("one"), tag="v1")
    raw = image("two").raw
    assert registry.put_manifest(repository, "v1", raw, OCI_MANIFEST).status == 400


@on_ecr
def test_a_chunk_is_answered_by_201(registry: Registry) -> None:
    """openai/tart#273, jdx/mise#11376: 201 where distribution-spec wants 202."""
    answer = registry.ask("PATCH", registry.session(registry.repository()), body=b"x", headers=OCTETS)
    assert answer.status == 201


@on_ecr
def test_the_range_stays_at_the_first_chunk_although_all_are_taken(registry: Registry) -> None:
    """aws/containers-roadmap#2831, crashappsec/chalk#682: the Range header does not advance, the bytes arrive."""
    repository, content = registry.repository(), layer_bytes("frozen range", 3 * PART)
    location = registry.session(repository)
    for first in range(0, len(content), PART):
        headers = OCTETS | {"Content-Range": f"{first}-{first + PART - 1}"}
        answer = registry.ask("PATCH", location, body=content[first : first + PART], headers=headers)
        assert answer.headers["Range"] == f"0-{PART - 1}"
        location = registry.location(answer)
    assert registry.finish(location, Digest.of(content)).status == 201


@on_ecr
def test_a_retry_from_zero_in_the_same_session_is_416(registry: Registry) -> None:
    """apple/containerization#790: "First byte of the layer part is 0 instead of 11304960"."""
    location = registry.session(registry.repository())
    registry.ask("PATCH", location, body=b"x" * 1000, headers=OCTETS)
    answer = registry.ask("PATCH", location, body=b"x" * 1000, headers=OCTETS)
    assert (answer.status, error_code(answer)) == (416, "BLOB_UPLOAD_INVALID")
    assert b"First byte of the layer part is 0 instead of 1000" in answer.data


@on_ecr
def test_parts_below_five_mebibytes_make_no_layer(registry: Registry) -> None:
    """ECR API Reference, CompleteLayerUpload: LayerPartTooSmallException, "must be at least 5 MiB in size"."""
    repository, content = registry.repository(), b"x" * 2000
    location = registry.session(repository)
    registry.ask("PATCH", location, body=content[:1000], headers=OCTETS)
    headers = OCTETS | {"Content-Range": "1000-1999"}
    registry.ask("PATCH", location, body=content[1000:], headers=headers)
    assert registry.finish(location, Digest.of(content)).status == 400


@on_ecr
def test_an_empty_layer_is_refused(registry: Registry) -> None:
    """ECR API Reference, CompleteLayerUpload: EmptyUploadException, "does not contain any layer parts"."""
    repository = registry.repository()
    assert registry.finish(registry.session(repository), Digest.of(b"")).status == 400


@on_ecr
def test_nothing_is_mounted_unless_the_account_says_so(registry: Registry) -> None:
    """ECR User Guide, "Blob mounting": off until `put-account-setting --name BLOB_MOUNTING --value ENABLED`."""
    one, two = registry.repository(), registry.repository()
    digest = registry.push_blob(one, b"not shared")
    assert registry.ecr.get_account_setting(name="BLOB_MOUNTING")["value"] == "DISABLED"
    answer = registry.start(two, f"?mount={digest}&from={one}")
    assert answer.status == 202
    assert registry.finish(registry.location(answer), digest, b"not shared").status == 201


@on_ecr
def test_with_the_account_setting_blobs_are_mounted(registry: Registry, lab: LabFacts) -> None:
    """ECR User Guide, "Blob mounting": an existing layer of another repository is mounted instead of uploaded."""
    one, two = registry.repository(), registry.repository()
    digest = registry.push_blob(one, b"shared now")
    with settings(lab):
        registry.ecr.put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
        answer = registry.start(two, f"?mount={digest}&from={one}")
    assert answer.status == 201
    assert registry.blob(two, digest).data == b"shared now"


@on_ecr
def test_repositories_of_other_encryption_share_nothing(registry: Registry, lab: LabFacts) -> None:
    """ECR User Guide, "Blob mounting concepts": "Repositories must use identical encryption type and keys"."""
    one, two = registry.repository(), f"{registry.repository()}-kms"
    registry.ecr.create_repository(repositoryName=two, encryptionConfiguration={"encryptionType": "KMS"})
    digest = registry.push_blob(one, b"sealed")
    with settings(lab, blob_mounting=True):
        assert registry.start(two, f"?mount={digest}&from={one}").status == 202


@on_ecr
def test_missing_layers_are_named(registry: Registry) -> None:
    """ECR API Reference, PutImage: LayersNotFoundException."""
    repository, wanted = registry.repository(), image("no layers")
    answer = registry.put_manifest(repository, "v1", wanted.raw, OCI_MANIFEST)
    assert (answer.status, error_code(answer)) == (404, "BLOB_UNKNOWN")
    assert all(digest.text.encode() in answer.data for digest in wanted.blobs)


@on_ecr
def test_missing_children_of_an_index_are_named(registry: Registry) -> None:
    """ECR API Reference, PutImage: ReferencedImagesNotFoundException."""
    repository, child = registry.repository(), image("no child")
    answer = registry.put_manifest(repository, "v1", index(child).raw, OCI_INDEX)
    assert (answer.status, error_code(answer)) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert child.digest.text.encode() in answer.data


@on_ecr
def test_describe_images_tells_what_was_pushed(registry: Registry) -> None:
    """ECR API Reference, ImageDetail: digest, tags, size; of an index "the max size of all manifests in the list"."""
    repository = registry.repository()
    small, large = image("small"), image("large", platform="linux/arm64", layers=[b"x" * 9000])
    wanted = index(small, large)
    registry.push_image(repository, wanted)
    details = registry.ecr.describe_images(repositoryName=repository)["imageDetails"]
    assert {item["imageDigest"] for item in details} == {str(digest) for digest in wanted.manifests}
    found = next(item for item in details if item["imageDigest"] == str(wanted.digest))
    assert (found["imageTags"], found["imageManifestMediaType"], found["imageSizeInBytes"]) == (["v1"], OCI_INDEX, 9000)
    assert all("imageTags" not in item for item in details if item is not found)


@on_ecr
def test_describe_images_finds_by_tag_and_refuses_the_unknown(registry: Registry) -> None:
    """ECR API Reference, DescribeImages: ImageNotFoundException."""
    repository, wanted = registry.repository(), image("asked")
    registry.push_image(repository, wanted)
    found = registry.ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": "v1"}])["imageDetails"]
    assert [item["imageDigest"] for item in found] == [str(wanted.digest)]
    unknown = [{"imageDigest": str(Digest.of(b"unknown"))}]
    code = code_of(registry.ecr.describe_images, repositoryName=repository, imageIds=unknown)
    assert code == "ImageNotFoundException"


@on_ecr
def test_describe_images_comes_in_pages(registry: Registry) -> None:
    """ECR API Reference, DescribeImages: nextToken."""
    repository, wanted = registry.repository(), index(image("p1"), image("p2", platform="linux/arm64"))
    registry.push_image(repository, wanted)
    pages = registry.ecr.get_paginator("describe_images").paginate(
        repositoryName=repository, PaginationConfig={"PageSize": 2}
    )
    assert [len(page["imageDetails"]) for page in pages] == [2, 1]


@on_ecr
def test_batch_get_image_returns_the_very_bytes(registry: Registry) -> None:
    """ECR API Reference, BatchGetImage: images and failures."""
    repository, wanted = registry.repository(), image("api")
    registry.push_image(repository, wanted)
    answer = registry.ecr.batch_get_image(
        repositoryName=repository, imageIds=[{"imageTag": "v1"}, {"imageTag": "unknown"}]
    )
    assert [item["imageManifest"].encode() for item in answer["images"]] == [wanted.raw]
    assert [item["failureCode"] for item in answer["failures"]] == ["ImageNotFound"]


@on_ecr
def test_layer_availability_is_asked_for_many_at_once(registry: Registry) -> None:
    """ECR API Reference, BatchCheckLayerAvailability."""
    repository = registry.repository()
    held, absent = registry.push_blob(repository, b"held"), Digest.of(b"absent")
    answer = registry.ecr.batch_check_layer_availability(
        repositoryName=repository, layerDigests=[str(held), str(absent), "sha256:short"]
    )
    found = {item["layerDigest"]: item["layerAvailability"] for item in answer["layers"]}
    assert found == {str(held): "AVAILABLE", str(absent): "UNAVAILABLE"}
    assert [item["failureCode"] for item in answer["failures"]] == ["InvalidLayerDigest"]


@on_ecr
def test_the_api_and_the_registry_are_one(registry: Registry) -> None:
    """ECR API Reference, InitiateLayerUpload, UploadLayerPart, CompleteLayerUpload, PutImage."""
    repository, wanted = registry.repository(), image("pushed by the API")
    for digest, content in wanted.blobs.items():
        upload = registry.ecr.initiate_layer_upload(repositoryName=repository)["uploadId"]
        part = {"partFirstByte": 0, "partLastByte": len(content) - 1, "layerPartBlob": content}
        registry.ecr.upload_layer_part(repositoryName=repository, uploadId=upload, **part)
        registry.ecr.complete_layer_upload(repositoryName=repository, uploadId=upload, layerDigests=[str(digest)])
    registry.ecr.put_image(repositoryName=repository, imageManifest=wanted.raw.decode(), imageTag="v1")
    assert registry.manifest(repository, "v1").data == wanted.raw


@on_ecr
def test_put_image_has_an_error_for_each_case(registry: Registry) -> None:
    """ECR API Reference, PutImage, "Errors"."""
    repository, first, second = immutable(registry), image("api one"), image("api two", docker=True)
    registry.push_image(repository, first)

    def put(raw: bytes, **more: str) -> str:
        return code_of(registry.ecr.put_image, repositoryName=repository, imageManifest=raw.decode(), **more)

    assert put(first.raw, imageTag="v1") == "ImageAlreadyExistsException"
    assert put(second.raw, imageTag="v2") == "LayersNotFoundException"
    assert put(first.raw, imageDigest=str(second.digest)) == "ImageDigestDoesNotMatchException"
    for content in second.blobs.values():
        registry.push_blob(repository, content)
    assert put(second.raw, imageTag="v1") == "ImageTagAlreadyExistsException"
    assert put(second.raw, imageTag="v3", imageManifestMediaType=OCI_MANIFEST) == "InvalidParameterException"
    media_type = DOCKER_MANIFEST
    registry.ecr.put_image(
        repositoryName=repository, imageManifest=second.raw.decode(), imageTag="v3", imageManifestMediaType=media_type
    )


@on_ecr
def test_a_repository_keeps_what_it_was_created_with(registry: Registry) -> None:
    """ECR API Reference, CreateRepository and DescribeRepositories; policies are ECR's own texts."""
    name = f"{registry.repository()}-full"
    made = registry.ecr.create_repository(
        repositoryName=name,
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
        encryptionConfiguration={"encryptionType": "KMS"},
        tags=[{"Key": "bundle", "Value": "test"}],
    )["repository"]
    assert made["repositoryUri"] == f"111122223333.dkr.ecr.eu-central-1.amazonaws.com/{name}"
    found = registry.ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    assert (found["imageTagMutability"], found["imageScanningConfiguration"]) == ("IMMUTABLE", {"scanOnPush": True})
    assert found["encryptionConfiguration"]["encryptionType"] == "KMS"
    assert registry.ecr.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"][0]["Key"] == "bundle"
    assert code_of(registry.ecr.create_repository, repositoryName=name) == "RepositoryAlreadyExistsException"
    registry.ecr.put_lifecycle_policy(
        repositoryName=name,
        lifecyclePolicyText='{"rules":[{"rulePriority":1,"selection":{"tagStatus":"untagged","countType":'
        '"imageCountMoreThan","countNumber":9},"action":{"type":"expire"}}]}',
    )
    assert "imageCountMoreThan" in registry.ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"]


@on_ecr
def test_the_certificate_is_for_the_registrys_own_name(registry: Registry, lab: LabFacts) -> None:
    """ECR User Guide, "Private registry": account.dkr.ecr.region.amazonaws.com; only the address is the lab's."""
    host, _, port = lab.ecr_address.partition(":")
    with urllib3.HTTPSConnectionPool(
        host, int(port), ca_certs=str(lab.ca_file), server_hostname=lab.registry_host, assert_hostname=lab.registry_host
    ) as pool:
        headers = registry.login() | {"Host": lab.registry_host}
        assert pool.request("GET", "/v2/", headers=headers, retries=False).status == 200


@on_ecr
def test_no_other_certificate_is_believed(registry: Registry) -> None:
    """ECR User Guide, "Private registry": HTTPS only; the lab's authority is its own, and must be given."""
    with (
        urllib3.PoolManager(ssl_context=ssl.create_default_context()) as pool,
        pytest.raises(urllib3.exceptions.SSLError),
    ):
        pool.request("GET", f"{registry.url}/v2/", retries=False)
