"""Many workers on one tape: leased portions of its rows, and actors on a Ray cluster."""
