"""Bodies that show what a request looks like; the contract test sends them."""

from typing import Any, Final

EVENT: Final[dict[str, Any]] = {
    "id": "concert-42",
    "name": "An evening of quartets",
    "starts_at": "2027-05-01T19:00:00Z",
    "currency": "EUR",
    "sections": [
        {"id": "floor", "name": "Floor", "price": 4500, "capacity": 500},
        {"id": "stalls", "name": "Stalls", "price": 9000, "rows": [{"id": "A", "seats": "1-20"}]},
    ],
}
CLAIM: Final[dict[str, Any]] = {
    "items": [{"section": "floor", "quantity": 2}, {"section": "stalls", "seats": ["A-1", "A-2"]}]
}
BLOCK: Final[dict[str, Any]] = {
    "items": [{"section": "stalls", "seats": ["A-1", "A-2"]}, {"section": "floor", "quantity": 20}],
    "release_at": "2027-04-24T19:00:00Z",
    "reason": "House seats",
}
BOOKING: Final[dict[str, Any]] = {
    "hold_id": "01jt2x9k4mzq8v7c5e3h1n6b0r~concert-42",
    "guest": {"name": "Ana Ruiz", "email": "ana@example.org"},
    "attendees": [{"name": "Ana Ruiz", "seat": "A-1"}],
}
SEATING_PLAN: Final[dict[str, Any]] = {
    "plan": {
        "name": "Studio",
        "categories": [{"name": "stalls", "color": "#7f4a91"}],
        "zones": [
            {
                "name": "Stalls",
                "position": {"x": 0, "y": 0},
                "rows": [
                    {
                        "row_number": "A",
                        "position": {"x": 0, "y": 0},
                        "seats": [
                            {
                                "seat_guid": "A-1",
                                "seat_number": "1",
                                "position": {"x": 0, "y": 0},
                                "category": "stalls",
                            }
                        ],
                    }
                ],
            }
        ],
    },
    "prices": {"stalls": 9000},
}
BOOKING_PATCH: Final[dict[str, Any]] = {
    "guest": {"name": "Ana Ruiz", "email": "ana.ruiz@example.org"},
    "notes": "One of us uses a wheelchair.",
    "items": [{"section": "stalls", "seats": ["A-3", "A-4"]}],
    "payment": {"provider": "simulator", "method": "sim_ok"},
    "expected_version": 1,
}
APPROVAL: Final[dict[str, Any]] = {
    "organizer_notes": "I wait at the north exit.",
    "estimated_pickup_time": "2027-05-01T16:30:00Z",
    "estimated_dropoff_time": "2027-05-01T17:45:00Z",
}
COMPLETION: Final[dict[str, Any]] = {
    "actual_pickup_time": "2027-05-01T16:34:00Z",
    "actual_dropoff_time": "2027-05-01T17:52:00Z",
}
