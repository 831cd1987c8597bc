"""Makefile, continuous integration, lock and container files agree with the project they build."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from holdfast.settings import load_settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as a person would; a make that runs these tests must not tell this one how to behave."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def make(*arguments: str) -> str:
    """What make prints when all goes well."""
    done = run_make(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_target_in_one_line_each() -> None:
    phony = set(re.findall(r"^\.PHONY: ([a-z]+)$", read("Makefile"), re.MULTILINE))

    listed = re.findall(r"^  ([a-z]+) +\S", make(), re.MULTILINE)

    assert sorted(listed) == sorted(phony)
    assert {"install", "demo", "test", "check", "lint", "serve", "bench", "lock", "clean"} <= phony


@pytest.mark.parametrize("target", ["demo", "test", "lint", "serve", "bench"])
def test_a_target_makes_the_environment_it_needs(target: str, tmp_path: Path) -> None:
    planned = make("--dry-run", target, f"VENV={tmp_path / 'environment'}")

    assert "--require-hashes -r requirements.lock" in planned
    assert planned.index("-m venv") < planned.index("--require-hashes") < planned.index("--no-deps")


def test_the_environment_is_made_by_the_python_that_is_named(tmp_path: Path) -> None:
    planned = make("--dry-run", "install", f"VENV={tmp_path / 'environment'}", "PYTHON=/opt/python3.13")

    assert "for candidate in /opt/python3.13;" in planned


def test_an_unusable_python_is_refused_with_a_remedy(tmp_path: Path) -> None:
    done = run_make("install", f"VENV={tmp_path / 'environment'}", "PYTHON=/nowhere/python3")

    assert done.returncode != 0
    assert "3.11" in done.stderr
    assert "make install PYTHON=" in done.stderr
    assert not (tmp_path / "environment").exists()


def test_every_program_that_make_runs_exists() -> None:
    programs = re.findall(r"/python (\S+\.py)", read("Makefile"))

    assert "loadtests/run_goals.py" in programs
    assert [program for program in programs if not (ROOT / program).is_file()] == []


def test_continuous_integration_ends_with_the_command_of_the_readme() -> None:
    commands = [line for line in read(".ci/run").splitlines() if line and not line.startswith("#")]

    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "make test"
    assert "exec </dev/null" in commands
    assert "\nmake test " in read("README.md")


def test_every_locked_package_has_hashes_and_no_address() -> None:
    lock = read("requirements.lock")
    pins = re.findall(r"^\S+==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)

    assert len(pins) > 40
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []
    assert "://" not in lock


def test_the_lock_has_every_requirement_of_the_project() -> None:
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    locked = set(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==", read("requirements.lock"), re.MULTILINE))

    names = {re.split(r"[\[<>=!;~ ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}

    assert names - {name.lower() for name in locked} == set()


def test_the_image_gets_every_package_of_the_project() -> None:
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = set(re.findall(r"^COPY (\w+) \1$", read("Dockerfile"), re.MULTILINE))
    let_in = set(re.findall(r"^!(\w+)$", read(".dockerignore"), re.MULTILINE))

    assert copied == packages
    assert let_in == packages | {"LICENSE"}


def test_the_image_runs_as_an_ordinary_user_and_is_watched() -> None:
    last_stage = read("Dockerfile").rpartition("\nFROM ")[2]

    assert re.search(r"^USER (?!root)\w+$", last_stage, re.MULTILINE)
    assert "/healthz" in last_stage
    assert 'CMD ["serve", "--host", "0.0.0.0"' in last_stage


def test_the_compose_file_gives_the_api_settings_that_exist() -> None:
    api = re.search(r"^  api:\n(.*?)^volumes:", read("docker-compose.yml"), re.MULTILINE | re.DOTALL)
    assert api is not None
    given = dict(re.findall(r"^      ([A-Z_]+): (.+)$", api[1], re.MULTILINE))
    values = {name: value.replace("${POSTGRES_PASSWORD}", "secret") for name, value in given.items()}
    required = {name for name, value in values.items() if value.startswith(f"${{{name}:?")}
    values |= dict.fromkeys(required, "A" * 43)

    settings = load_settings({"HOME": "/home/you"} | values)

    assert required == {"HOLDFAST_JWT_SECRET", "HOLDFAST_DATA_KEY"}
    assert settings.redis_url == "redis://valkey:6379/0"
    assert settings.database_url == "postgresql://holdfast:secret@postgres:5432/holdfast"
    assert settings.data_key is not None


def test_the_compose_file_runs_a_valkey_that_evicts_nothing_and_keeps_its_writes() -> None:
    compose = read("docker-compose.yml")

    assert '"--maxmemory-policy", "noeviction"' in compose
    assert '"--appendonly", "yes"' in compose


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{PROJECT['project']['version']}]" in read("CHANGELOG.md")


def test_the_license_is_the_one_that_the_project_names() -> None:
    text = read("LICENSE")

    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
