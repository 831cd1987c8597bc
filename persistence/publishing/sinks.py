"""The sinks of an installation: where they are, what they want to be told, and the secrets they are signed to with."""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from persistence.database import Row, fetch_rows, in_transaction, outside_transaction
from persistence.publishing.event_types import ALL_OF_BOOKINGS, UnknownType, require_types
from persistence.publishing.queue import Queue
from persistence.publishing.signing import SECRETS_MAX, new_secret, secret_key
from persistence.schema import sinks
from persistence.sealing import AesSealer

SINKS_MAX = 50  # each has a courier, connections and a label of its own in every reconciler
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
STREAM = "stream"  # the name of the one sink that settings make


class SinkError(Exception):
    """A sink cannot be had as asked; the message says why."""


class Sink(msgspec.Struct, frozen=True, kw_only=True):
    """One sink; ``secrets`` are a webhook's, the newest first. ``types`` are names, or all of a kind: ``booking.*``.

    ``lost`` says why the secrets cannot be had: nothing can be signed then, and what is to be told waits.
    """

    id: int
    name: str
    kind: Literal["webhook", "stream"]
    target: str
    secrets: tuple[str, ...]
    types: tuple[str, ...]
    created_at: dt.datetime
    disabled_at: dt.datetime | None
    disabled_reason: str | None
    lost: str | None = None

    def __repr__(self) -> str:
        """Leave the secrets out, so that a sink can be logged."""
        return f"Sink({self.name!r}, {self.kind!r}, {self.target!r})"


