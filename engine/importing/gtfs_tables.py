"""The tables of a GTFS feed, a directory or a ``.zip`` of CSV files, read row by row with their line numbers."""

import csv
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class TimetableError(Exception):
    """A GTFS feed is not as it must be; ``line`` counts from 1, the header, and is ``None`` for the file as a whole."""

    def __init__(self, file: str, line: int | None, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


class TableRow(msgspec.Struct, frozen=True):
    """One row of one table; a column that the feed leaves out reads as empty."""

    file: str
    line: int
    fields: Mapping[str, str]

    def get(self, column: str) -> str:
        """The column's text, empty where the feed has none."""
        return self.fields.get(column, "")

    def need(self, column: str) -> str:
        """The column's text; it must not be empty."""
        if not (text := self.get(column)):
            raise self.error(f"{column} is empty")
        return text

    def error(self, reason: str) -> TimetableError:
        """What is wrong with this row, to be raised."""
        return TimetableError(self.file, self.line, reason)


class Feed:
    """An open feed; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the feed at *path*.

        Raises:
            TimetableError: There is neither a directory nor a zip file.
        """
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise TimetableError(path.name, None, "there is no such directory or file") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise TimetableError(path.name, None, f"neither a directory nor a zip file: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zip is not None:
            self._zip.close()

    def has(self, file: str) -> bool:
        """Whether the feed contains *file*."""
        if self._zip is not None:
            return file in self._zip.namelist()
        return (self._path / file).is_file()

    def rows(self, file: str, *, columns: Sequence[str]) -> Iterator[TableRow]:
        """The rows of *file*, which must have *columns*; others are there if the feed has them.

        Raises:
            TimetableError: The file or a column is missing, or the text is no UTF-8 or no CSV.
        """
        if not self.has(file):
            raise TimetableError(file, None, "is missing from the feed")
        try:
            with self._open(file) as lines:
                yield from _parse(_decode(lines, file), file, columns)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise TimetableError(file, None, f"cannot be read: {error}") from error

    def _open(self, file: str) -> IO[bytes]:
        if self._zip is None:
            return (self._path / file).open("rb")
        try:
            return self._zip.open(file)
        except RuntimeError as error:  # zipfile's way to speak of encryption and of unknown compression
            raise TimetableError(file, None, f"cannot be read: {error}") from error


def _decode(lines: Iterable[bytes], file: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TimetableError(file, number, f"is not UTF-8: {error.reason} at byte {error.start + 1}") from error
        if _CONTROL.search(text):
            raise TimetableError(file, number, "contains a control character")
        yield text


def _parse(lines: Iterator[str], file: str, columns: Sequence[str]) -> Iterator[TableRow]:
    reader = csv.reader(lines, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, file, columns)
        line = reader.line_num + 1
        for fields in reader:
            if any(fields):  # blank lines, often the last one, say nothing
                yield TableRow(file, line, _named(header, fields, file, line))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TimetableError(file, max(reader.line_num, line), f"is not CSV: {error}") from error


def _check_header(header: Sequence[str], file: str, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in header]:
        raise TimetableError(file, 1, f"has no column {missing[0]}")
    if len(set(header)) < len(header):
        raise TimetableError(file, 1, "has a column twice")


def _named(header: Sequence[str], fields: Sequence[str], file: str, line: int) -> dict[str, str]:
    if len(fields) != len(header):
        raise TimetableError(file, line, f"has {len(fields)} fields where the header has {len(header)}")
    return {column: " ".join(field.split()) for column, field in zip(header, fields, strict=True)}
