"""Layer numbers: 0 is the embedding output, N the output of block N (the last pre-norm)."""

from __future__ import annotations

from cache_schema.errors import UsageError, nearest


def parse_layers(spec: str, num_layers: int) -> tuple[int, ...]:
    """Turn ``--text-layers`` / ``--acoustic-layers`` into layer numbers.

    Args:
        spec: ``top``, ``all`` (1 to the top one), ``every:N`` (N, 2N, ... and the top one),
            ``proportional:N`` (N layers spread evenly, the top one included), a list such as
            ``0,4,8``, or ``none``.
        num_layers: number of blocks of the model.

    Returns:
        Ascending layer numbers between 0 and ``num_layers``.

    Raises:
        UsageError: the form is unknown or a number is outside the model.
    """
    word, _, argument = spec.partition(":")
    if word in ("top", "all", "none") and not argument:
        return {"top": (num_layers,), "all": tuple(range(1, num_layers + 1)), "none": ()}[word]
    if word in ("every", "proportional"):
        if not argument.isdecimal() or int(argument) < 1:
            raise UsageError(f"layers {spec!r}: {word} needs a number, as in '{word}:4'")
        n = int(argument)
        if word == "every":
            return tuple(sorted({*range(n, num_layers + 1, n), num_layers}))
        return tuple(sorted({round(num_layers * (i + 1) / n) for i in range(n)} - {0}))
    numbers = [part.strip() for part in spec.split(",")]
    if not all(part.isdecimal() for part in numbers):
        raise UsageError(
            f"layers {spec!r}: expected top, all, none, every:N, proportional:N or a list such as "
            f"0,4,8{nearest(word, ('top', 'all', 'none', 'every', 'proportional'))}"
        )
    layers = tuple(sorted({int(part) for part in numbers}))
    if layers[-1] > num_layers:
        raise UsageError(f"layers {spec!r}: the model has layers 0 to {num_layers}")
    return layers
