"""Commands about tapes that are there: inspect, verify, merge, diff."""
