"""Where positions of a teacher and of the student meet: in seconds, in characters, in words."""
