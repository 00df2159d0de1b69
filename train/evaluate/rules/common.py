"""What every rule needs: what a response says, and verdicts of the three kinds."""

from __future__ import annotations

from train.evaluate.types import Item, Response, Verdict


def said(response: Response) -> str:
    """Return what a published script is given: the answer, or all of the text where none was found.

    The published protocols feed a model's whole output; a trace is no part of an answer and would
    name the wrong choices too, so it is left out wherever the answer could be told from it.
    """
    return response.answer if response.answer.strip() else response.text


def answered(response: Response) -> str:
    """Return the answer as the strict rules read it: stripped, empty if there is none."""
    return "" if response.finish == "error" else response.answer.strip()


def judged(item: Item, right: bool, expected: str, predicted: str) -> Verdict:
    """Return the verdict of a rule that says right or wrong."""
    return Verdict(
        sample_id=item.sample_id,
        value=float(right),
        expected=expected,
        predicted=predicted,
        groups=item.groups,
    )


def not_counted(item: Item, expected: str = "") -> Verdict:
    """Return the verdict on what a rule leaves out of its figures."""
    return Verdict(
        sample_id=item.sample_id, value=0.0, expected=expected, counted=False, groups=item.groups
    )
