"""Whether an installation will do: everything that ``holdfast doctor`` looks at, each with a verdict and a remedy."""

import resource
import sys
import time
from collections.abc import Iterator

from redis.exceptions import ResponseError

from engine.backlog import read_backlog
from engine.errors import HoldfastError
from engine.kernel import Kernel
from engine.store_checks import Finding, examine_clock, examine_store
from engine.store_survey import survey_store
from engine.transport.errors import TransportError
from engine.transport.open import open_transport
from holdfast.counted import counted
from holdfast.embedded.errors import EmbeddedError
from holdfast.migrating import migrate_database
from holdfast.servers import any_servers
from holdfast.settings import (
    JWT_SECRET_BYTES_MIN,
    Settings,
    SettingsError,
    data_key,
    data_key_origin,
    data_keys,
    jwt_secrets,
)
from persistence.canary import DataKeyDiffers, compare_data_key
from persistence.database import open_database
from persistence.database_checks import examine_database
from persistence.sealing import AesSealer, SealingUnsupported
from persistence.trouble_checks import examine_trouble, installed_partitions

OPEN_FILES_MIN = 4_096  # a connection of a client is an open file; a rush has thousands
PYTHON_FLOOR = (3, 11)


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything, whatever is found on the way."""
    findings, key = list(_examine_process(settings)), _data_key(settings)
    try:
        async with any_servers(settings) as filled:
            if settings.database_url is None:
                await migrate_database(filled)  # embedded: it is ours, and serve would do the same
            findings += await _examine_redis(filled)
            of_postgres = await _examine_postgres(filled)
            findings += of_postgres
            if key.verdict == "ok" and any(
                each.subject == "migrations" and each.verdict == "ok" for each in of_postgres
            ):
                key = await _compare_data_key(filled, key)
    except (EmbeddedError, HoldfastError) as error:
        findings.append(Finding("embedded servers", "failure", str(error), "See the log it names"))
    return [*findings, key]


def _examine_process(settings: Settings) -> Iterator[Finding]:
    version = f"Python {sys.version.split()[0]}"
    fits = sys.version_info[:2] >= PYTHON_FLOOR
    yield (
        Finding("version of Python", "ok", version)
        if fits
        else Finding("version of Python", "failure", version, "Use Python 3.11 or newer")
    )
    yield _open_files()
    yield _data_dir(settings)
    yield _secret(settings)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    if limit < OPEN_FILES_MIN:
        remedy = f"Raise it (ulimit -n {OPEN_FILES_MIN}; LimitNOFILE= of systemd): every client's connection is one"
        return Finding("open files", "warning", f"at most {soft} (could be {hard})", remedy)
    return Finding("open files", "ok", f"at most {soft}")


def _data_dir(settings: Settings) -> Finding:
    path = settings.data_dir
    if not path.exists():
        return Finding("data directory", "ok", f"{path} is made when it is needed")
    mode = path.stat().st_mode & 0o777
    if mode & 0o022:
        remedy = f"Run chmod 700 {path}: others could put files of theirs in place of ours"
        return Finding("data directory", "failure", f"{path} can be written by others (mode {mode:04o})", remedy)
    if mode & 0o055:
        return Finding(
            "data directory", "warning", f"{path} can be read by others (mode {mode:04o})", f"Run chmod 700 {path}"
        )
    return Finding("data directory", "ok", f"{path} is its owner's alone")


def _secret(settings: Settings) -> Finding:
    try:
        length = min(len(secret.encode()) for secret in jwt_secrets(settings))
    except SettingsError as error:
        return Finding("token secret", "failure", str(error), "Put right what it says")
    detail = counted(length, "byte")
    if length < JWT_SECRET_BYTES_MIN:
        remedy = f"Have secrets of {JWT_SECRET_BYTES_MIN} random bytes or more alone: a short one can be guessed"
        return Finding("token secret", "failure", detail, remedy)
    return Finding("token secret", "ok", detail)


def _data_key(settings: Settings) -> Finding:
    try:
        data_key(settings)
    except (SettingsError, ValueError) as error:
        return Finding("data key", "failure", str(error), "Put right what it says; without it guests cannot be read")
    return Finding("data key", "ok", "configured" if settings.data_key else f"kept in {settings.data_dir}: back it up")


async def _compare_data_key(settings: Settings, usable: Finding) -> Finding:
    assert settings.database_url is not None  # holdfast.servers has filled it in
    database = open_database(settings.database_url, pool_size=1)
    try:
        await compare_data_key(database, AesSealer(data_keys(settings)))
    except DataKeyDiffers as error:
        detail = f"{data_key_origin(settings)}: {error.seen}"
        return Finding("data key", "failure", detail, f"{error.remedy}. No process starts with this one")
    except SealingUnsupported as error:
        return Finding("data key", "failure", str(error), "Put right what it says; without it no process starts")
    except HoldfastError as error:
        return Finding("data key", "warning", f"not compared with what is sealed: {error}", "See why Postgres stopped")
    finally:
        await database.dispose()
    return usable


async def _examine_redis(settings: Settings) -> list[Finding]:
    assert settings.redis_url is not None  # holdfast.servers has filled it in
    try:
        transport = await open_transport(settings.redis_url)
    except (TransportError, ValueError) as error:
        return [Finding("Redis", "failure", str(error), "Start it, or set REDIS_URL right")]
    try:
        findings = await examine_store(transport)
        findings.append(await examine_clock(transport, time.time_ns() // 1_000_000))
        return findings + await survey_store(transport)
    except TransportError as error:
        return [Finding("Redis", "failure", str(error), "See why it stopped answering")]
    except ResponseError as error:
        return [Finding("Redis", "failure", str(error), "Grant what docs/operations.md lists for an application user")]
    finally:
        await transport.aclose()


async def _examine_dead_letters(settings: Settings, partitions: int | None) -> list[Finding]:
    """Nothing, where there is no installation yet, or Redis cannot be asked: other rows say so."""
    assert settings.redis_url is not None
    if partitions is None:
        return []
    try:
        transport = await open_transport(settings.redis_url)
    except (TransportError, ValueError):
        return []
    try:
        count = (await read_backlog(Kernel(transport, partitions=partitions))).dead_letters
    except (HoldfastError, TransportError, ResponseError):
        return []
    finally:
        await transport.aclose()
    if count:
        entries = counted(count, "journal entry", "journal entries")
        return [Finding("dead letters", "warning", f"{entries} that cannot be written", "`holdfast dead-letters list`")]
    return [Finding("dead letters", "ok", "none")]


async def _examine_postgres(settings: Settings) -> list[Finding]:
    assert settings.database_url is not None  # holdfast.servers has filled it in
    database = open_database(settings.database_url, pool_size=2)
    try:
        findings = await examine_database(database, workers=settings.workers, partitions=settings.partitions)
        if any(finding.subject == "migrations" and finding.verdict == "ok" for finding in findings):
            findings += await examine_trouble(database, providers=settings.payment_providers)
            findings += await _examine_dead_letters(settings, await installed_partitions(database))
        return findings
    except HoldfastError as error:
        return [Finding("Postgres", "failure", str(error), "Start it, or set DATABASE_URL right")]
    finally:
        await database.dispose()
