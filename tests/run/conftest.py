"""One Ray for the runs of a module, which then start no cluster of their own."""

import pytest

from camrobust.contract.config_parts import ClusterConfig
from camrobust.run.session import session


@pytest.fixture(scope="module")
def cluster():
    """A session that stays open; `tests.in_process.through_open_session` sends runs through it."""
    with session("local", ClusterConfig()):
        yield
