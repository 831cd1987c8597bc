"""Three letters are a currency when ISO 4217 has them."""

import pytest

from engine.currencies import CURRENCIES, check_currency
from engine.errors import InvalidRequest


@pytest.mark.parametrize("code", ["EUR", "USD", "JPY", "KWD", "NGN", "XCG", "ZWG", "XXX"])
def test_currency_of_the_standard_is_taken(code: str) -> None:
    check_currency(code)


@pytest.mark.parametrize("code", ["XQZ", "AAA", "BGN", "HRK", "eur", ""])
def test_what_the_standard_does_not_have_is_refused(code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_currency(code)
    assert refused.value.path == "$.currency"


def test_the_list_has_as_many_codes_as_its_source() -> None:
    assert len(CURRENCIES) == 178
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in CURRENCIES)
