"""How much of Redis the bookings that wait for Postgres may take; on its own, for every command reads settings."""

JOURNAL_BYTES_MAX = 64 << 20  # of a partition's journal: about 200 000 bookings, written in less than a minute
