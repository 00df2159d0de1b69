"""Values become rows of the tape's tables, and back; rows from anyone are checked."""
