"""The acoustic step: which teacher hears, in which batches, and what is recorded of it."""
