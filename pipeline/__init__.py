"""Stage one: records the teachers onto a tape; the command `pipeline`."""