class Sinks:
    """The table of sinks."""

    def __init__(self, database: AsyncEngine, sealer: AesSealer) -> None:
        self._database = database
        self._sealer = sealer

    async def all(self) -> list[Sink]:
        """All of them by name.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        return [self._open(row) for row in await fetch_rows(self._database, sa.select(sinks).order_by(sinks.c.name))]

    async def find(self, name: str) -> Sink:
        """The one of this name.

        Raises:
            SinkError: There is none.
        """
        rows = await fetch_rows(self._database, sa.select(sinks).where(sinks.c.name == name))
        if not rows:
            raise _unknown(name)
        return self._open(rows[0])

    async def add(
        self, name: str, url: str, *, types: Sequence[str] = ALL_OF_BOOKINGS, secret: str | None = None
    ) -> Sink:
        """Make a webhook; it is told what happens from now on.

        Raises:
            SinkError: The name is taken or is none, a type is none, the secret is none, or there are too many.
        """
        if NAME.fullmatch(name) is None or name == STREAM:
            raise SinkError(f"{name!r} cannot be a name: a-z, 0-9, hyphens and dots, and not {STREAM!r}")
        try:
            require_types(types)
        except UnknownType as error:
            raise SinkError(str(error)) from None
        secret = secret or new_secret()
        try:
            secret_key(secret)
        except ValueError as error:
            raise SinkError(str(error)) from None
        values = {"kind": "webhook", "target": url, "secrets": self._seal(name, [secret]), "types": list(types)}

        async def work(connection: AsyncConnection) -> bool:
            count = (await connection.execute(sa.select(sa.func.count()).select_from(sinks))).scalar_one()
            if count >= SINKS_MAX:
                raise SinkError(f"there are {count} sinks, and no more can be")
            row = insert(sinks).values(name=name, created_at=sa.func.now(), **values).on_conflict_do_nothing()
            return (await connection.execute(row)).rowcount == 1

        if not await in_transaction(self._database, work):
            raise SinkError(f"there is a webhook {name!r} already")
        return await self.find(name)

    async def ensure_stream(self, key: str | None, types: Sequence[str]) -> None:
        """Have the stream that settings ask for, or none; one that was there and is not wanted any more is disabled.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        if key is None:
            reason = "HOLDFAST_STREAM is not set"
            await self._change(STREAM, disabled_at=sa.func.now(), disabled_reason=reason, only_enabled=True)
            return
        wanted: dict[str, Any] = {"target": key, "types": list(types), "disabled_at": None, "disabled_reason": None}
        row = insert(sinks).values(name=STREAM, kind="stream", created_at=sa.func.now(), **wanted)
        differs = sa.or_(*[sinks.c[name].is_distinct_from(row.excluded[name]) for name in wanted])
        upsert = row.on_conflict_do_update(index_elements=[sinks.c.name], set_=wanted, where=differs)
        await outside_transaction(self._database, lambda connection: connection.execute(upsert))

    async def remove(self, name: str) -> None:
        """Take a sink away, with all that it was still to be told.

        Raises:
            SinkError: There is none of this name, or it is the stream, and at work: a process that starts makes it
                again, and what happens until then it would not be told.
        """
        sink = await self.find(name)
        if sink.kind == STREAM and sink.disabled_at is None:
            raise SinkError("it is what HOLDFAST_STREAM names: unset that, or `holdfast webhooks disable stream`")
        own = sa.delete(sinks).where(sinks.c.id == sink.id)
        await outside_transaction(self._database, lambda connection: connection.execute(own))
        await Queue(self._database).forget_removed()

    async def disable(self, name: str, reason: str) -> None:
        """Tell it nothing more, until it is enabled again; what happens meanwhile it is told only by a replay."""
        if not await self._change(name, disabled_at=sa.func.now(), disabled_reason=reason):
            raise _unknown(name)

    async def enable(self, name: str) -> None:
        """Go on with a sink that was disabled."""
        if not await self._change(name, disabled_at=None, disabled_reason=None):
            raise _unknown(name)

    async def rotate(self, name: str, *, finish: bool = False) -> Sink:
        """Put a new secret in front of the one at hand, and sign with both; with *finish* drop the old one.

        Secrets that are lost are replaced by the new one.

        Raises:
            SinkError: There is no such webhook, or the last rotation is not finished, or there is none to finish.
        """
        sink = await self.find(name)
        if sink.kind != "webhook":
            raise SinkError(f"{name!r} has no secrets")
        if finish == (sink.lost is not None or len(sink.secrets) < SECRETS_MAX):
            raise SinkError("no rotation is under way" if finish else "finish the rotation that is under way first")
        secrets = sink.secrets[:1] if finish else (new_secret(), *sink.secrets)
        await self._change(name, secrets=self._seal(name, secrets))
        return await self.find(name)

    async def reseal(self) -> tuple[int, int]:
        """Seal secrets anew that have another data key than the first: how many, and how many no key here opens."""
        done, unopened = 0, 0
        for row in await fetch_rows(self._database, sa.select(sinks).where(sinks.c.secrets.is_not(None))):
            if self._sealer.is_sealed_with_first_key(row["secrets"]):
                continue
            if (sink := self._open(row)).lost is not None:
                unopened += 1
                continue
            change = sa.update(sinks).where(sinks.c.id == row["id"], sinks.c.secrets == row["secrets"])
            anew = change.values(secrets=self._seal(sink.name, sink.secrets))
            done += await self._execute(anew)  # none where they were changed meanwhile: those have the first key
        return done, unopened

    async def _change(self, name: str, *, only_enabled: bool = False, **values: Any) -> bool:
        change = sa.update(sinks).where(sinks.c.name == name).values(values)
        if only_enabled:
            change = change.where(sinks.c.disabled_at.is_(None))
        return bool(await self._execute(change))

    async def _execute(self, change: sa.Update) -> int:
        done = await outside_transaction(self._database, lambda connection: connection.execute(change))
        return int(done.rowcount)

    def _seal(self, name: str, secrets: Sequence[str]) -> bytes:
        return self._sealer.seal_text(" ".join(secrets), _bound(name))

    def _open(self, row: Row) -> Sink:
        secrets, lost = tuple[str, ...](), None
        if row["secrets"] is not None:
            try:
                secrets = tuple(self._sealer.unseal_text(row["secrets"], _bound(row["name"])).split(" "))
            except ValueError as error:  # of this one: the others can be told things all the same
                lost = str(error)
        return Sink(
            id=row["id"],
            name=row["name"],
            kind=row["kind"],
            target=row["target"],
            secrets=secrets,
            types=tuple(row["types"]),
            created_at=row["created_at"],
            disabled_at=row["disabled_at"],
            disabled_reason=row["disabled_reason"],
            lost=lost,
        )


def _unknown(name: str) -> SinkError:
    if name == STREAM:
        return SinkError("there is no stream: no process with HOLDFAST_STREAM has begun to publish here")
    return SinkError(f"there is no webhook {name!r}")


def _bound(name: str) -> bytes:
    return b"holdfast webhook secrets:" + name.encode()
