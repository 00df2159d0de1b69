"""Plots of a report: each drawn twice, for a light and for a dark page."""
