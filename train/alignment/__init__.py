"""Where positions of a teacher and of the student meet: in seconds, in bytes of the text, in words."""
