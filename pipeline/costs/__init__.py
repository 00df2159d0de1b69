"""What ``pipeline estimate`` is made of: measuring a few rows, weighing them, extrapolating."""
