"""``python -m train``, the form ``accelerate launch -m train`` needs."""

from train.cli import app

app(prog_name="train")
