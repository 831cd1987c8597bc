"""Settings: read from the environment and the command line, checked once, frozen."""

import base64
import binascii
import os
import re
import secrets
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from api.clients import parse_proxies
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.rate_limits import RateLimit
from holdfast.admission import IN_FLIGHT
from persistence.publishing.event_types import (
    ALL_OF_BOOKINGS,
    STREAM_LENGTH,
    STREAM_LENGTH_MAX,
    STREAM_NAME,
    UnknownType,
    require_types,
)

T = TypeVar("T")

SETTINGS_VARIABLE = "HOLDFAST_SETTINGS"  # by which a process of ours gets its settings, whole and as JSON
WORKERS_DEFAULT_MAX = 8  # past this, more machines help more than more processes beside embedded servers
SOCKET_PATH_MAX = 103  # bytes; what every system's sockaddr_un has room for
WORKERS_MAX = 256
PARTITIONS_MAX = 16_384  # the slots of a Redis Cluster; more could never spread further
DATA_KEY_BYTES = 32
JWT_SECRET_BYTES_MIN = 32  # RFC 7518, 3.2: a key of HS256 is at least as long as its hash; a shorter one is warned of
DATA_KEY_FILE = "data-key"
SIGNING_KEY_FILE = "jwt-secret"
JOURNAL_MAX_BYTES = (1 << 20, 1 << 40)  # less is reached by a dozen large bookings; more is no bound
HOLD_HISTORY_DAYS_MAX = 3_650  # a table of ten years is past what it is for: settling what happened in a sale
OUTBOX_DAYS_MAX = 3_650  # as for holds: what happened stays in the history of bookings
RETRY_HOURS_MAX = 720  # a month; who has not listened by then replays
ARCHIVE_AFTER_S = 86_400.0  # a day in which whoever comes late still finds the event as it was
ARCHIVE_AFTER_MAX_S = 10 * 366 * 86_400.0
RATE_BOUNDS = ((1, 1_000_000), (1, 86_400), (1, 1_000_000))  # requests, seconds, burst
SERVICE_TIMEOUT_S = 0.5  # a customer waits for it; what a service does not know by then, it will not know in time
SERVICE_TIMEOUT_BOUNDS_S = (0.01, 30.0)
IN_FLIGHT_MAX = 65_536  # in effect no bound: what comes is begun
CONNECTIONS = 8_192  # at some 15 kB each while they idle
CONNECTIONS_MAX = 1_000_000
_RATE = re.compile(r"([0-9]{1,7})/([0-9]{1,5})\+([0-9]{1,7})")
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")
_REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "rediss+sentinel", "rediss+cluster")
_POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_PROVIDERS = ("simulator", "stripe")
_SECRETS = frozenset(
    {
        "redis_url",
        "database_url",
        "jwt_secret",
        "jwt_secrets_other",
        "data_key",
        "data_keys_other",
        "simulator_secrets",
        "stripe_api_key",
        "stripe_webhook_secrets",
    }
)


