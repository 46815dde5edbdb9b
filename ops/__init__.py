"""One machine's service: start and stop every part, migrate, look after it. Starts the other rooms as processes."""
