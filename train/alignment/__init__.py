"""Where positions of teacher and student meet: in seconds, in bytes of the text, in words."""
