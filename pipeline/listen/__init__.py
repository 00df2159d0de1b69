"""Models that listen: recordings in, text out, a column of the description each."""
