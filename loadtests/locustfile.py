"""Who comes when a sale opens, for Locust: browsers, buyers, hoarders, a box office, an organizer; and how they come.

``loadtests/surge.py`` starts a server, runs this headless against it, and checks afterwards; a file that the variable
``SURGE`` names tells the crowd what it needs to know. What is acknowledged is written down, so that the ledger can be
asked for it.
"""

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import msgspec
from gevent import sleep
from locust import FastHttpUser, LoadTestShape, between, constant, task
from locust.exception import StopUser

HOLD_TTL_S = 30


class Surge(msgspec.Struct, frozen=True, kw_only=True):
    """What the crowd is told: its events, its tokens, how it comes, and where to write what is acknowledged."""

    profile: str
    users: int
    seconds: int
    events: list[str]
    section: str
    tokens: dict[str, list[str]]
    acknowledged: str


SURGE = msgspec.json.decode(Path(os.environ["SURGE"]).read_bytes(), type=Surge)
_numbers = itertools.count(random.randrange(1 << 20))


class Person(FastHttpUser):
    """Somebody with a token; answers that refuse for a reason are no failures."""

    abstract = True
    role = "customer"
    connection_timeout = network_timeout = 30.0

    def on_start(self) -> None:
        tokens = SURGE.tokens[self.role]
        self.headers = {"authorization": f"Bearer {tokens[next(_numbers) % len(tokens)]}"}

    def ask(self, method: str, path: str, name: str, body: Any = None, *, expect: tuple[int, ...] = (200,)) -> Any:
        """One request; what is not among *expect* is a failure, and answers ``None``."""
        with self.client.request(
            method, path, name=name, json=body, headers=self.headers, catch_response=True
        ) as response:
            if response.status_code in expect:
                response.success()
                return response.json() if response.content else {}
            if response.status_code in (409, 410, 429, 503):
                response.success()  # refused, and says why: that is what a sale under load is made of
            else:
                response.failure(f"{response.status_code}: {response.text[:200]}")
            return None

    def claim(self, quantity: int) -> dict[str, Any]:
        return {"items": [{"section": SURGE.section, "quantity": quantity}], "ttl": HOLD_TTL_S}

    def write_down(self, booking: dict[str, Any]) -> None:
        """Keep what was acknowledged; a line is one write, which processes do not tear apart."""
        with Path(SURGE.acknowledged).open("a") as file:
            file.write(json.dumps({"id": booking["id"], "status": booking["status"]}) + "\n")


class Browser(Person):
    """Looks, and looks again."""

    weight = 3
    wait_time = between(0.5, 2.0)

    @task
    def look(self) -> None:
        self.ask("GET", f"/v1/events/{random.choice(SURGE.events)}/availability", "availability")


class Buyer(Person):
    """Holds, thinks, and books; one in ten thinks better of it."""

    weight = 6
    wait_time = between(0.2, 1.0)

    @task
    def buy(self) -> None:
        event = random.choice(SURGE.events)
        hold = self.ask(
            "POST", f"/v1/events/{event}/holds", "hold", self.claim(random.choice((1, 1, 2, 4))), expect=(201,)
        )
        if hold is None:
            return
        sleep(random.uniform(0.05, 0.5))
        if random.random() < 0.1:
            self.ask("DELETE", f"/v1/holds/{hold['id']}", "release", expect=(204,))
            return
        booking = self.ask("POST", "/v1/bookings", "booking", {"hold_id": hold["id"]}, expect=(201, 202))
        if booking is not None:
            self.write_down(booking)


class Hoarder(Person):
    """Takes as much as is allowed, over and over, and buys nothing."""

    weight = 1
    wait_time = constant(0.5)

    @task
    def hoard(self) -> None:
        event = random.choice(SURGE.events)
        self.ask("POST", f"/v1/events/{event}/holds", "hoard", self.claim(10) | {"ttl": 2}, expect=(201,))


class BoxOffice(Person):
    """Sells for others, many holds in one request."""

    weight = 1
    role = "service"
    wait_time = between(1.0, 3.0)

    @task
    def sell(self) -> None:
        holds = [{"event_id": event} | self.claim(1) for event in random.choices(SURGE.events, k=10)]
        answers = self.ask("POST", "/v1/holds:batch", "batch", {"holds": holds}, expect=(207,))
        for result in (answers or {}).get("results", ()):
            if result["status"] == 201:
                body = {"hold_id": result["hold"]["id"]}
                booking = self.ask("POST", "/v1/bookings", "booking", body, expect=(201, 202))
                if booking is not None:
                    self.write_down(booking)


class Organizer(Person):
    """Watches how it goes."""

    weight = 1
    role = "organizer"
    wait_time = between(1.0, 2.0)

    @task
    def watch(self) -> None:
        self.ask("GET", f"/v1/events/{random.choice(SURGE.events)}/bookings?limit=20", "bookings of the event")


class Rival(Person):
    """Wants one place, asks once, and leaves."""

    wait_time = constant(0)

    @task
    def want(self) -> None:
        body = {"event_id": SURGE.events[0], "items": [{"section": SURGE.section, "quantity": 1}]}
        booking = self.ask("POST", "/v1/bookings", "race", body, expect=(201, 202))
        if booking is not None:
            self.write_down(booking)
        raise StopUser


class Lapser(Person):
    """Lets holds lapse, all of them in the same second: thundering expiry."""

    wait_time = constant(0.1)

    @task
    def let_lapse(self) -> None:
        event = random.choice(SURGE.events)
        self.ask("POST", f"/v1/events/{event}/holds", "hold", self.claim(1) | {"ttl": 5}, expect=(201,))


CROWD = (Browser, Buyer, Hoarder, BoxOffice, Organizer)


class Profile(LoadTestShape):
    """How many are there when, by the profile's name."""

    use_common_options = True

    def tick(self) -> tuple[int, float, list[type[Person]]] | None:
        """Users, how many come in a second, and who they are; ``None`` ends the run."""
        at_s = self.get_run_time()
        if at_s >= SURGE.seconds:
            return None
        users, quickly = SURGE.users, float(SURGE.users)
        match SURGE.profile:
            case "spike":  # the doors open, and everybody is there at once; half of them give up after a while
                return (users if at_s < SURGE.seconds * 0.7 else max(1, users // 2)), quickly, list(CROWD)
            case "ramp":
                return max(1, int(users * at_s / SURGE.seconds)), quickly, list(CROWD)
            case "race":
                return users, min(quickly, 500.0), [Rival]
            case "expiry":
                return users, quickly, [Lapser, Buyer]
        return users, max(1.0, users / 10), list(CROWD)  # steady
