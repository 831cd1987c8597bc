"""The headers of all answers are joined once for each list of them, and for no other."""

from holdfast.http_lines import common_lines


def test_each_list_has_its_lines() -> None:
    first, second = ([(b"date", b"%d" % second), (b"server", b"s")] for second in (1, 2))
    for headers in (first, second, first, first, []):
        assert common_lines(headers) == b"".join(b"%b: %b\r\n" % header for header in headers)


def test_same_list_is_joined_once() -> None:
    headers = [(b"date", b"1")]
    assert common_lines(headers) is common_lines(headers)
