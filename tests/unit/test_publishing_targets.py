"""Where webhooks may go, and where they may not."""

import asyncio
import socket
from typing import Any

import httpcore2
import pytest
from receiver import receiving

from persistence.publishing.targets import GuardedNetwork, TargetRefused, check_url, why_private
from persistence.publishing.webhooks import WebhookSender

SECRET = "whsec_" + "A" * 43 + "="
PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "[::1]",
    "[fe80::1]",
    "[fd00::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::a00:1]",
    "[2002:7f00:1::]",
    "[::7f00:1]",
    "[fec0::1]",
    "[64:ff9b:1::a00:1]",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_address_that_is_not_public_is_refused_unless_allowed(host: str) -> None:
    with pytest.raises(TargetRefused, match="not a public address"):
        check_url(f"https://{host}/hooks", allow_private=False)

    check_url(f"https://{host}/hooks", allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "https:///hooks",
        "https://user:pass@example.org/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://exämple.org/",
        "https://example.org/#part",
        "https://example.org/" + "x" * 2_000,
    ],
)
def test_url_that_no_webhook_can_have_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        check_url(url, allow_private=False)


def test_public_address_and_name_are_let_through() -> None:
    check_url("https://1.1.1.1/hooks", allow_private=False)
    check_url("https://example.org:8443/hooks?a=b", allow_private=False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://10.1.2.3/hooks", "10.1.2.3 is not a public address"),
        ("https://inside.example/", "10.0.0.7 is not a public address"),
        ("http://inside.example/", "begins with https://"),
    ],
)
async def test_target_that_must_be_allowed_is_told_from_others(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    answer_names_with(monkeypatch, ["10.0.0.7"])
    told = await why_private(url)
    assert told is not None
    assert reason in told
    assert "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE=on" in told


async def test_public_target_needs_no_allowance_nor_does_a_name_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_names_with(monkeypatch, ["1.1.1.1"])
    assert await why_private("https://example.org/") is None

    async def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", unknown)
    assert await why_private("https://nowhere.example/") is None


def answer_names_with(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have names resolve to each of *answers* in turn; what was asked for is in the list returned."""
    asked: list[str] = []
    waiting = list(answers)

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in waiting.pop(0)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


async def test_name_with_one_private_address_among_its_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_names_with(monkeypatch, ["1.1.1.1", "127.0.0.1"])

    with pytest.raises(TargetRefused, match=r"127\.0\.0\.1"):
        await GuardedNetwork(allow_private=False).connect_tcp("shop.example", 443, timeout=1.0)


async def test_connection_goes_to_the_address_that_was_looked_at_and_every_connection_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that answers with a public address first, and then with the loopback (DNS rebinding)."""
    asked = answer_names_with(monkeypatch, ["1.1.1.1"], ["127.0.0.1"])
    connected: list[str] = []

    class Network:
        async def connect_tcp(self, host: str, *_: Any) -> Any:
            connected.append(host)
            raise httpcore2.ConnectError("not now")

    network = GuardedNetwork(allow_private=False)
    monkeypatch.setattr(network, "_inner", Network())
    with pytest.raises(httpcore2.ConnectError):
        await network.connect_tcp("shop.example", 443, timeout=1.0)
    with pytest.raises(TargetRefused):
        await network.connect_tcp("shop.example", 443, timeout=1.0)

    assert asked == ["shop.example", "shop.example"]
    assert connected == ["1.1.1.1"]


async def test_sender_that_may_not_reach_a_private_receiver_sends_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as receiver:
        answer_names_with(monkeypatch, ["127.0.0.1"])
        sender = WebhookSender(f"https://shop.example:{receiver.port}/", [SECRET], allow_private=False)
        attempt = await sender.send("id-1", b"{}")
        await sender.close()

    assert attempt.outcome == "failed"
    assert attempt.reason.startswith("target refused: 127.0.0.1")
    assert (receiver.connections, receiver.received) == (0, [])
