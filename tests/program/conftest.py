"""What several tests of the program need of the machine."""

from __future__ import annotations

import subprocess

import pytest


@pytest.fixture(scope="session")
def cloud_kernel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the package of Debian's kernel for clouds, which has no 9p."""
    directory = tmp_path_factory.mktemp("cloud")
    directory.chmod(0o777)
    said = subprocess.run(
        ("apt-cache", "depends", "linux-image-cloud-amd64"), capture_output=True, text=True, check=True
    )
    name = next(word for word in said.stdout.split() if word.endswith("-cloud-amd64") and word[12].isdigit())
    subprocess.run(("apt-get", "download", "-q", name), cwd=directory, capture_output=True, check=True)
    (package,) = directory.glob("*.deb")
    return str(package)
