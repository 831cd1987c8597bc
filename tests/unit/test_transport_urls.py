"""Redis URLs: what each form means, and what is said of wrong ones."""

import pytest

from engine.transport.servers import NodeAddress
from engine.transport.urls import ClusterTarget, SentinelTarget, ServerTarget, parse_url


def node(host: str, port: int) -> NodeAddress:
    return NodeAddress(host=host, port=port)


@pytest.mark.parametrize(
    ("url", "address", "tls", "options"),
    [
        ("redis://h", node("h", 6379), False, {}),
        ("redis://h:7000/3", node("h", 7000), False, {"db": 3}),
        ("redis://h/3?db=4", node("h", 6379), False, {"db": 4}),
        ("redis://:p%40ss@h", node("h", 6379), False, {"password": "p@ss"}),
        ("redis://ana:a:b@h", node("h", 6379), False, {"username": "ana", "password": "a:b"}),
        ("redis://ana@h", node("h", 6379), False, {"username": "ana"}),
        ("redis://h?username=ana&password=a%20b", node("h", 6379), False, {"username": "ana", "password": "a b"}),
        ("redis://[::1]:7000/", node("::1", 7000), False, {}),
        ("rediss://h?ssl_ca_certs=/ca.pem&ssl_check_hostname=no", node("h", 6379), True,
         {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False}),
        ("unix:///run/a%20b.sock?db=2", node("/run/a b.sock", 0), False, {"db": 2}),
        ("unix://ana:secret@/run/s", node("/run/s", 0), False, {"username": "ana", "password": "secret"}),
    ],
)  # fmt: skip
def test_url_of_one_server_is_read(url: str, address: NodeAddress, tls: bool, options: dict[str, object]) -> None:
    assert parse_url(url) == ServerTarget(node=address, tls=tls, options=options)


def test_url_of_sentinels_is_read() -> None:
    url = "redis+sentinel://ana:secret@s1:1,s2,[::1]:3/tickets/2?sentinel_password=other"
    assert parse_url(url) == SentinelTarget(
        sentinels=(node("s1", 1), node("s2", 26379), node("::1", 3)),
        service="tickets",
        tls=False,
        options={"username": "ana", "password": "secret", "db": 2},
        sentinel_options={"password": "other"},
    )


def test_tls_options_hold_for_sentinels_too() -> None:
    target = parse_url("rediss+sentinel://s1/tickets?ssl_ca_certs=/ca.pem")
    assert isinstance(target, SentinelTarget)
    assert target.tls
    assert target.options == target.sentinel_options == {"ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_url_of_a_cluster_is_read(scheme: str) -> None:
    assert parse_url(f"{scheme}://:secret@h1:7000,h2:7001/0") == ClusterTarget(
        seeds=(node("h1", 7000), node("h2", 7001)),
        tls=scheme.startswith("rediss"),
        options={"password": "secret", "db": 0},
    )


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("localhost:6379", "must look like"),
        ("redis:/h", "must look like"),
        ("http://h", "scheme must be one of"),
        ("redis://", "host is missing"),
        ("redis://:secret@:6379", "no host"),
        ("redis://a,b", "takes one host"),
        ("redis://h:port", "port in 'h:port'"),
        ("redis://h:0", "port in 'h:0'"),
        ("redis://h:65536", "port in 'h:65536'"),
        ("redis://::1", "no host"),
        ("redis://h/first", "database"),
        ("redis://h/-1", "database"),
        ("redis://h?db=-1", "database"),
        ("redis://h?db=one", "'db'"),
        ("redis://h?retry_on_timeout=yes", "'retry_on_timeout'"),
        ("redis://h?max_connections=5", "'max_connections'"),
        ("redis://h?sentinel_password=x", "'sentinel_password'"),
        ("redis://h?ssl_ca_certs=/ca.pem", "need a scheme with TLS"),
        ("rediss://h?ssl_min_version=new", "'ssl_min_version'"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("redis+sentinel://s1", "name of the service"),
        ("redis+sentinel://s1/tickets/first", "database"),
        ("redis+cluster://h1,,h2", "host is missing"),
        ("redis+cluster://h1/1", "only the database 0"),
    ],
)
def test_wrong_url_is_refused_by_the_name_of_its_part(url: str, part: str) -> None:
    with pytest.raises(ValueError, match="Redis URL: ") as refusal:
        parse_url(url)
    assert part in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["redis://ana:hunter2@h:port", "http://ana:hunter2@h", "ana:hunter2@h", "redis://ana:hunter2@h?x=1"]
)
def test_refusal_of_a_url_does_not_repeat_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="Redis URL: ") as refusal:
        parse_url(url)
    assert "hunter2" not in str(refusal.value)
