"""Stage two: train a student from a tape, without its teachers."""
