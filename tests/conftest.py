import pytest
from hypothesis import settings

pytest_plugins = ["xenlab.plugin"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("jitsu", deadline=None)
settings.load_profile("jitsu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="replay one simulated world")
    parser.addoption("--seconds", type=float, default=None, help="how long to send rubbish")
