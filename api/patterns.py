"""What texts of a certain form look like: as a pattern for machines, and in words for whoever got it wrong."""

from engine.definition import CLOCK_PATTERN, CURRENCY_PATTERN, EVENT_ID_PATTERN, PRINTABLE_PATTERN

EMAIL_PATTERN = r"^[^@\s]+@[^@\s]+\Z"
NOT_BLANK_PATTERN = r"\S"
SOURCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z"

# A test walks through the types of all routes: a pattern that is not here would be told as a regular expression.
WORDS: dict[str, str] = {
    CLOCK_PATTERN: "a time of day as HH:MM, from 00:00 to 23:59",
    CURRENCY_PATTERN: "a currency as ISO 4217 has it: three capital letters, such as EUR",
    EMAIL_PATTERN: "an e-mail address, such as ana@example.org",
    EVENT_ID_PATTERN: "an id of 1 to 64 lower-case letters, digits, dots, underscores and hyphens that begins with a "
    "letter or digit",
    NOT_BLANK_PATTERN: "text that is not blank",
    PRINTABLE_PATTERN: "text without line breaks and other control characters",
    SOURCE_PATTERN: "1 to 32 letters, digits, dots, underscores and hyphens, beginning with a letter or digit",
}
