"""Stand-ins for the services that two of the examples ask: fares, prices, and stock. ``python3 examples/services.py``.

They are what an operator's own services look like to Holdfast: a POST with the wanted places comes in, and a price, or
a word on whether they can be had, goes out. The ports are those of the examples' ``holdfast.env``.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TAX_PERCENT = 10


def price(wanted: dict) -> dict:
    """The sections' prices and a tax; a tenth off from the second place on."""
    base, places = wanted["amount"], sum(item["quantity"] for item in wanted["items"])
    discount, tax = base // 10 if places > 1 else 0, base * TAX_PERCENT // 100
    return {"base": base, "tax": tax, "discount": discount, "total": base + tax - discount}


def stock(_: dict) -> dict:
    """Everything can be had."""
    return {"available": True}


SERVICES = {8790: price, 8791: price, 8792: stock}  # fares of routes, prices and stock of venues


class Handler(BaseHTTPRequestHandler):
    """Answers a POST of JSON by the port that it came to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One question."""
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        content = json.dumps(SERVICES[self.server.server_port](wanted)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    servers = [ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in SERVICES]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("pricing at 8790 and 8791, stock at 8792; Ctrl-C ends them", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
