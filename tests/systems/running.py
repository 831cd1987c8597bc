"""An installation of one system: its server in processes of their own, its people, and a look behind the API."""

import asyncio
import contextlib
import datetime as dt
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil
from command_line import COMMAND, CommandLine
from processes_under_test import ROOT, are_gone, seconds_until
from servers import copy_cluster

from holdfast.settings import load_settings
from holdfast.tokens import make_token

EXAMPLES = ROOT / "examples"
SECRETS = {"HOLDFAST_JWT_SECRET": "k" * 40, "HOLDFAST_DATA_KEY": "A" * 43}
WORKERS = 2
STOP_BOUND_S = 20.0
_numbers = itertools.count(1)


class Installation:
    """A running server of one system."""

    def __init__(self, system: str, url: str, command: CommandLine) -> None:
        self.system = system
        self.url = url
        self.command = command
        self._settings = load_settings(command.environment)

    @contextlib.asynccontextmanager
    async def people(self) -> AsyncIterator["People"]:
        """Callers of its API."""
        async with httpx2.AsyncClient(base_url=self.url, timeout=30.0, trust_env=False) as client:
            yield People(client, lambda subject, role: make_token(self._settings, subject, (role,)))

    def example(self, name: str = "event", **changes: Any) -> dict[str, Any]:
        """A definition of ``examples/<system>/<name>.json``, under an id of its own, with some members changed."""
        document: dict[str, Any] = json.loads((EXAMPLES / self.system / f"{name}.json").read_text())
        return document | {"id": f"{self.system}-{next(_numbers)}"} | changes

    async def rows(self, query: str, *arguments: object) -> list[Mapping[str, Any]]:
        """What Postgres says."""
        socket = Path(self._settings.data_dir) / "postgres"
        connection = await asyncpg.connect(host=str(find_socket_dir(socket)), user="holdfast", database="holdfast")
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    def run_readme(self) -> str:
        """Follow the example's README; returns what it printed."""
        return self.run_page(EXAMPLES / self.system / "README.md")

    def run_page(self, page: Path) -> str:
        """Run the commands of a page, all of them in one shell, as somebody does who follows it."""
        commands = "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
        path = f"{Path(sys.executable).parent}:{self.command.environment['PATH']}"
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],  # they are said to be for any shell
            env=self.command.environment | {"HOLDFAST_URL": self.url, "PATH": path},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    async def require_agreement(self) -> None:
        """Make sure that Redis and the ledger say the same of every event."""
        async with self.people() as people:
            audit = await people.admin().get("/v1/admin/audit")
        assert audit["drift"] == 0, audit


class People:
    """Whoever calls the API of an installation."""

    def __init__(self, client: httpx2.AsyncClient, token: Callable[[str, str], str]) -> None:
        self._client = client
        self._token = token

    def customer(self, name: str) -> "Person":
        return Person(self._client, name, self._token(name, "customer"))

    def organizer(self, name: str) -> "Person":
        return Person(self._client, name, self._token(name, "organizer"))

    def admin(self, name: str = "root") -> "Person":
        return Person(self._client, name, self._token(name, "admin"))

    async def send(self, method: str, url: str, *, headers: Mapping[str, str], body: str) -> httpx2.Response:
        """A request as it stands in a file."""
        return await self._client.request(method, url, headers=dict(headers), content=body.encode())

    async def pay_at(self, url: str) -> None:
        """Open the page of a payment, as a browser that was sent there does, and agree."""
        for method in ("GET", "POST"):
            response = await self._client.request(method, url, follow_redirects=False)
            assert response.status_code < 400, response.text

    def nobody(self) -> "Person":
        return Person(self._client, "", None)


class Person:
    """Somebody with a token of their own. The methods answer the body, and insist on the status."""

    def __init__(self, client: httpx2.AsyncClient, name: str, token: str | None) -> None:
        self.name = name
        self.token = token
        self._client = client
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """One request; ``idempotency_key="k"`` becomes ``Idempotency-Key: k``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {} if body is None else {"json": body}
        return await self._client.request(method, path, headers=self._headers | named, **given)

    async def get(self, path: str, status: int = 200, **headers: str) -> Any:
        return _body(await self.call("GET", path, **headers), status)

    async def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        return _body(await self.call("POST", path, body, **headers), status)

    async def patch(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        return _body(await self.call("PATCH", path, body, **headers), status)

    async def delete(self, path: str, status: int = 204, **headers: str) -> Any:
        return _body(await self.call("DELETE", path, **headers), status)

    async def put_on_sale(self, definition: Mapping[str, Any]) -> str:
        """Create an event and open it; returns its id."""
        event = await self.post("/v1/events", definition, 201)
        await self.post(f"/v1/events/{event['id']}/open")
        event_id: str = event["id"]
        return event_id

    async def free(self, event_id: str, section: str | None = None, **stops: str) -> int:
        """How many places are free now, of a section or of all."""
        query = "&".join(f"{name.rstrip('_')}={stop}" for name, stop in stops.items())
        sections = (await self.get(f"/v1/events/{event_id}/availability?{query}"))["sections"]
        return sum(one["free"] for one in sections if section in (None, one["id"]))


def _body(response: httpx2.Response, status: int) -> Any:
    assert response.status_code == status, f"{response.request.method} {response.request.url}: {response.text}"
    return response.json() if response.content else None


def hours_from_now(hours: float) -> str:
    """A time for JSON."""
    return (dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


async def until(condition: Callable[[], Awaitable[Any]], *, within_s: float = 10.0) -> Any:
    """Ask until something true is answered; that answer."""
    async with asyncio.timeout(within_s):
        while not (answer := await condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.25)  # what is waited for happens in another process
        return answer


def example_settings(system: str) -> dict[str, str]:
    """The settings of ``examples/<system>/holdfast.env``, a file as systemd and Docker read it."""
    lines = (EXAMPLES / system / "holdfast.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def find_socket_dir(data_dir: Path) -> Path:
    """Where the embedded Postgres of *data_dir* listens; its pid file says so."""
    return Path((data_dir / "postmaster.pid").read_text().splitlines()[4])


@contextlib.contextmanager
def running_installation(system: str, directory: Path, *, shared_dir: Path, **variables: str) -> Iterator[Installation]:
    """Start ``holdfast serve`` with the system's settings; no process of it is left at the end of the block."""
    copy_cluster(shared_dir, directory / "data")
    settings = {"HOLDFAST_DATA_DIR": str(directory / "data"), "HOLDFAST_WORKERS": str(WORKERS)}
    command = CommandLine(**(settings | SECRETS | example_settings(system) | variables))
    with (directory / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0"], env=command.environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    left: list[psutil.Process] = []
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), (directory / "serve.log").read_text()
        left = psutil.Process(process.pid).children(recursive=True)
        yield Installation(system, line.removeprefix("listening on ").strip(), command)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
        seconds_until(lambda: are_gone(left), within_s=STOP_BOUND_S)
