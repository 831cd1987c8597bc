"""Bookings that go, or change, while an audit reads them: what they were when it took its picture.

Scripts write each of them down, numbered by ``undone``. Whatever was read before that was as in the picture, and what
is read after it is in the list by then, if the list is asked after the reading::

    picture … read this batch … ask the list … read that batch … ask the list … no more to read: ask the list

So each booking of the picture can be counted as it was in it, once: as it was read, as the list has it, or, where it
was gone before anybody had read it, from the list alone. Memory is eight bytes for a booking that was read.
"""

from array import array
from collections.abc import Iterator

from engine.events import SellableEvent
from engine.journal import entry_order
from engine.kernel import Kernel
from engine.places import Places, parse_places
from persistence.audit_picture import Picture


class RemovedBookings:
    """Follows the list of one event from the moment of *picture* on."""

    def __init__(self, kernel: Kernel, event: SellableEvent, picture: Picture) -> None:
        self._kernel = kernel
        self._event = event
        self._begun_at = picture.undone
        self._come_to = picture.undone  # the last number read, as long as none was missing
        self._is_complete = True
        self._position = picture.removed_id
        self._journal_mark = entry_order(picture.journal_id)
        self._gone: dict[str, Places] = {}
        self._read = array("q")  # hashes of keys

    async def catch_up(self) -> None:
        """Ask for what has gone since the last time.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        entries = await self._kernel.event_command(self._event, "XRANGE", "removed", f"({self._position}", "+")
        for entry_id, (key, line) in entries:
            self._position = entry_id.decode()
            number, journal_id, places = line.decode().split("|", 2)
            self._is_complete = self._is_complete and int(number) == self._come_to + 1
            self._come_to = int(number)
            if not journal_id or entry_order(journal_id) <= self._journal_mark:
                self._gone.setdefault(key.decode(), parse_places(places))

    def in_picture(self, key: str) -> Places | None:
        """What a booking had when the picture was taken, if it is known to have gone or changed since."""
        return self._gone.get(key)

    def note_read(self, key: str) -> None:
        """A booking of the picture was read, and is counted."""
        self._read.append(hash(key))

    def unread(self) -> Iterator[tuple[str, Places]]:
        """Those of the picture that were gone before they could be read; after the last :meth:`catch_up`."""
        gone = {hash(key): key for key in self._gone}
        for number in set(gone).difference(self._read) if gone else ():
            yield gone[number], self._gone[gone[number]]

    def reaches(self, undone: int) -> bool:
        """Whether everything that has gone since the picture, up to the number *undone*, is known."""
        return self._is_complete and self._begun_at <= undone <= self._come_to
