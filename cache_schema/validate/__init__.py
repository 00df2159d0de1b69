"""Checking a tape: every problem at once, with its place and kind."""
