"""The directory, the servers and the settings that a command is given: what it says of those that are not right."""

from pathlib import Path

import jwt
import pytest
from warm_commands import WarmCommandLine

from holdfast.embedded.data_dir import has_servers

READERS = (
    "events list",
    "events show x",
    "events open x",
    "inspect x",
    "audit",
    "doctor",
    "dead-letters list",
    "webhooks list",
    "webhooks replay",
    "reconcile --once",
    "reconcile",
)
NOBODY_ANSWERS = {
    "REDIS_URL": "redis://app:hunter2@127.0.0.1:1",
    "DATABASE_URL": "postgresql://app:hunter2@127.0.0.1:1/holdfast",
}


@pytest.mark.parametrize("command", READERS)
def test_command_that_looks_at_an_installation_makes_none(tmp_path: Path, command: str) -> None:
    mistyped = tmp_path / "mistyped"
    done = WarmCommandLine(HOLDFAST_DATA_DIR=mistyped).run(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no installation in {mistyped}" in done.stderr
    assert "--data-dir" in done.stderr
    assert not mistyped.exists()


def test_directory_with_a_secret_alone_is_no_installation(tmp_path: Path) -> None:
    cli = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path)
    assert cli.run("token", "--sub", "ana").returncode == 0
    done = cli.run("audit")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no installation in {tmp_path}" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["jwt-secret"]


@pytest.mark.parametrize("server", ["valkey", "postgres"])
def test_directory_where_a_server_has_been_started_is_an_installation(tmp_path: Path, server: str) -> None:
    assert not has_servers(tmp_path / "nothing")
    assert not has_servers(tmp_path)
    (tmp_path / server).mkdir()
    assert has_servers(tmp_path)


def test_token_says_that_it_has_made_the_secret_and_only_then(tmp_path: Path) -> None:
    cli = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path / "data")
    first = cli.run("token", "--sub", "ana")
    assert first.returncode == 0
    assert f"no secret in {tmp_path / 'data'}, so one was made" in first.stderr
    assert first.stderr.count("\n") == 1
    kept = (tmp_path / "data" / "jwt-secret").read_text().strip()
    for token in (first.stdout, cli.ok("token", "--sub", "ana")):
        claims = jwt.decode(token.strip(), kept, ["HS256"], audience="holdfast", issuer="holdfast")
        assert (claims["sub"], claims["roles"]) == ("ana", ["customer"])


def test_token_with_a_configured_secret_touches_no_directory(tmp_path: Path) -> None:
    WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path / "data", HOLDFAST_JWT_SECRET="k" * 40).ok("token", "--sub", "ana")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("subject", ["", " ", "a\nb", "x" * 256])
def test_token_for_a_subject_that_the_api_refuses_is_a_usage_error(tmp_path: Path, subject: str) -> None:
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path / "data").run("token", "--sub", subject)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'--sub'" in done.stderr
    assert not (tmp_path / "data").exists()


def test_token_names_a_setting_that_cannot_be_used_in_one_line(tmp_path: Path) -> None:
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, HOLDFAST_JWKS_URL="nowhere").run("token", "--sub", "ana")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("Error: HOLDFAST_JWKS_URL: 'nowhere'")


