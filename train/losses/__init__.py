"""Losses as pure functions: values per position, added up where they are used."""
