from __future__ import annotations

import pytest

from cache_schema.errors import MissingSignalError, UsageError
from train.layers import map_layers

WHERE = "terms.text_hidden.layers"


def test_the_papers_map_pairs_layer_s_with_round_of_its_share() -> None:
    # Qwen2.5-Omni-7B has 28 layers, Qwen3-8B 36
    pairs = dict(map_layers("proportional", 28, 36, range(37), WHERE))
    assert pairs == {s: round(s * 36 / 28) for s in range(1, 29)}


def test_proportional_keeps_the_pairs_the_tape_holds() -> None:
    assert map_layers("proportional", 2, 4, [2, 4], WHERE) == ((1, 2), (2, 4))
    assert map_layers("proportional", 2, 4, [4], WHERE) == ((2, 4),)
    with pytest.raises(MissingSignalError, match="the tape holds 1, 3"):
        map_layers("proportional", 2, 4, [1, 3], WHERE)


def test_other_maps_need_every_pair() -> None:
    assert map_layers("top", 2, 4, [2, 4], WHERE) == ((2, 4),)
    assert map_layers("every:7", 28, 36, range(37), WHERE) == (
        (7, 9), (14, 18), (21, 27), (28, 36),
    )  # fmt: skip
    assert map_layers("every:2", 3, 3, [2, 3], WHERE) == ((2, 2), (3, 3))
    assert map_layers("2:4, 1:2", 2, 4, [2, 4], WHERE) == ((1, 2), (2, 4))
    with pytest.raises(MissingSignalError, match=r"1:3.*the tape holds 2, 4.*record layer 3"):
        map_layers("1:3,2:4", 2, 4, [2, 4], WHERE)


@pytest.mark.parametrize("spec", ["tpo", "every:", "every:0", "1-2", "9:4", "1:9", ""])
def test_malformed_maps_are_named(spec: str) -> None:
    with pytest.raises(UsageError, match=r"terms\.text_hidden\.layers"):
        map_layers(spec, 2, 4, [2, 4], WHERE)
