"""Random weights under the published keys, and the file that holds them."""

import pytest
from mri_core_files import backbone, chunked, save


@pytest.fixture(scope="session")
def weights():
    return backbone()


@pytest.fixture(scope="session")
def checkpoint(weights, tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "MRI_CORE_vitb.pth", chunked(weights))
