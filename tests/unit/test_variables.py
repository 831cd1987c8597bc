"""Which variables of the environment are ours, and what is said of those that only look so."""

import re
from pathlib import Path

import pytest

from holdfast.settings import setting_variables
from holdfast.variables import OTHER_VARIABLES, PREFIX, unknown_variables

ROOT = Path(__file__).parents[2]
WHERE_OURS_ARE_NAMED = ("holdfast", "api", "engine", "persistence", "loadtests", "examples", "docs", "Makefile",
                        "Dockerfile", "docker-compose.yml", "README.md")  # fmt: skip


def _names(where: str) -> set[str]:
    path = ROOT / where
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix not in (".pyc", ".json")]
    text = "".join(each.read_text(encoding="utf-8", errors="replace") for each in files if each.is_file())
    return set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", text))


@pytest.mark.parametrize("where", WHERE_OURS_ARE_NAMED)
def test_every_variable_that_we_name_is_known(where: str) -> None:
    assert [*unknown_variables(dict.fromkeys(_names(where), "x"))] == []


def test_every_other_variable_is_named_outside_of_the_list() -> None:
    named: set[str] = set()
    for where in ("holdfast", "loadtests", "examples"):
        for path in (ROOT / where).rglob("*"):
            if path.suffix in (".py", ".sh") and path.name != "variables.py":
                named |= set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text()))
    assert sorted(OTHER_VARIABLES - named) == []
    assert OTHER_VARIABLES.isdisjoint(setting_variables())


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("HOLDFAST_WORKRES", "HOLDFAST_WORKERS"),
        ("HOLDFAST_DATADIR", "HOLDFAST_DATA_DIR"),
        ("HOLDFAST_JWT_SECRET_FIEL", "HOLDFAST_JWT_SECRET_FILE"),
        ("HOLDFAST_DATABASE_URL", "DATABASE_URL"),
        ("HOLDFAST_PORT_FILE", "HOLDFAST_PORT"),  # no secret: it is not read from files
        ("HOLDFAST_COLOUR", None),
    ],
)
def test_mistyped_variable_is_told_with_the_name_most_like_it(mistyped: str, meant: str | None) -> None:
    assert [*unknown_variables({mistyped: "x", "HOLDFAST_PORT": "1", "PATH": "/bin"})] == [(mistyped, meant)]


def test_what_kubernetes_tells_of_a_service_of_our_name_is_no_mistake() -> None:
    told = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_ADDR", "API_PORT")
    assert [*unknown_variables({f"HOLDFAST_{name}": "x" for name in told})] == []