class SettingsError(Exception):
    """A setting cannot be used; the message names it, what was given (never a secret), and what is expected."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How one installation runs. Absent URLs mean embedded servers; absent secrets are kept in ``data_dir``.

    ``partitions`` is asked for only when the installation is made: absent, it is what Postgres says, or 64.
    """

    redis_url: str | None
    database_url: str | None
    data_dir: Path
    host: str
    port: int
    uds: Path | None
    workers: int
    partitions: int | None
    jwt_secret: str | None
    jwt_secrets_other: tuple[str, ...]
    jwt_issuer: str
    jwt_audience: str
    jwks_url: str | None
    confirm_timeout_s: float
    journal_max_bytes: int
    hold_history_days: int
    reconciler: bool
    archive_after_s: float
    rate_limit: RateLimit | None
    rate_limit_by_address: RateLimit | None
    trusted_proxies: tuple[str, ...]
    in_flight: int
    connections_max: int
    stream: str | None
    stream_length: int
    stream_types: tuple[str, ...]
    outbox_days: int
    webhooks_retry_hours: int
    webhooks_allow_private: bool
    log_level: str
    data_key: bytes | None
    data_keys_other: tuple[bytes, ...]
    payment_providers: tuple[str, ...]
    simulator_url: str | None
    simulator_secrets: str | None
    stripe_api_key: str | None
    stripe_webhook_secrets: str | None
    stripe_url: str
    payment_return_url: str | None
    pricing_url: str | None
    pricing_timeout_s: float
    inventory_url: str | None
    inventory_timeout_s: float

    def __repr__(self) -> str:
        """Leave secrets out, so that settings can be logged."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        pairs = (f"{k}={'…' if k in _SECRETS and v is not None else repr(v)}" for k, v in shown.items())
        return f"Settings({', '.join(pairs)})"


def load_settings(environ: Mapping[str, str], **flags: Any) -> Settings:
    """Read every setting; a flag that is not ``None`` wins over the environment.

    Raises:
        SettingsError: The first setting that cannot be used.
    """
    unknown = flags.keys() - set(Settings.__struct_fields__)
    assert not unknown, f"no such settings: {unknown}"
    return _read_all(_Source(environ, flags))


def setting_variables() -> frozenset[str]:
    """The names of all variables that :func:`load_settings` looks for, and of the files that secrets may be in."""
    source = _Source({}, {})
    _read_all(source)
    return frozenset(source.looked_for)


def _read_all(source: "_Source") -> Settings:
    return Settings(
        redis_url=source.read("redis_url", "REDIS_URL", _url(*_REDIS_SCHEMES), None),
        database_url=source.read("database_url", "DATABASE_URL", _database_url, None),
        data_dir=source.read("data_dir", "HOLDFAST_DATA_DIR", _directory, None) or _default_data_dir(source.environ),
        host=source.read("host", "HOLDFAST_HOST", str, "127.0.0.1"),
        port=source.read("port", "HOLDFAST_PORT", _integer(0, 65_535), 8000),
        uds=source.read("uds", "HOLDFAST_UDS", _socket_path, None),
        workers=source.read("workers", "HOLDFAST_WORKERS", _integer(1, WORKERS_MAX), _usable_cores()),
        partitions=source.read("partitions", "HOLDFAST_PARTITIONS", _integer(1, PARTITIONS_MAX), None),
        jwt_secret=source.read("jwt_secret", "HOLDFAST_JWT_SECRET", str, None),
        jwt_secrets_other=source.read("jwt_secrets_other", "HOLDFAST_JWT_SECRETS_OTHER", _listed(_long_secret), ()),
        jwt_issuer=source.read("jwt_issuer", "HOLDFAST_JWT_ISSUER", str, "holdfast"),
        jwt_audience=source.read("jwt_audience", "HOLDFAST_JWT_AUDIENCE", str, "holdfast"),
        jwks_url=source.read("jwks_url", "HOLDFAST_JWKS_URL", _url("https", "http"), None),
        confirm_timeout_s=source.read("confirm_timeout_s", "HOLDFAST_CONFIRM_TIMEOUT", _seconds(0.05, 300.0), 5.0),
        journal_max_bytes=source.read(
            "journal_max_bytes", "HOLDFAST_JOURNAL_MAX_BYTES", _integer(*JOURNAL_MAX_BYTES), JOURNAL_BYTES_MAX
        ),
        hold_history_days=source.read(
            "hold_history_days", "HOLDFAST_HOLD_HISTORY_DAYS", _integer(0, HOLD_HISTORY_DAYS_MAX), 30
        ),
        reconciler=source.read("reconciler", "HOLDFAST_RECONCILER", _switch, True),
        archive_after_s=source.read(
            "archive_after_s", "HOLDFAST_ARCHIVE_AFTER", _seconds(0.0, ARCHIVE_AFTER_MAX_S), ARCHIVE_AFTER_S
        ),
        rate_limit=source.read("rate_limit", "HOLDFAST_RATE_LIMIT", _rate, None),
        rate_limit_by_address=source.read("rate_limit_by_address", "HOLDFAST_RATE_LIMIT_BY_ADDRESS", _rate, None),
        trusted_proxies=source.read("trusted_proxies", "HOLDFAST_TRUSTED_PROXIES", parse_proxies, ()),
        in_flight=source.read("in_flight", "HOLDFAST_IN_FLIGHT", _integer(1, IN_FLIGHT_MAX), IN_FLIGHT),
        connections_max=source.read(
            "connections_max", "HOLDFAST_CONNECTIONS_MAX", _integer(1, CONNECTIONS_MAX), CONNECTIONS
        ),
        stream=source.read("stream", "HOLDFAST_STREAM", _stream_name, None),
        stream_length=source.read(
            "stream_length", "HOLDFAST_STREAM_LENGTH", _integer(1, STREAM_LENGTH_MAX), STREAM_LENGTH
        ),
        stream_types=source.read("stream_types", "HOLDFAST_STREAM_TYPES", _event_types, ALL_OF_BOOKINGS),
        outbox_days=source.read("outbox_days", "HOLDFAST_OUTBOX_DAYS", _integer(1, OUTBOX_DAYS_MAX), 14),
        webhooks_retry_hours=source.read(
            "webhooks_retry_hours", "HOLDFAST_WEBHOOKS_RETRY_HOURS", _integer(1, RETRY_HOURS_MAX), 48
        ),
        webhooks_allow_private=source.read("webhooks_allow_private", "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE", _switch, False),
        log_level=source.read("log_level", "HOLDFAST_LOG_LEVEL", _one_of(*_LOG_LEVELS), "info"),
        data_key=source.read("data_key", "HOLDFAST_DATA_KEY", decode_key, None),
        data_keys_other=source.read("data_keys_other", "HOLDFAST_DATA_KEYS_OTHER", _listed(decode_key), ()),
        payment_providers=_payment_providers(source),
        simulator_url=source.read("simulator_url", "HOLDFAST_PAYMENT_SIMULATOR_URL", _url("http", "https"), None),
        simulator_secrets=source.read("simulator_secrets", "HOLDFAST_PAYMENT_SIMULATOR_SECRETS", str, None),
        stripe_api_key=source.read("stripe_api_key", "HOLDFAST_STRIPE_API_KEY", str, None),
        stripe_webhook_secrets=source.read("stripe_webhook_secrets", "HOLDFAST_STRIPE_WEBHOOK_SECRETS", str, None),
        stripe_url=source.read("stripe_url", "HOLDFAST_STRIPE_URL", _url("https", "http"), "https://api.stripe.com"),
        payment_return_url=source.read(
            "payment_return_url", "HOLDFAST_PAYMENT_RETURN_URL", _url("https", "http"), None
        ),
        pricing_url=source.read("pricing_url", "HOLDFAST_PRICING_URL", _service_url, None),
        pricing_timeout_s=source.read(
            "pricing_timeout_s", "HOLDFAST_PRICING_TIMEOUT", _seconds(*SERVICE_TIMEOUT_BOUNDS_S), SERVICE_TIMEOUT_S
        ),
        inventory_url=source.read("inventory_url", "HOLDFAST_INVENTORY_URL", _service_url, None),
        inventory_timeout_s=source.read(
            "inventory_timeout_s", "HOLDFAST_INVENTORY_TIMEOUT", _seconds(*SERVICE_TIMEOUT_BOUNDS_S), SERVICE_TIMEOUT_S
        ),
    )


def _payment_providers(source: "_Source") -> tuple[str, ...]:
    """Those configured; without any, the simulator, unless a Postgres is: then it may be no development any more."""
    in_development = source.read("database_url", "DATABASE_URL", str, None) is None
    given = source.read("payment_providers", "HOLDFAST_PAYMENT_PROVIDERS", _names(*_PROVIDERS), None)
    if given is not None:
        return tuple(given)
    return ("simulator",) if in_development else ()


def data_key(settings: Settings) -> bytes:
    """The key that guests' data is sealed with: configured, or kept in the data directory."""
    return settings.data_key or decode_key(resolve_secret(settings.data_dir, DATA_KEY_FILE))


