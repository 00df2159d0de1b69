"""Traces of a textual teacher: asked for, judged, chosen, recorded with their signals."""
