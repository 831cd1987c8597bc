"""Every line of the log is a JSON document, whatever is in it."""

import datetime as dt
import json
import subprocess
import sys

PROGRAM = """
import logging
import structlog
from holdfast.logs import configure_logs

configure_logs("info")
logger = structlog.get_logger("holdfast.test")
logger.debug("left out")
logger.info("plain", count=3, names=["ü"])
logger.warning("odd", kind=dict, members={7}, number=10**40, text="half of a pair: \\ud83d")
try:
    1 / 0
except ZeroDivisionError as error:
    logger.error("failed", exc_info=error)
logging.getLogger("uvicorn.error").warning("of %s", "uvicorn")
logging.getLogger("uvicorn.error").info("left out")
"""


def test_every_line_is_json_whatever_is_in_it() -> None:
    began = dt.datetime.now(dt.UTC)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=30, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for line in lines:
        at = line.pop("timestamp")
        assert at.endswith("Z")
        assert began <= dt.datetime.fromisoformat(at) <= dt.datetime.now(dt.UTC)
    plain, odd, failed, of_uvicorn = lines
    assert plain == {"event": "plain", "level": "info", "count": 3, "names": ["ü"]}
    assert odd == {
        "event": "odd",
        "level": "warning",
        "kind": "<class 'dict'>",
        "members": [7],
        "number": 10**40,
        "text": "half of a pair: \ud83d",
    }
    assert failed.pop("exception").endswith("ZeroDivisionError: division by zero")
    assert failed == {"event": "failed", "level": "error"}
    assert of_uvicorn == {"event": "of uvicorn", "level": "warning"}
    assert done.stdout == b""
