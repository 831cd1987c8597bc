"""Settings: where they come from, what wins, and what is said about values that cannot be used."""

import base64
from pathlib import Path

import pytest

from engine.rate_limits import RateLimit
from holdfast.settings import Settings, SettingsError, load_settings

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")


def test_settings_have_the_defaults_of_the_contract_when_nothing_is_set() -> None:
    settings = load_settings({"HOME": "/home/ana"})

    assert settings.redis_url is None
    assert settings.database_url is None
    assert settings.data_dir == Path("/home/ana/.local/share/holdfast")
    assert (settings.host, settings.port, settings.partitions) == ("127.0.0.1", 8000, None)
    assert 1 <= settings.workers <= 8
    assert (settings.jwt_secret, settings.jwks_url, settings.data_key) == (None, None, None)
    assert (settings.jwt_issuer, settings.jwt_audience) == ("holdfast", "holdfast")
    assert (settings.confirm_timeout_s, settings.log_level) == (5.0, "info")
    assert settings.journal_max_bytes == 64 << 20
    assert settings.hold_history_days == 30
    assert (settings.reconciler, settings.archive_after_s) == (True, 86_400.0)
    assert (settings.rate_limit, settings.rate_limit_by_address, settings.trusted_proxies) == (None, None, ())


def test_settings_are_read_from_the_environment(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "REDIS_URL": "redis+cluster://a:7000,b:7000",
            "DATABASE_URL": "postgresql://u:p@db/hf",
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_HOST": "0.0.0.0",
            "HOLDFAST_PORT": "9000",
            "HOLDFAST_UDS": str(tmp_path / "api.sock"),
            "HOLDFAST_WORKERS": "3",
            "HOLDFAST_PARTITIONS": "128",
            "HOLDFAST_JWT_SECRET": "hush",
            "HOLDFAST_JWT_SECRETS_OTHER": f"{'a' * 32}, {'b' * 40}",
            "HOLDFAST_JWT_ISSUER": "https://id.example",
            "HOLDFAST_JWT_AUDIENCE": "box-office",
            "HOLDFAST_JWKS_URL": "https://id.example/jwks.json",
            "HOLDFAST_CONFIRM_TIMEOUT": "2.5",
            "HOLDFAST_JOURNAL_MAX_BYTES": "1048576",
            "HOLDFAST_HOLD_HISTORY_DAYS": "0",
            "HOLDFAST_RECONCILER": "OFF",
            "HOLDFAST_ARCHIVE_AFTER": "3600",
            "HOLDFAST_RATE_LIMIT": "100/60+20",
            "HOLDFAST_RATE_LIMIT_BY_ADDRESS": "1000/60+200",
            "HOLDFAST_TRUSTED_PROXIES": "10.0.0.0/8, unix",
            "HOLDFAST_IN_FLIGHT": "32",
            "HOLDFAST_CONNECTIONS_MAX": "500",
            "HOLDFAST_STREAM": "{shop}:events",
            "HOLDFAST_STREAM_LENGTH": "5000",
            "HOLDFAST_STREAM_TYPES": "booking.*, hold.expired",
            "HOLDFAST_OUTBOX_DAYS": "30",
            "HOLDFAST_WEBHOOKS_RETRY_HOURS": "72",
            "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE": "on",
            "HOLDFAST_LOG_LEVEL": "DEBUG",
            "HOLDFAST_DATA_KEY": KEY,
            "HOLDFAST_DATA_KEYS_OTHER": f"{KEY}, {KEY}",
            "HOLDFAST_PAYMENT_PROVIDERS": "Stripe, simulator",
            "HOLDFAST_PAYMENT_SIMULATOR_URL": "http://127.0.0.1:8001",
            "HOLDFAST_PAYMENT_SIMULATOR_SECRETS": "new,old",
            "HOLDFAST_STRIPE_API_KEY": "sk_test",
            "HOLDFAST_STRIPE_WEBHOOK_SECRETS": "whsec",
            "HOLDFAST_STRIPE_URL": "http://127.0.0.1:12111",
            "HOLDFAST_PAYMENT_RETURN_URL": "https://shop.example/back",
            "HOLDFAST_PRICING_URL": "http://prices:8080/quote",
            "HOLDFAST_PRICING_TIMEOUT": "0.25",
            "HOLDFAST_INVENTORY_URL": "https://inventory.example/check",
            "HOLDFAST_INVENTORY_TIMEOUT": "1",
        }
    )

    assert settings == Settings(
        redis_url="redis+cluster://a:7000,b:7000",
        database_url="postgresql://u:p@db/hf",
        data_dir=tmp_path,
        host="0.0.0.0",
        port=9000,
        uds=tmp_path / "api.sock",
        workers=3,
        partitions=128,
        jwt_secret="hush",
        jwt_secrets_other=("a" * 32, "b" * 40),
        jwt_issuer="https://id.example",
        jwt_audience="box-office",
        jwks_url="https://id.example/jwks.json",
        payment_providers=("stripe", "simulator"),
        simulator_url="http://127.0.0.1:8001",
        simulator_secrets="new,old",
        stripe_api_key="sk_test",
        stripe_webhook_secrets="whsec",
        stripe_url="http://127.0.0.1:12111",
        payment_return_url="https://shop.example/back",
        confirm_timeout_s=2.5,
        journal_max_bytes=1 << 20,
        hold_history_days=0,
        reconciler=False,
        archive_after_s=3600.0,
        rate_limit=RateLimit(100, 60, 20),
        rate_limit_by_address=RateLimit(1000, 60, 200),
        trusted_proxies=("10.0.0.0/8", "unix"),
        in_flight=32,
        connections_max=500,
        stream="{shop}:events",
        stream_length=5_000,
        stream_types=("booking.*", "hold.expired"),
        outbox_days=30,
        webhooks_retry_hours=72,
        webhooks_allow_private=True,
        log_level="debug",
        data_key=bytes(range(32)),
        data_keys_other=(bytes(range(32)), bytes(range(32))),
        pricing_url="http://prices:8080/quote",
        pricing_timeout_s=0.25,
        inventory_url="https://inventory.example/check",
        inventory_timeout_s=1.0,
    )


