"""A running ``holdfast serve`` for each system, as its operator would start it, with the example's settings."""

from collections.abc import Iterator

import pytest
from running import Installation, running_installation


@pytest.fixture(scope="module")
def services() -> dict[str, str]:
    """Settings that name other services; a module whose system has some starts stand-ins and says where they are."""
    return {}


@pytest.fixture(scope="module")
def installation(
    request: pytest.FixtureRequest, services: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The server that the module's ``SYSTEM`` names, with settings from ``examples/<system>/holdfast.env``."""
    base = tmp_path_factory.getbasetemp()
    shared_dir = base.parent if base.name.startswith("popen-") else base
    directory = tmp_path_factory.mktemp("system")
    with running_installation(request.module.SYSTEM, directory, shared_dir=shared_dir, **services) as running:
        yield running