def data_keys(settings: Settings) -> tuple[bytes, ...]:
    """Every key that opens guests' data: the one that seals it, and others while one takes another's place."""
    return (data_key(settings), *settings.data_keys_other)


def data_key_origin(settings: Settings) -> str:
    """Where :func:`data_key` has it from, for messages."""
    if settings.data_key is not None:
        return "HOLDFAST_DATA_KEY"
    return f"{settings.data_dir / DATA_KEY_FILE} (HOLDFAST_DATA_KEY is not set)"


def jwt_secret(settings: Settings) -> str:
    """The secret that tokens are signed with: configured, or kept in the data directory."""
    # Commands warn of a short one when they start, by the setting's name; PyJWT would, in its own words, at every use.
    warnings.filterwarnings("ignore", message="The HMAC key is")
    return settings.jwt_secret or resolve_secret(settings.data_dir, SIGNING_KEY_FILE)


def jwt_secrets(settings: Settings) -> tuple[str, ...]:
    """Every secret whose tokens are believed: the one that signs, and others while one takes another's place."""
    return (jwt_secret(settings), *settings.jwt_secrets_other)


def has_jwt_secret(settings: Settings) -> bool:
    """Whether :func:`jwt_secret` would find one, and make none."""
    return settings.jwt_secret is not None or (settings.data_dir / SIGNING_KEY_FILE).exists()


