# SPDX-License-Identifier: Apache-2.0
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from proa_testing import Proa  # noqa: E402


@pytest.fixture(scope="session")
def proa():
    """One Proa for all tests that do not break it."""
    with Proa() as running:
        yield running


@pytest.fixture
def own_proa():
    """A Proa that the test may kill, starve and fill."""
    with Proa() as running:
        yield running


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="real containers need root"))
