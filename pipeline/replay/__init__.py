"""``verify --replay``: samples through their teachers again, compared with what the tape holds."""
