"""Stand-ins for services that belong to the operator, not to Holdfast: real HTTP servers on loopback, in threads."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any]], dict[str, Any]]


class StandIn:
    """A service that answers POSTs with what *reply* makes of their JSON; it can be slow, and out of order."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.is_broken = False
        self.delay_s = 0.0
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """Answer 503 until the end of the block."""
        self.is_broken = True
        try:
            yield
        finally:
            self.is_broken = False

    @contextlib.contextmanager
    def running(self) -> Iterator["StandIn"]:
        """Serve until the end of the block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, name="stand-in", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.received.append(body)
                service.headers.append({name.lower(): value for name, value in self.headers.items()})
                time.sleep(service.delay_s)
                status, answer = (503, {}) if service.is_broken else (200, service.reply(body))
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        return Handler
