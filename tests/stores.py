"""The kinds of Redis that tests run on: one server, or a cluster of three primaries and three replicas."""

from typing import Any

import pytest
import redis

SINGLE, CLUSTER = "single", "cluster"
CLUSTER_SCHEME = "redis+cluster://"

# For modules whose tests are to run on either: a mark on the fixture `redis_url`, which all of them must use.
on_both_stores = pytest.mark.parametrize("redis_url", [SINGLE, CLUSTER], indirect=True, scope="session")


def open_client(url: str) -> Any:
    """A client of the test's own, behind everybody's back, that finds its way to every key."""
    if not url.startswith(CLUSTER_SCHEME):
        return redis.Redis.from_url(url)
    host, port = url.removeprefix(CLUSTER_SCHEME).split(",")[0].split(":")
    return redis.RedisCluster(host=host, port=int(port))
