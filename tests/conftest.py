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


# What has been watched to hold, from a clean clone. The rest is written down first and proved next;
# PROA_PENDING=1 runs it too. A test moves up here in the commit that makes it hold.
PROVED = {
    "test_run_calls_a_function_and_prints_its_result_and_logs",
    "test_run_of_one_function_with_arguments",
    "test_remote_spawn_starmap_and_for_each",
    "test_exceptions_come_back_with_their_type_and_traceback",
    "test_generators_stream",
    "test_map_of_ten_thousand_comes_back_whole_and_in_order",
    "test_map_runs_in_several_containers",
    "test_large_arguments_and_results",
    "test_containers_call_other_functions",
    "test_calls_can_be_cancelled",
    "test_deployed_functions_are_found_by_name_from_another_process",
    "test_an_unknown_function_is_said_to_be_unknown",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.originalname not in PROVED and os.environ.get("PROA_PENDING") != "1":
            item.add_marker(pytest.mark.skip(reason="pending; PROA_PENDING=1 runs it"))
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="real containers need root"))
