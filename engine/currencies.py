"""The currencies that there are: the alphabetic codes of ISO 4217, its list one (current currencies and funds).

Source: SIX, the standard's maintenance agency, ``list-one.xml`` as published on 2026-01-01, of which the package
``iso4217`` 1.16.20260101 has a copy (no dependency of ours: the list changes about once a year). What was withdrawn
before is not in it (BGN, HRK, ANG); what is no money of a country is (XXX, no currency, and XTS, for tests).
"""

from engine.errors import InvalidRequest

_LIST_ONE = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE
    CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF
    GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR
    LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN
    PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS
    TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC
    XBD XCD XCG XDR XOF XPD XPF XPT XSU XTS XUA XXX YER ZAR ZMW ZWG
"""
CURRENCIES = frozenset(_LIST_ONE.split())


def check_currency(code: str) -> None:
    """Refuse three letters that are no currency.

    Only what organizers say from now on is looked at: an event that was made while its currency existed keeps it.

    Raises:
        InvalidRequest: The standard does not have it.
    """
    if code not in CURRENCIES:
        raise InvalidRequest("$.currency", f"{code} is no currency of ISO 4217 (list of 2026-01-01)")
