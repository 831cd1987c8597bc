"""What doctor asks the server about is what scripts and engine really use."""

import re

import lua
from engine.store_survey import SAMPLE_CALLS

_CALL = re.compile(rb"redis\.call\('([A-Z_]+)'")


def test_every_command_of_the_scripts_is_asked_about() -> None:
    used = {name.decode() for script in lua.names() for name in _CALL.findall(lua.load(script).source)}
    assert used
    assert used <= {call[0] for call in SAMPLE_CALLS}
