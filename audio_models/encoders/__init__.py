"""Acoustic encoders and audio classifiers, read as frames (``audio_models.frames``)."""
