"""Questions about idempotency keys share their way to Postgres, and each gets its own answer."""

import asyncio
from typing import Any

import pytest
from ledger_lab import Lab

from engine.errors import LedgerUnavailable
from persistence import known_keys
from persistence.known_keys import KnownKeys

pytest_plugins = ("ledger_fixtures",)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The scopes of every question that was put to Postgres."""
    questions: list[list[bytes]] = []
    read = KnownKeys._read

    async def watched(self: KnownKeys, asked: Any) -> None:
        questions.append(list(asked))
        await read(self, asked)

    monkeypatch.setattr(KnownKeys, "_read", watched)
    return questions


async def test_each_is_told_of_its_own_key_and_all_share_one_question(lab: Lab, questions: list[list[bytes]]) -> None:
    event = await lab.event()
    await lab.ledger.commit(lab.entry(event, count=1, once=b"used"), event)
    keys = KnownKeys(lab.engine)
    scopes = [b"used", b"new", b"used", *(b"n%d" % number for number in range(50))]

    told = await asyncio.gather(*map(keys.is_known, scopes))

    assert told == [True, False, True] + [False] * 50
    assert [len(question) for question in questions] == [52]


async def test_who_asks_during_a_question_is_in_the_next_one(
    lab: Lab, questions: list[list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer must be no older than the question: the key may have been used a moment ago."""
    event = await lab.event()
    keys = KnownKeys(lab.engine)
    first = asyncio.create_task(keys.is_known(b"k"))
    while not questions:  # noqa: ASYNC110 - until the first question is under way
        await asyncio.sleep(0)
    commit = asyncio.create_task(lab.ledger.commit(lab.entry(event, count=1, once=b"k"), event))
    await first
    await commit

    assert await keys.is_known(b"k")
    assert questions == [[b"k"], [b"k"]]


async def test_question_goes_on_when_one_who_asked_gives_up(lab: Lab) -> None:
    keys = KnownKeys(lab.engine)
    patient, impatient = (asyncio.create_task(keys.is_known(b"k")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient is False


@pytest.mark.parametrize("steps", [0, 1, 5])
async def test_nobody_waits_for_ever_when_the_reader_is_cancelled(lab: Lab, steps: int) -> None:
    keys = KnownKeys(lab.engine)
    asked = asyncio.create_task(keys.is_known(b"k"))
    await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    assert keys._reader is not None
    keys._reader.cancel()
    with pytest.raises(LedgerUnavailable):
        await asked
    assert await keys.is_known(b"k") is False


async def test_everybody_is_told_that_postgres_is_away_and_the_next_may_ask(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(engine: Any) -> Any:
        raise LedgerUnavailable("it is away")

    keys = KnownKeys(lab.engine)
    with monkeypatch.context() as patch:
        patch.setattr(known_keys, "driver_connection", refuse)
        told = await asyncio.gather(*(keys.is_known(b"k%d" % n) for n in range(3)), return_exceptions=True)
    assert [type(error) for error in told] == [LedgerUnavailable] * 3
    assert await keys.is_known(b"k0") is False