def resolve_secret(data_dir: Path, name: str) -> str:
    """Return the secret kept in *data_dir* under *name*; make one of 32 random bytes in base64url when there is none.

    Processes that race all get the same secret: it is written aside, and linked into place, which succeeds once.

    Raises:
        SettingsError: The file is empty, cannot be read, or can be read by other accounts.
    """
    path = data_dir / name
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _link_new_secret(path)
        mode = path.stat().st_mode & 0o777
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the secret cannot be kept or read: {error}") from error
    if mode & 0o077:
        raise SettingsError(f"{path}: other accounts can read this secret (mode {mode:04o}); run chmod 600 on it")
    if not secret:
        raise SettingsError(f"{path}: the secret is empty; delete the file to have a new one made")
    return secret


def decode_key(text: str) -> bytes:
    """Decode a key of 32 bytes from base64url, with or without padding.

    Raises:
        ValueError: It is something else; the message does not repeat it.
    """
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != DATA_KEY_BYTES:
        raise ValueError(f"{DATA_KEY_BYTES} random bytes in base64url, 43 characters")
    return key


class _Source:
    def __init__(self, environ: Mapping[str, str], flags: Mapping[str, Any]) -> None:
        self.environ = environ
        self.looked_for: set[str] = set()
        self._flags = flags

    def read(self, field: str, variable: str, parse: Callable[[str], T], default: T | Any) -> Any:
        """Look for a flag, the variable, its ``_FILE`` if it is a secret, the default; empty means absent.

        A parser raises ``ValueError`` with the words that say what is expected.
        """
        self.looked_for |= {variable, f"{variable}_FILE"} if field in _SECRETS else {variable}
        flag = self._flags.get(field)
        if flag is not None:
            origin, text = f"--{field.removesuffix('_s').replace('_', '-')}", str(flag)
        else:
            origin, text = self._variable(field, variable)
        if text == "":
            return default
        try:
            return parse(text)
        except ValueError as expected:
            may_be_secret = field in _SECRETS or "@" in text  # what is wrong with a URL may be the password in it
            given = "the value given (not shown)" if may_be_secret else repr(text)
            raise SettingsError(f"{origin}: {given} cannot be used; expected {expected}") from None

    def _variable(self, field: str, variable: str) -> tuple[str, str]:
        text = self.environ.get(variable, "").strip()
        file_variable = f"{variable}_FILE"
        file = self.environ.get(file_variable, "") if field in _SECRETS else ""
        if not file:
            return variable, text
        if text:
            raise SettingsError(f"{variable} and {file_variable} are both set; expected one of them")
        try:
            return f"{file_variable} ({file})", _secret_of(Path(file))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{file_variable}: {file!r} cannot be used; expected a file to read: {error}"
            ) from error


