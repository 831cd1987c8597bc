"""Keys of scripts' calls as they are kept: what differs between two calls is never what one of them left behind."""

import pytest

import lua
from engine.keys import LOAD_KEYS, KeyRing, once_key

OF_EVENTS = [
    name for name in lua.names() if lua.load(name).event_keys and not set(lua.load(name).event_keys) & set(LOAD_KEYS)
]
ONE, OTHER, LONGER = b"0" * 32, b"1" * 32, b"2" * 33


@pytest.mark.parametrize("name", OF_EVENTS)
def test_key_of_an_idempotency_key_follows_those_of_the_event_in_every_call(name: str) -> None:
    ring, script = KeyRing(), lua.load(name)

    def whole(event_id: str, once: bytes | None) -> object:
        return KeyRing().for_events(script, [event_id], 3, once)

    for once in (ONE, None, OTHER, ONE, LONGER, None):
        for event_id in ("concert-42", "concert-43"):
            assert ring.for_event(script, event_id, 3, once) == whole(event_id, once)
    assert ring.for_event(script, "concert-42", 3, ONE).wire.endswith(once_key(3, ONE))
