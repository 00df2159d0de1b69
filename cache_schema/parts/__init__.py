"""Tapes of some samples or some signals, and what is pulled from elsewhere."""
