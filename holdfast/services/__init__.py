"""Services of others that bookings depend on, reached over HTTP: prices, inventory."""
