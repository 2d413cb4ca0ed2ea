"""What starts with every command: nothing of the AWS SDK."""

from __future__ import annotations

import subprocess
import sys


def test_reading_envelopes_does_not_import_the_aws_sdk_and_leaves_it_importable() -> None:
    check = "import sys, bundler.trust; assert not {'boto3', 'botocore'} & set(sys.modules); import boto3"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_help_imports_no_model_and_no_client() -> None:
    """`bundle --help` answers within three times of `import click`: what it does not need is not there."""
    heavy = {"pydantic", "boto3", "botocore", "urllib3", "yaml", "docker", "oras", "cryptography", "requests"}
    check = (
        "import sys\nfrom bundler.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)