def test_settings_take_a_flag_before_the_environment() -> None:
    settings = load_settings({"HOLDFAST_PORT": "9000", "HOLDFAST_WORKERS": "3"}, port=8080, workers=None)

    assert (settings.port, settings.workers) == (8080, 3)


def test_settings_treat_an_empty_variable_as_absent() -> None:
    assert load_settings({"HOLDFAST_PORT": "", "REDIS_URL": " "}).port == 8000


def test_settings_read_a_secret_from_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "jwt"
    secret.write_text("hush\n")

    assert load_settings({"HOLDFAST_JWT_SECRET_FILE": str(secret)}).jwt_secret == "hush"


def test_settings_refuse_a_secret_given_twice(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL and REDIS_URL_FILE are both set"):
        load_settings({"REDIS_URL": "redis://a", "REDIS_URL_FILE": str(tmp_path / "url")})


def test_settings_name_the_file_when_a_secret_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"DATABASE_URL_FILE: .*missing.* expected a file"):
        load_settings({"DATABASE_URL_FILE": str(tmp_path / "missing")})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HOLDFAST_PORT", "eighty", "a whole number from 0 to 65535"),
        ("HOLDFAST_PORT", "65536", "a whole number from 0 to 65535"),
        ("HOLDFAST_UDS", "/tmp/" + "x" * 99, "a path of at most 103 bytes"),
        ("HOLDFAST_UDS", "/nowhere/at/all/api.sock", "a path in a directory that exists"),
        ("HOLDFAST_WORKERS", "0", "a whole number from 1 to 256"),
        ("HOLDFAST_PARTITIONS", "-1", "a whole number from 1 to 16384"),
        ("HOLDFAST_CONFIRM_TIMEOUT", "soon", "a number of seconds from 0.05 to 300"),
        ("HOLDFAST_CONFIRM_TIMEOUT", "nan", "a number of seconds from 0.05 to 300"),
        ("HOLDFAST_HOLD_HISTORY_DAYS", "-1", "a whole number from 0 to 3650"),
        ("HOLDFAST_JOURNAL_MAX_BYTES", "4096", "a whole number from 1048576 to 1099511627776"),
        ("HOLDFAST_RATE_LIMIT", "100 per minute", "REQUESTS/SECONDS+BURST"),
        ("HOLDFAST_RATE_LIMIT", "0/60+20", "REQUESTS/SECONDS+BURST"),
        ("HOLDFAST_RATE_LIMIT_BY_ADDRESS", "10/60", "REQUESTS/SECONDS+BURST"),
        ("HOLDFAST_TRUSTED_PROXIES", "10.0.0.1/8", "networks such as 10.0.0.0/8"),
        ("HOLDFAST_TRUSTED_PROXIES", "0.0.0.0/0", "anybody could name any client"),
        ("HOLDFAST_LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
        ("HOLDFAST_JWKS_URL", "id.example", "a URL beginning with https://, http://"),
        ("HOLDFAST_PRICING_URL", "prices:8080", "a URL beginning with https:// or http://"),
        ("HOLDFAST_INVENTORY_URL", "https:///check", "a URL beginning with https:// or http://"),
        ("HOLDFAST_PRICING_TIMEOUT", "0", "a number of seconds from 0.01 to 30"),
        ("HOLDFAST_INVENTORY_TIMEOUT", "31", "a number of seconds from 0.01 to 30"),
        ("HOLDFAST_DATA_DIR", __file__, "a directory"),
    ],
)
def test_settings_say_what_was_given_and_what_is_expected(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({variable: value})

    assert str(refused.value).startswith(f"{variable}: {value!r} ")
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("REDIS_URL", "http://:hunter2@cache", "redis://"),
        ("DATABASE_URL", "mysql://u:hunter2@db", "postgresql://"),
        ("HOLDFAST_PRICING_URL", "https://u:hunter2@prices", "without a user or password"),
        ("DATABASE_URL", "postgresql://u:hunter2@db:port/holdfast", "a URL whose ports are numbers"),
        ("DATABASE_URL", "postgresql://u:pa/hunter2@db/holdfast", "are written %2F"),
        ("HOLDFAST_DATA_KEY", "hunter2", "32 random bytes in base64url"),
        ("HOLDFAST_DATA_KEY", "hunter2\N{SNOWMAN}", "32 random bytes in base64url"),
    ],
)
def test_settings_never_repeat_a_secret_that_cannot_be_used(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({variable: value})

    assert "hunter2" not in str(refused.value)
    assert str(refused.value).startswith(f"{variable}: ")
    assert expected in str(refused.value)


def test_settings_name_the_flag_when_it_cannot_be_used() -> None:
    with pytest.raises(SettingsError, match=r"^--port: '-1'"):
        load_settings({}, port=-1)


def test_settings_hide_secrets_when_they_are_printed() -> None:
    settings = load_settings(
        {"REDIS_URL": "redis://:hunter2@a", "HOLDFAST_JWT_SECRET": "hunter2", "HOLDFAST_DATA_KEY": KEY}
    )

    assert "hunter2" not in repr(settings)
    assert repr(bytes(range(32))) not in repr(settings)
    assert "port=8000" in repr(settings)


@pytest.mark.parametrize(
    ("environment", "providers"),
    [
        ({}, ("simulator",)),
        ({"DATABASE_URL": "postgresql://db/hf"}, ()),
        ({"HOLDFAST_PAYMENT_PROVIDERS": "none"}, ()),
        ({"DATABASE_URL": "postgresql://db/hf", "HOLDFAST_PAYMENT_PROVIDERS": "simulator"}, ("simulator",)),
    ],
)
def test_payments_are_simulated_by_default_only_beside_an_embedded_postgres(
    environment: dict[str, str], providers: tuple[str, ...]
) -> None:
    assert load_settings(environment).payment_providers == providers


@pytest.mark.parametrize("given", ["paypal", "stripe,paypal", "none,stripe", ","])
def test_payment_provider_that_there_is_not_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_PAYMENT_PROVIDERS"):
        load_settings({"HOLDFAST_PAYMENT_PROVIDERS": given})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HOLDFAST_STREAM", "hf:{3}:journal"),
        ("HOLDFAST_STREAM", "two words"),
        ("HOLDFAST_STREAM_LENGTH", "0"),
        ("HOLDFAST_STREAM_TYPES", "booking"),
        ("HOLDFAST_OUTBOX_DAYS", "0"),
        ("HOLDFAST_WEBHOOKS_RETRY_HOURS", "721"),
        ("HOLDFAST_WEBHOOKS_ALLOW_PRIVATE", "yes"),
    ],
)
def test_settings_refuse_what_the_outbox_cannot_be_published_with(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        load_settings({variable: text})
