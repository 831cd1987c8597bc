"""The client process of ``holdfast bench``: runs one phase, tells how far it is, and leaves the outcome in a file."""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.collector import paused_collector, spare_the_collector

with paused_collector():
    import msgspec
    import uvloop

    from holdfast.bench.connection import Asking, Connection
    from holdfast.bench.phases import BOOKING, HOLD, Outcome, Phase, Sofar, decode_phase, encode_outcome
    from holdfast.demo.box_office import decode_booking
    from holdfast.demo.client import UNANSWERED, Answer, describe_answer

TELL_EVERY_S = 0.25
LAST_ANSWERS_MAX_S = 30.0


class _Hold(msgspec.Struct, frozen=True):
    id: str


_decode_hold = msgspec.json.Decoder(_Hold).decode


class Load:
    """All connections of a phase, which draw on one supply of tokens and places."""

    def __init__(self, phase: Phase) -> None:
        self.outcome = Outcome(latencies_s={HOLD: [], BOOKING: []})
        self._phase = phase
        self._unexpected: Counter[str] = Counter()
        self._host = urlsplit(phase.url).netloc
        self._tokens = itertools.cycle(phase.tokens)
        self._numbers = iter(range(phase.most))
        self._until_s = 0.0

    async def run(self, tell: Callable[[Sofar], None]) -> Outcome:
        """Keep the connections busy; what is under way at the end is waited for.

        Raises:
            TimeoutError: It was not answered.
        """
        host, _, port = self._host.rpartition(":")
        loop = asyncio.get_running_loop()
        ask = self._hold_places if self._phase.kind == "holds" else self._book_seats
        cpu_s, began_s = time.process_time(), time.perf_counter()
        self._until_s = began_s + self._phase.seconds
        telling = asyncio.create_task(self._tell(tell))
        try:
            async with asyncio.timeout(self._phase.seconds + LAST_ANSWERS_MAX_S):
                made = [
                    loop.create_connection(lambda: Connection(ask(), on_overload=self._note_overload), host, int(port))
                    for _ in range(self._phase.connections)
                ]
                connections = [connection for _, connection in await asyncio.gather(*made)]
                await asyncio.gather(*(connection.ended for connection in connections))
        finally:
            telling.cancel()
        self.outcome.seconds = time.perf_counter() - began_s
        self.outcome.cpu_s = time.process_time() - cpu_s
        self.outcome.unexpected = dict(self._unexpected)
        return self.outcome

    def _hold_places(self) -> Asking:
        body = f'{{"items":[{{"section":"{self._phase.section}","quantity":1}}]}}'
        for _ in self._due():
            began_s = time.perf_counter()
            answer = yield self._request(self._holds_path, next(self._tokens), body)
            self._is_held(answer, began_s)

    def _book_seats(self) -> Asking:
        phase, outcome = self._phase, self.outcome
        for number in self._due():
            row, position = divmod(number, phase.seats_per_row)
            body = f'{{"items":[{{"section":"{phase.section}","seats":["{seat_label(row, position)}"]}}]}}'
            token = next(self._tokens)
            began_s = time.perf_counter()
            answer = yield self._request(self._holds_path, token, body)
            if not self._is_held(answer, began_s):
                continue
            hold_id = _decode_hold(answer.body).id
            answer = yield self._request("/v1/bookings", token, f'{{"hold_id":"{hold_id}"}}')
            outcome.latencies_s[BOOKING].append(time.perf_counter() - began_s)
            if answer.status == 201:
                outcome.confirmed.append(decode_booking(answer.body))
            elif answer.status == 202:
                outcome.confirming.append(decode_booking(answer.body))
            else:
                self._note_unexpected(BOOKING, answer)
                if answer.status == UNANSWERED or answer.status >= 500:
                    outcome.unknown.add(hold_id)

    @property
    def _holds_path(self) -> str:
        return f"/v1/events/{self._phase.event_id}/holds"

    def _due(self) -> Iterator[int]:
        """Numbers of what to ask for, until the time is over or nothing is left; the connections share them."""
        return itertools.takewhile(lambda _: time.perf_counter() < self._until_s, self._numbers)

    def _request(self, path: str, token: str, body: str) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def _is_held(self, answer: Answer, began_s: float) -> bool:
        self.outcome.latencies_s[HOLD].append(time.perf_counter() - began_s)
        if answer.status != 201:
            self._note_unexpected(HOLD, answer)
            return False
        self.outcome.holds += 1
        return True

    def _note_unexpected(self, purpose: str, answer: Answer) -> None:
        self._unexpected[f"{purpose}: {describe_answer(answer) if answer.status else 'connection lost'}"] += 1

    def _note_overload(self) -> None:
        self.outcome.overloaded += 1

    async def _tell(self, tell: Callable[[Sofar], None]) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            bookings = len(self.outcome.confirmed) + len(self.outcome.confirming)
            tell(Sofar(self.outcome.holds if self._phase.kind == "holds" else bookings))


def seat_label(row: int, position: int) -> str:
    """What the seat is called; both count from zero."""
    return f"R{row}-{position + 1}"


def _print(sofar: Sofar) -> None:
    print(msgspec.json.encode(sofar).decode(), flush=True)


def main(phase_file: Path, outcome_file: Path) -> None:
    """Run the phase of one file, and write its outcome into another."""
    load = Load(decode_phase(phase_file.read_bytes()))
    spare_the_collector()  # a round of it would be a latency
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(load.run(_print))
    outcome_file.write_bytes(encode_outcome(outcome))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
