"""The garbage collector of our processes: off while they import, and as it was afterwards."""

import gc
import subprocess
import sys
import textwrap

import pytest

from holdfast.collector import paused_collector


@pytest.mark.parametrize("was_enabled", [True, False])
def test_collector_rests_while_a_program_is_imported_and_is_then_as_it_was(was_enabled: bool) -> None:
    try:
        if not was_enabled:
            gc.disable()
        with paused_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is was_enabled
    finally:
        gc.enable()


def test_collector_is_as_it_was_when_an_import_fails() -> None:
    with pytest.raises(ModuleNotFoundError), paused_collector():
        raise ModuleNotFoundError("a module")
    assert gc.isenabled()


def test_what_a_program_brings_is_left_out_of_later_rounds() -> None:
    """In a process of its own: what is left out stays so, and other tests have garbage to be told of."""
    program = """
        import gc
        from holdfast.collector import paused_collector
        with paused_collector():
            brought = [[] for _ in range(10)]
        print(len({id(one) for one in brought} & {id(one) for one in gc.get_objects()}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
