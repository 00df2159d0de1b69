"""What differs between two tapes, and between their makers."""
