"""One socket to Valkey and commands packed beforehand, so that next to nothing but the server is measured."""

import socket
from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec

from engine.transport.wire import pack_command

BURST = 64  # commands written at once: their replies fit into the socket's buffer, so that nobody waits for nobody
_NO_MORE = object()
_INFO_CPU = pack_command("INFO", "cpu")


class Burst(msgspec.Struct, frozen=True):
    """Replies to commands, and the CPU seconds that the server's main thread spent between the first and the last."""

    replies: Sequence[Any]
    cpu_s: float


class Pipe:
    """A connection that does one thing at a time."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, *parts: bytes | str | int) -> Any:
        """One command and its reply."""
        return self.send([pack_command(*parts)])[0]

    def send(self, wires: Sequence[bytes], *, depth: int = BURST) -> list[Any]:
        """Replies to any number of commands, *depth* of them under way at a time.

        Raises:
            hiredis.HiredisError: One of them was answered with an error.
        """
        replies: list[Any] = []
        for start in range(0, len(wires), depth):
            replies += self._exchange(wires[start : start + depth])
        return replies

    def burst(self, wires: Sequence[bytes]) -> Burst:
        """The same for one burst, between two looks at the server's CPU clock that travel with it."""
        first, *replies, last = self._exchange([_INFO_CPU, *wires, _INFO_CPU])
        return Burst(replies, main_thread_cpu_s(last) - main_thread_cpu_s(first))

    def cpu_s(self) -> float:
        """CPU seconds of the server's main thread so far."""
        return main_thread_cpu_s(self.ask("INFO", "cpu"))

    def _exchange(self, wires: Sequence[bytes]) -> list[Any]:
        self._socket.sendall(b"".join(wires))
        replies: list[Any] = []
        while len(replies) < len(wires):
            while (reply := self._reader.gets()) is _NO_MORE:
                received = self._socket.recv(1 << 16)
                if not received:
                    raise ConnectionError("the server hung up")
                self._reader.feed(received)
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies


def main_thread_cpu_s(info: bytes) -> float:
    """CPU seconds out of the reply to ``INFO cpu``."""
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return float(fields["used_cpu_user_main_thread"]) + float(fields["used_cpu_sys_main_thread"])
