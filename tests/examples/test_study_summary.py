import json

import pytest

from examples.quickstart.steps import FolderError
from examples.study import plots
from examples.study.marks import Marks
from examples.study.sizes import SIZES
from examples.study.summary import difference_of, over_seeds, share_of, wilson, write_summary
from examples.study.variants import BASE, variants

NAMES = [BASE, *(one.name for one in variants(SIZES["tiny"]))]
SIGNALS = ("trace", "topk", "hidden", "lens")


def record(seed, right_of):
    """A seed with eight rows; ``right_of`` says which of them a variant has right."""
    ids = [f"row-{place}" for place in range(8)]
    group, kind = "reasoning, seen", "speaker, seen"

    def found(name):
        rows = {row: int(row in right_of(name)) for row in ids}
        pair = [sum(rows.values()), len(rows)]
        groups = {group: pair, "hearing, seen": pair}
        curve = {"0" if name == BASE else "1000": groups}
        more = {"step_s": 0.5, "steps": 3, "tokens": 1000, "command": f"train {name}"}
        return {"rows": rows, "groups": groups, "kinds": {kind: pair}, "curve": curve, **more}

    sizes = {f"textual/{signal}": 100 for signal in SIGNALS} | {"acoustic/hidden": 1000}
    tape = {
        "signal_bytes": sizes,
        "fingerprint": "f" * 8,
        **dict.fromkeys(("bytes", "samples", "traces", "traces_right"), 8),
    }
    return {
        "identity": {"seed": seed},
        "sources": "s",
        "threads": "1",
        "seconds": 9,
        "groups": {group: ids, "hearing, seen": ids},
        "found": {
            "before": found(BASE),
            "teacher": {"right": 7, "asked": 8},
            "tape": tape,
            **{name: found(name) for name in NAMES if name != BASE},
        },
    }


def rows_right(count):
    return {f"row-{place}" for place in range(count)}


@pytest.fixture
def records():
    return [
        record(seed, lambda name, seed=seed: rows_right({"sft": 4, "joint": 6}.get(name, 2) + seed))
        for seed in range(2)
    ]


def test_intervals_of_shares():
    # Wilson 1927, as tabulated: 5 of 10
    figure = wilson(5, 10)
    assert (figure.low, figure.high) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert wilson(10, 10).low < 0.75
    # t with two degrees of freedom is 4.303; the standard deviation of 1, 2, 3 is 1
    figure = over_seeds([1.0, 2.0, 3.0])
    assert figure.value == 2.0
    assert figure.high - 2.0 == pytest.approx(4.303 / 3**0.5)


def test_shares_and_paired_differences(records):
    assert share_of(records[:1], "joint", "reasoning, seen").value == 6 / 8
    assert share_of(records, "joint", "reasoning, seen").value == 6.5 / 8
    assert share_of(records, "joint", "hearing, unseen") is None
    one = difference_of(records[:1], "joint", "sft", "reasoning, seen")
    assert one.value == pytest.approx(2 / 8)
    assert one.low < 2 / 8 < one.high
    # both seeds differ by the same, so the interval has no width
    two = difference_of(records, "joint", "sft", "reasoning, seen")
    assert (two.low, two.value, two.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_table_and_the_plots(records, tmp_path):
    summary, text = write_summary(tmp_path, records, SIZES["tiny"])
    lines = text.splitlines()
    assert lines[0] == ("| variant | reasoning | hearing | speaker | tape, bytes | s a step |")
    (joint,) = [line for line in lines if line.startswith("| text KD, all layers + acoustic | 8")]
    assert "| 1,300 | 0.50 |" in joint
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["measured_with"][1]["identity"] == {"seed": 1}
    plots.plane(summary, tmp_path / "plane.png")
    plots.curves(records, summary, tmp_path / "curves.png")
    for name in ("plane.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_steps_are_done_once_and_another_run_is_refused(tmp_path, capsys):
    def start(seed=0, fresh=False):
        return Marks(tmp_path, {"seed": seed, "shares": (0.5,)}, {"a": 1, "b": 3}, fresh)

    assert start().run("a", "first", lambda: {"x": 1}) == {"x": 1}
    assert start().run("a", "first", lambda: {"x": 2}) == {"x": 1}
    assert "done before" in capsys.readouterr().out
    with pytest.raises(FolderError, match="seed is 0 there and 1 now"):
        start(seed=1)
    assert start(seed=1, fresh=True).run("a", "first", lambda: {"x": 2}) == {"x": 2}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderError, match="no study made it"):
        Marks(tmp_path, {}, {}, True)
    assert (tmp_path / "thesis.tex").exists()
