"""Uniting tapes: planned whole, then written."""
