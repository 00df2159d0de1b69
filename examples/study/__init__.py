"""The study: the paper's table of variants, measured on recorded speech."""
