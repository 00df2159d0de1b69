"""Columns as the text that a textual teacher reads."""
