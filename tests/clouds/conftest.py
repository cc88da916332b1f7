import random

import pytest

from camrobust.bench.chaos.proxy import Faults, failing_store
from tests.cloud_places import forget_clients, new_place, real_endpoint, scheme_of, settle, through


@pytest.fixture
def cloud(request):
    """The environment in which clients reach the emulator of a scheme."""
    return lambda scheme: request.getfixturevalue("google_store" if scheme == "gs" else "azure_store")


@pytest.fixture(params=["gs", "az", "abfs"])
def place(request, cloud, monkeypatch):
    """The address of a new bucket or container."""
    settle(monkeypatch, cloud(request.param))
    yield new_place(request.param)
    forget_clients()


@pytest.fixture
def faults(place, cloud, monkeypatch):
    """The faults of a proxy between the clients and the store; none at first."""
    scheme, found = scheme_of(place), Faults(dice=random.Random(1))
    with failing_store(real_endpoint(scheme, cloud(scheme)), found) as address:
        settle(monkeypatch, through(address, scheme, cloud(scheme)))
        yield found
    forget_clients()