@pytest.mark.parametrize(
    ("command", "status"), [("events list", 1), ("migrate", 1), ("serve --port 0", 1), ("reconcile --once", 2)]
)
def test_postgres_that_cannot_be_reached_is_named_by_its_setting(tmp_path: Path, command: str, status: int) -> None:
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, **NOBODY_ANSWERS).run(*command.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert done.stderr.startswith("Error: Postgres (DATABASE_URL) cannot be used: ")
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        (NOBODY_ANSWERS["REDIS_URL"], "127.0.0.1:1"),
        ("unix://:hunter2@/nowhere/redis.sock", "/nowhere/redis.sock"),
        ("redis+cluster://:hunter2@127.0.0.1:1,127.0.0.1:2", "the cluster of 127.0.0.1:1, 127.0.0.1:2"),
        (
            "redis+sentinel://:hunter2@127.0.0.1:1,127.0.0.1:2/main",
            "'main' by the sentinels 127.0.0.1:1, 127.0.0.1:2",
        ),
    ],
)
def test_redis_that_serve_cannot_reach_is_told_of_once_before_workers_start(
    tmp_path: Path, database_url: str, url: str, destination: str
) -> None:
    servers = {"REDIS_URL": url, "DATABASE_URL": database_url}
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, HOLDFAST_WORKERS="1", **servers).run("serve", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    what, remedy = done.stderr.splitlines()
    assert what.startswith("Error: Redis (REDIS_URL) cannot be used: cannot connect: ")
    assert remedy == f"Start it, or change that setting: it leads to {destination}"
    assert "hunter2" not in done.stderr


def test_setting_whose_url_is_in_a_file_is_named_by_that_variable(tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text(NOBODY_ANSWERS["DATABASE_URL"])
    done = WarmCommandLine(
        HOLDFAST_DATA_DIR=tmp_path, REDIS_URL=NOBODY_ANSWERS["REDIS_URL"], DATABASE_URL_FILE=url
    ).run("migrate")
    assert done.stderr.startswith("Error: Postgres (DATABASE_URL_FILE) cannot be used: ")


def test_variable_that_no_setting_is_called_is_warned_of_with_the_likely_one(tmp_path: Path) -> None:
    variables = {
        "HOLDFAST_JWT_SECRT": "hunter2",
        "HOLDFAST_REDIS_URL": "redis://:hunter2@db",
        "HOLDFAST_COLOUR": "blue",
    }
    cli = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, HOLDFAST_JWT_SECRET="k" * 40)
    done = cli.run("token", "--sub", "ana", **variables)
    assert (done.returncode, done.stdout.count(".")) == (0, 2)
    assert done.stderr.splitlines() == [
        "Warning: HOLDFAST_COLOUR is set, and no setting is called so",
        "Warning: HOLDFAST_JWT_SECRT is set, and no setting is called so; did you mean HOLDFAST_JWT_SECRET?",
        "Warning: HOLDFAST_REDIS_URL is set, and no setting is called so; did you mean REDIS_URL?",
    ]
    # A command that goes on to complain of a setting has said so before: one may be because of the other.
    serve = cli.run("serve", HOLDFAST_PORT="many", HOLDFAST_PROT="8080")
    assert [line.partition(":")[0] for line in serve.stderr.splitlines()] == ["Warning", "Error"]


def test_own_variables_are_no_mistakes(tmp_path: Path) -> None:
    cli = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, HOLDFAST_JWT_SECRET="k" * 40, HOLDFAST_URL="http://127.0.0.1:1")
    key = tmp_path / "key"
    key.write_text("A" * 43)
    cli.ok("token", "--sub", "ana", HOLDFAST_WEBHOOK_SECRET="whsec_x", HOLDFAST_DATA_KEY_FILE=str(key))


def test_mistyped_command_is_told_which_one_may_have_been_meant(tmp_path: Path) -> None:
    cli = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path)
    done = cli.run("evnts", "list")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "Error: No such command 'evnts'. Did you mean 'events'?",
    )
    assert "Did you mean" not in cli.run("quux").stderr


def test_secret_that_can_be_guessed_is_warned_of_in_one_line(tmp_path: Path) -> None:
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, HOLDFAST_JWT_SECRET="short").run("token", "--sub", "ana")
    assert (done.returncode, done.stdout.count(".")) == (0, 2)
    assert done.stderr == "Warning: HOLDFAST_JWT_SECRET has 5 bytes; a secret of fewer than 32 can be guessed\n"


def test_secret_with_a_comma_in_it_does_not_become_two_that_can_be_guessed(tmp_path: Path) -> None:
    given = f"a,{'b' * 40}"
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path, HOLDFAST_JWT_SECRETS_OTHER=given).run("token", "--sub", "ana")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HOLDFAST_JWT_SECRETS_OTHER" in done.stderr
    assert "32 bytes" in done.stderr
    assert "bbbb" not in done.stderr


@pytest.mark.parametrize("arguments", [("audit", "--data-dir", "x"), ("events", "list", "--data-dir", "x")])
def test_option_of_all_commands_behind_the_name_of_one_is_told_where_it_goes(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path).run(*arguments)
    assert done.returncode == 2
    assert f"--data-dir goes before the command's name: `holdfast --data-dir ... {arguments[0]} ...`" in done.stderr
    assert "goes before" not in WarmCommandLine(HOLDFAST_DATA_DIR=tmp_path).run("audit", "--dat").stderr
