"""Runs a phase in a client process, which cannot outlive this one, and shows how far it is."""

import asyncio
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from holdfast.bench.phases import Outcome, Phase, Sofar, decode_outcome, encode_phase
from holdfast.children import describe_exit, start_child
from holdfast.demo.errors import DemoFailed
from holdfast.demo.progress import LINE_EVERY_S
from holdfast.demo.server import OUTPUT_LINES_MAX, without_configuration

_decode_sofar = msgspec.json.Decoder(Sofar).decode


async def run_phase(phase: Phase, console: Console, directory: Path) -> Outcome:
    """The outcome of *phase*; its files are in *directory* for as long as it runs.

    Raises:
        DemoFailed: The client did not get to the end.
    """
    with tempfile.TemporaryDirectory(prefix="client-", dir=directory) as name:
        arguments = [str(Path(name, "phase.json")), str(Path(name, "outcome.json"))]
        _write(arguments[0], encode_phase(phase))
        with console.status(f"Making {phase.kind}") as status:

            def show(text: str) -> None:
                status.update(text)
                if not console.is_terminal:
                    console.print(text, soft_wrap=True)

            await _run_client(arguments, _shown(phase, show, each=console.is_terminal))
        return decode_outcome(_read(arguments[1]))


def _shown(phase: Phase, show: Callable[[str], None], *, each: bool) -> Callable[[Sofar], None]:
    """Shows how far *phase* is, at *each* word from the client or every so often."""
    began_s = shown_s = time.monotonic()

    def note(sofar: Sofar) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if each or now_s - shown_s >= LINE_EVERY_S:
            shown_s = now_s
            show(f"{now_s - began_s:4.1f} of {phase.seconds} s: {sofar.done:,} {phase.kind}")

    return note


def _write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


async def _run_client(arguments: list[str], note: Callable[[Sofar], None]) -> None:
    readable, writable = os.pipe()
    try:
        child = await start_child(
            [sys.executable, "-m", "holdfast.bench.client", *arguments],
            env=without_configuration(os.environ),
            output=writable,
        )
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    said: deque[str] = deque(maxlen=OUTPUT_LINES_MAX)
    try:
        await _listen(readable, said, note)  # until it has closed its output, by ending
        code = await child.wait()
    finally:
        await child.stop()
    if code:
        raise DemoFailed("\n".join([f"the client has ended: {describe_exit(code)}", *said]))


async def _listen(output: int, said: deque[str], note: Callable[[Sofar], None]) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
    )
    try:
        while line := await reader.readline():
            try:
                note(_decode_sofar(line))
            except msgspec.DecodeError:
                said.append(line.decode(errors="replace").rstrip())
    finally:
        transport.close()
