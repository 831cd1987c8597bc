"""Whose request it is, when proxies say so and when anybody does."""

from collections.abc import Sequence
from typing import Any

import pytest

from api.clients import HOPS_MAX, Proxies, parse_proxies

ATTACKER, VICTIM, OFFICE = "203.0.113.66", "198.51.100.1", "198.51.100.7"
EDGE, INNER = "10.0.0.1", "10.0.0.2"
PROXIES = Proxies(("10.0.0.0/8", "2001:db8:aaaa::/48"))


def scope(peer: str | None, *forwarded: str) -> Any:
    headers = [(b"host", b"shop.test"), *((b"x-forwarded-for", line.encode("latin-1")) for line in forwarded)]
    return {"client": None if peer is None else (peer, 4711), "headers": headers}


def client(peer: str | None, *forwarded: str, proxies: Proxies = PROXIES) -> str:
    return proxies.client_of(scope(peer, *forwarded))


def test_whoever_connects_directly_is_the_client_whatever_they_forge() -> None:
    for forged in (VICTIM, f"{VICTIM}, {EDGE}", EDGE, "unix", ""):
        assert client(ATTACKER, forged) == ATTACKER


def test_what_a_client_put_in_front_of_the_trusted_proxys_entry_changes_nothing() -> None:
    for forged in (VICTIM, f"{VICTIM}, {VICTIM}", f"{VICTIM}, {EDGE}", EDGE, "garbage", ",,", "\xff", "unix"):
        assert client(EDGE, f"{forged}, {ATTACKER}") == ATTACKER
        assert client(EDGE, forged, ATTACKER) == ATTACKER
        assert client(INNER, forged, f"{ATTACKER}, {EDGE}") == ATTACKER


def test_lines_are_read_in_their_order_as_one() -> None:
    assert client(INNER, OFFICE, EDGE) == OFFICE
    assert client(INNER, EDGE, OFFICE) == OFFICE
    assert client(INNER, VICTIM, f"{OFFICE} , {EDGE}") == OFFICE


@pytest.mark.parametrize("malformed", ["unknown", "_hidden", "", " ", "1.2.3", "1.2.3.4.5", "[2001:db8::1", "a" * 65])
def test_a_malformed_entry_ends_the_walk_at_the_proxy_that_wrote_it(malformed: str) -> None:
    assert client(EDGE, f"{OFFICE}, {malformed}") == EDGE
    assert client(INNER, f"{OFFICE}, {malformed}, {EDGE}") == EDGE


def test_a_trusted_proxy_that_names_nobody_is_the_client_itself() -> None:
    assert client(EDGE) == EDGE
    assert client(INNER, EDGE) == EDGE


def test_more_proxies_than_anybody_has_are_not_walked() -> None:
    assert client(INNER, OFFICE, *[EDGE] * (HOPS_MAX - 1)) == OFFICE
    assert client(INNER, OFFICE, *[EDGE] * HOPS_MAX) == EDGE


@pytest.mark.parametrize(
    ("entry", "counted"),
    [
        ("198.51.100.7:8080", OFFICE),
        ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::6]", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", OFFICE),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_addresses_are_counted_alike_however_they_are_written_and_ipv6_by_its_network(entry: str, counted: str) -> None:
    assert client(EDGE, entry) == counted


def test_peers_of_ipv6_and_of_a_dual_stack_socket_are_known_and_counted_like_all_others() -> None:
    assert client("2001:db8:aaaa:1::1", OFFICE) == OFFICE
    assert client("2001:db8:bbbb:1::1", OFFICE) == client("2001:db8:bbbb:1:9::9") == "2001:db8:bbbb:1::/64"
    assert client("::ffff:10.0.0.1", OFFICE) == OFFICE
    assert client("::ffff:203.0.113.66", OFFICE) == ATTACKER


def test_peers_of_a_unix_socket_are_believed_where_that_is_said_and_one_client_otherwise() -> None:
    assert client(None, OFFICE) == "unix"
    assert PROXIES.client_of({"client": ("", 0), "headers": []}) == "unix"
    assert client(None, OFFICE, proxies=Proxies(("unix",))) == OFFICE
    assert client(None, proxies=Proxies(("unix",))) == "unix"
    assert client("127.0.0.1", OFFICE, proxies=Proxies(("unix",))) == "127.0.0.1"


def test_without_trusted_proxies_nobody_is_believed_not_even_this_machine() -> None:
    for peer in ("127.0.0.1", "::1", EDGE):
        assert client(peer, OFFICE, proxies=Proxies()) == client(peer)


@pytest.mark.parametrize(
    ("peer", "believed"),
    [((EDGE, 1), True), (("127.0.0.1", 1), True), (("::1", 1), True), (None, True), ((ATTACKER, 1), False)],
)
def test_the_scheme_is_believed_of_trusted_proxies_and_of_this_machine(
    peer: Sequence[object] | None, believed: bool
) -> None:
    assert PROXIES.scheme_of(b"https", peer, "http") == ("https" if believed else "http")
    assert PROXIES.scheme_of(b"http", peer, "https") == ("http" if believed else "https")
    assert PROXIES.scheme_of(b"gopher", peer, "http") == "http"


def test_proxies_are_parsed_into_one_form() -> None:
    assert parse_proxies(" 10.0.0.0/8,unix , 192.0.2.1,2001:DB8::/32, 10.0.0.0/8") == (
        "10.0.0.0/8",
        "unix",
        "192.0.2.1/32",
        "2001:db8::/32",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1/8", "networks such as .* host bits"),
        ("proxy.internal", "networks such as"),
        ("10.0.0.0/33", "networks such as"),
        ("*", "networks such as"),
        ("0.0.0.0/0", "anybody could name any client"),
        ("10.0.0.0/8, ::/0", "anybody could name any client"),
        ("::ffff:10.0.0.0/104", "networks of IPv4 as such"),
    ],
)
def test_what_is_no_network_of_proxies_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_proxies(text)
