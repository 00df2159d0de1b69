"""The variants of the table: shipped recipes over one tape, the same rows and steps for all."""

from __future__ import annotations

from dataclasses import dataclass

from examples.study.sizes import Size


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes:
        name: of its folder.
        title: in the table.
        recipe: that ships with ``train student``.
        settings: what differs from the recipe, ``key=value``.
        signals: of the tape, beside the traces, that it reads; ``GROUP/SIGNAL``.
    """

    name: str
    title: str
    recipe: str
    settings: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()


BASE = "base"
TOPK, TEXT, LENS, AUDIO = "textual/topk", "textual/hidden", "textual/lens", "acoustic/hidden"


def variants(size: Size) -> tuple[Variant, ...]:
    """Return the variants in the order of the table."""
    # the paper's widths differ, so a projector is learned; here they are equal by chance
    projector = "terms.text_hidden.projector=linear"
    every = f"terms.text_hidden.layers=every:{size.layer_step}"
    stronger = f"terms.acoustic_hidden.weight={size.acoustic_weight:g}"
    without_text = ("terms.text_jsd.weight=0", "terms.text_hidden.weight=0")
    return (
        Variant(name="sft", title="SFT", recipe="sft"),
        Variant(name="top", title="text KD, top layer", recipe="top", signals=(TOPK,)),
        Variant(
            name="skip",
            title=f"text KD, 1 layer in {size.layer_step}",
            recipe="skip",
            settings=(every, projector),
            signals=(TOPK, TEXT),
        ),
        Variant(
            name="all",
            title="text KD, all layers",
            recipe="all",
            settings=(projector,),
            signals=(TOPK, TEXT),
        ),
        Variant(
            name="lens", title="text KD, all layers, lens", recipe="lens", signals=(TOPK, LENS)
        ),
        Variant(
            name="joint",
            title="text KD, all layers + acoustic",
            recipe="joint",
            settings=(projector,),
            signals=(TOPK, TEXT, AUDIO),
        ),
        Variant(
            name="joint_stronger",
            title=f"... acoustic weight {size.acoustic_weight:g}",
            recipe="joint",
            settings=(projector, stronger),
            signals=(TOPK, TEXT, AUDIO),
        ),
        Variant(
            name="sft_acoustic",
            title="SFT + acoustic, no text KD",
            recipe="joint",
            settings=(*without_text, stronger),
            signals=(AUDIO,),
        ),
        Variant(
            name="acoustic_only",
            title="acoustic only",
            recipe="acoustic_only",
            signals=(AUDIO,),
        ),
    )
