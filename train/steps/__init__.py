"""Which rows every step has, and loading them ahead of it."""
