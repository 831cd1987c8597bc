"""The canary: a word in Postgres, sealed with the installation's data key, that every process must be able to open.

A process with another key would seal what nobody else can read, and could read nothing of theirs. So each opens the
canary before it does anything, and one that cannot does not start. It stands in the table ``installation``, and needs
no right that a process does not have for the number of partitions.
"""

import base64
from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from persistence.database import Row, fetch_rows, outside_transaction
from persistence.schema import bookings, installation, sinks
from persistence.sealing import KEY_ID_BYTES, AesSealer

CANARY = "data_key"  # its row of ``installation``
RENEW = "renew"  # what a person writes there when the key is lost: the key of whoever starts next is the one
SAMPLE = 100  # bookings, and webhooks, whose keys are looked at where there is no canary yet; once in a life
DIFFERS = "its other processes seal with another one, and could read nothing that is sealed with this one"
_WORD = "the data key of this installation"
_BOUND = b"holdfast canary"

logger = structlog.get_logger("holdfast.persistence")


class DataKeyDiffers(Exception):
    """None of this process's data keys is the installation's: what was *seen* of that, and the *remedy*."""

    remedy = (
        "Set HOLDFAST_DATA_KEY or HOLDFAST_DATA_KEY_FILE to the key of its other processes, or HOLDFAST_DATA_DIR to the"
        ' directory that has it; if it is lost, see "A data key that is lost" in docs/operations.md'
    )

    def __init__(self, seen: str) -> None:
        super().__init__(f"this is not the data key of this installation: {seen}. {self.remedy}")
        self.seen = seen


async def require_data_key(engine: AsyncEngine, sealer: AesSealer) -> None:
    """Look that *sealer* opens the canary; write one where there is none, and seal it anew after a rotation.

    One query, and no right to write is needed, once the canary is there and sealed with the first key. Safe to repeat,
    and for several processes at once: of two that write, the second looks at what the first has written.

    Raises:
        DataKeyDiffers: It does not, or there is none and nothing that is sealed has one of its keys.
        LedgerUnavailable: Postgres does not answer.
    """
    seen = await _read(engine)
    if seen is None or seen == RENEW:
        if seen is None:
            await _require_known_key(engine, sealer)
        await _write(engine, sealer, instead_of=seen)
        seen = await _read(engine)
    if not _opens(seen, sealer):
        raise DataKeyDiffers(DIFFERS)
    assert seen is not None
    if not sealer.is_sealed_with_first_key(_bytes_of(seen)):
        await _write(engine, sealer, instead_of=seen)


async def compare_data_key(engine: AsyncEngine, sealer: AesSealer) -> None:
    """The same, and leave everything as it is: an installation that has no canary yet is as good as it can be.

    Raises:
        DataKeyDiffers, LedgerUnavailable: As in :func:`require_data_key`.
    """
    seen = await _read(engine)
    if seen is None:
        await _require_known_key(engine, sealer)
    elif seen != RENEW and not _opens(seen, sealer):
        raise DataKeyDiffers(DIFFERS)


async def _read(engine: AsyncEngine) -> str | None:
    rows = await fetch_rows(engine, sa.select(installation.c.value).where(installation.c.key == CANARY))
    return rows[0]["value"] if rows else None


async def _write(engine: AsyncEngine, sealer: AesSealer, *, instead_of: str | None) -> None:
    """Write a canary of our first key, unless somebody has changed what stood there."""
    value = base64.b64encode(sealer.seal_text(_WORD, _BOUND)).decode()
    change: sa.Executable
    if instead_of is None:
        change = insert(installation).values(key=CANARY, value=value).on_conflict_do_nothing()
    else:
        ours = (installation.c.key == CANARY, installation.c.value == instead_of)
        change = sa.update(installation).where(*ours).values(value=value)
    await outside_transaction(engine, lambda connection: connection.execute(change))


def _opens(value: str | None, sealer: AesSealer) -> bool:
    try:
        return value is not None and sealer.unseal_text(_bytes_of(value), _BOUND) == _WORD
    except ValueError:
        return False


def _bytes_of(value: str) -> bytes:
    return base64.b64decode(value)


async def _require_known_key(engine: AsyncEngine, sealer: AesSealer) -> None:
    """Refuse a key that nothing is sealed with where much may be: made by a version that wrote no canary.

    What is sealed names its key. Some of it may have another one than ours: that was the fault which the canary is
    there to prevent, and whose key is the right one then cannot be known from here.
    """
    rows = await _newest_sealed(engine)
    opened = sum(sealer.has_key_of(row["key_id"]) for row in rows)
    if rows and not opened:
        raise DataKeyDiffers(f"it opens none of the newest {len(rows)} bookings and webhooks")
    if opened < len(rows):
        logger.warning("some of the newest bookings and webhooks have another data key", opened=opened, of=len(rows))


async def _newest_sealed(engine: AsyncEngine) -> Sequence[Row]:
    rows: list[Row] = []
    for column, order in ((bookings.c.sealed, bookings.c.number), (sinks.c.secrets, sinks.c.id)):
        key_id = sa.func.substring(column, 1, KEY_ID_BYTES, type_=sa.LargeBinary).label("key_id")
        rows += await fetch_rows(
            engine, sa.select(key_id).where(column.is_not(None)).order_by(order.desc()).limit(SAMPLE)
        )
    return rows
