"""The quickstart: both stages on recorded speech, with models made on the spot."""
