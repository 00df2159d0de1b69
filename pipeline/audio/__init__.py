"""Recordings: any container, any rate -> float32 mono at 16 kHz; never a part for the whole."""
