"""A SLURM of the tests' own, and a finished run of the bundled example on it."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
