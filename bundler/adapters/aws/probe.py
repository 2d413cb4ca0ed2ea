"""One cheap reading call to each API that an install needs, with little patience: does it answer from here?"""

from __future__ import annotations

from bundler.adapters.aws.clients import Aws
from bundler.adapters.aws.ebs import EbsDirect
from bundler.adapters.aws.eks import Eks
from bundler.adapters.aws.iam import Iam
from bundler.domain.access import ClusterFacts
from bundler.errors import AccessError, ConflictError
from bundler.retry import RetryPolicy

NOBODYS = "snap-00000000000000000"


class AwsProbe:
    """Asks; `aws` should be quick (AwsSettings.quick), or a missing endpoint takes a minute to show."""

    def __init__(self, aws: Aws, *, cluster: str) -> None:
        self._aws = aws
        self._cluster = cluster

    def caller(self) -> tuple[str, str]:
        """Return ARN and account of the caller."""
        return self._aws.service("sts").ask(
            "GetCallerIdentity", lambda answer: (str(answer["Arn"]), str(answer["Account"])), about="caller"
        )

    def ec2(self, vpc: str) -> None:
        """Ask EC2 for a VPC; none is an answer."""
        self._aws.service("ec2").call("DescribeVpcs", about=vpc, Filters=[{"Name": "vpc-id", "Values": [vpc]}])

    def autoscaling(self) -> None:
        """Ask Auto Scaling for one group."""
        self._aws.service("autoscaling").call("DescribeAutoScalingGroups", about="Auto Scaling groups", MaxRecords=1)

    def ecr(self) -> None:
        """Ask ECR's API for a token."""
        self._aws.service("ecr").call("GetAuthorizationToken", about="registry")

    def s3(self) -> None:
        """Ask S3 for a bucket; a caller who may not list them has been answered."""
        try:
            self._aws.service("s3").call("ListBuckets", about="buckets", MaxBuckets=1)
        except AccessError as error:
            if not error.subject.startswith("s3:ListAllMyBuckets on "):
                raise

    def ebs(self) -> None:
        """Ask EBS direct for a snapshot that nobody has; who may not read any has been answered."""
        try:
            EbsDirect(service=self._aws.service("ebs"), policy=RetryPolicy(tries=1)).blocks(NOBODYS)
        except ConflictError:
            return
        except AccessError as error:
            if not error.subject.startswith("ebs:ListSnapshotBlocks on "):
                raise

    def iam(self, profile: str) -> None:
        """Ask IAM for an instance profile (ARN); none is an answer."""
        Iam(self._aws.service("iam")).profile(profile)

    def cluster(self) -> ClusterFacts | None:
        """Ask EKS for the cluster."""
        return Eks(self._aws.service("eks"), cluster=self._cluster).facts()
