"""Tapes between teams: pushed and pulled, whole or in part, sliced, and given their audio again."""
