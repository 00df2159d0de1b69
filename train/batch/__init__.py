"""A micro-batch: model inputs and everything the losses compare with."""
