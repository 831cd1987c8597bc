"""The model checker's tests are only there where the model checker is."""

from check_protocol import missing_tools

collect_ignore = ["test_protocol.py"] if missing_tools() else []