def _secret_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8").strip()
    if not text:
        raise ValueError("it is empty")
    return text


def _link_new_secret(path: Path) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(DATA_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        pass  # another process was faster; its secret is the one
    finally:
        aside.unlink()


def _default_data_dir(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME", "")
    return (Path(home) if home else Path.home()) / ".local" / "share" / "holdfast"


def _usable_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, WORKERS_DEFAULT_MAX)


def _long_secret(text: str) -> str:
    """One of a list: a secret that has a comma in it would be several, each of them short enough to be guessed."""
    if len(text.encode()) < JWT_SECRET_BYTES_MIN:
        raise ValueError(f"secrets of at least {JWT_SECRET_BYTES_MIN} bytes, with commas between and none in them")
    return text


def _listed(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(parse(part.strip()) for part in text.split(",") if part.strip())


def _directory(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError("a directory, or a path where one can be made")
    return path


def _socket_path(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ValueError(f"a path of at most {SOCKET_PATH_MAX} bytes")
    if not path.parent.is_dir():
        raise ValueError("a path in a directory that exists")
    return path


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if urlsplit(text).scheme not in schemes:
            raise ValueError("a URL beginning with " + ", ".join(f"{scheme}://" for scheme in schemes))
        return text

    return parse


def _database_url(text: str) -> str:
    """A URL whose hosts have numbers for ports; the driver's own complaint would show a part of a password."""
    hosts = urlsplit(_url(*_POSTGRES_SCHEMES)(text)).netloc.rpartition("@")[2].split(",")
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError("a URL whose ports are numbers; in a password, / ? # and @ are written %2F %3F %23 and %40")
    return text


def _service_url(text: str) -> str:
    """A URL to post to. It is logged when the service fails, so it may carry no password."""
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("a URL beginning with https:// or http://, without a user or password")
    return text


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"a number of seconds from {low:g} to {high:g}")
        return value

    return parse


def _rate(text: str) -> RateLimit:
    match = _RATE.fullmatch(text)
    if match is None or not all(
        low <= int(part) <= high for part, (low, high) in zip(match.groups(), RATE_BOUNDS, strict=True)
    ):
        raise ValueError("REQUESTS/SECONDS+BURST, such as 100/60+20: 100 requests a minute, 20 of them at once")
    requests, window_s, burst = map(int, match.groups())
    return RateLimit(requests, window_s, burst)


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError("on or off")
    return text.lower() == "on"


def _names(*choices: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name for part in text.lower().split(",") if (name := part.strip())))
        if names == ("none",):
            return ()
        if not names or not set(names) <= set(choices):
            raise ValueError("none, or names with commas between: " + ", ".join(choices))
        return names

    return parse


def _stream_name(text: str) -> str:
    if STREAM_NAME.fullmatch(text) is None:
        raise ValueError("the key of a stream: visible ASCII characters, and not beginning as keys of partitions do")
    return text


def _event_types(text: str) -> tuple[str, ...]:
    types = tuple(text.replace(",", " ").split())
    try:
        require_types(types)
    except UnknownType as error:
        raise ValueError(f"types of events with commas between them ({error})") from None
    return types


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text.lower()

    return parse


def encode_settings(settings: Settings) -> str:
    """Settings as JSON, secrets and all, for a process of our own to read from its environment."""
    return msgspec.json.encode(settings, enc_hook=str).decode()


def decode_settings(text: str) -> Settings:
    """What :func:`encode_settings` wrote."""
    return msgspec.json.decode(text, type=Settings, dec_hook=lambda kind, value: kind(value))
