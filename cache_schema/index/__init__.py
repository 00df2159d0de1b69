"""The index of a tape: where every sample's rows are, found without reading a table."""
