import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("CAMROBUST_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def shared_data():
    """The offline data pack; a test that needs it is skipped where it is not, but never in CI."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the data pack at {SHARED}")
        pytest.skip(f"needs the data pack at {SHARED}, which is not on this machine")
    return SHARED
