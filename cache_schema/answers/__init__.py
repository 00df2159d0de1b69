"""Questions, the forms of traces, and the answers and numbers that stand in them."""
