"""The terms of an objective: what a recipe says of them, and what they read and count."""
