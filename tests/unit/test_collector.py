"""The garbage collector of our processes: off while they import, and as it was afterwards."""

import gc

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
    with paused_collector():
        brought = [[] for _ in range(10)]
    assert not {id(one) for one in brought} & {id(one) for one in gc.get_objects()}
