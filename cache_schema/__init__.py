"""The tape: what teachers recorded, on disk, readable without any model framework."""
