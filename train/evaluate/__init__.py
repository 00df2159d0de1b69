"""Evaluation of a student or any base model: responses generated from audio, judged, reported."""
