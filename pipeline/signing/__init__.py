"""Seals of whole tapes: made, signed with a key, and checked."""
