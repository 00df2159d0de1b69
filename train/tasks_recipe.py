"""Tasks and stages of a recipe: which rows are trained on together, and which after one another.

```toml
[tasks.reasoning]              # rows of the tape of --cache; every term
[tasks.emotion]                # rows of another tape: --cache emotion=./other, or cache = "./other"
terms = ["acoustic_hidden"]

[mix]
by = "temperature"             # how many rows of each an epoch has
temperature = 2.0

[stages.hearing]               # first these steps, of these terms, the language model frozen,
steps = 500
terms = ["acoustic_hidden"]
freeze = ["language_model"]

[stages.reasoning]             # then these
epochs = 2
```
Without tasks there is one, of every term; without stages likewise, as long as ``[loop]`` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache_schema.errors import nearest
from train.settings import require

MIXTURES = ("size", "temperature", "weight", "alternate")
READ = ("audio", "description")


@dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """Rows of one tape, and the terms computed on them.

    Attributes:
        cache: the tape, a directory or an fsspec URL; empty for the one of ``--cache``.
        terms: names of terms of ``[terms]``; empty for all.
        weight: its share of an epoch's rows, relative to the other tasks', by ``mix.by =
            "weight"``.
        reads: what the student reads before it answers: the ``audio``, or the ``description``
            that the textual teacher read, in its place.
        teacher_tokenizer: as of ``[data]``, of this tape; empty for what is said there.
    """

    cache: str = ""
    terms: tuple[str, ...] = ()
    weight: float = 1.0
    reads: str = "audio"
    teacher_tokenizer: str = ""

    def __post_init__(self) -> None:
        require(self.weight > 0, f"weight {self.weight}: expected more than 0")
        require(self.reads in READ, f"reads {self.reads!r}: one of {READ}")


@dataclass(frozen=True, kw_only=True)
class MixRecipe:
    """How the rows of tasks are mixed; see ``train.steps.mixing``.

    Attributes:
        by: ``size`` (every row once an epoch), ``temperature`` (shares of ``rows^(1/T)``),
            ``weight`` (shares as the tasks say) or ``alternate`` (steps of one task each, in turn).
        temperature: T; at 1 it is ``size``, the larger the more alike the shares.
    """

    by: str = "size"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.by in MIXTURES, f"by {self.by!r}: one of {MIXTURES}")
        require(self.temperature > 0, f"temperature {self.temperature}: expected more than 0")
        idle = self.temperature != 1 and self.by != "temperature"
        require(not idle, f"temperature {self.temperature} has no effect with by = {self.by!r}")


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """Steps of some terms on some tasks, parts of the student frozen.

    The learning rate warms up and decays in every stage; AdamW's moments go on.

    Attributes:
        steps: how many; 0 goes by ``epochs``.
        epochs: passes over the stage's rows; 0 goes by ``steps``.
        terms: names of terms of ``[terms]``; empty for all.
        tasks: names of ``[tasks]``; empty for all.
        freeze: parts that stay as they are, beside those of ``student.freeze``.
    """

    steps: int = 0
    epochs: int = 0
    terms: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        said = (self.steps > 0) != (self.epochs > 0) and min(self.steps, self.epochs) == 0
        require(said, f"steps {self.steps}, epochs {self.epochs}: one above 0, the other 0")


def check_parts(
    terms: Mapping[str, bool],
    tasks: Mapping[str, TaskRecipe],
    mix: MixRecipe,
    stages: Mapping[str, StageRecipe],
) -> None:
    """Refuse tasks and stages that name what there is not, or that nothing comes of.

    Args:
        terms: names of the terms, and whether each is computed: whether it has a weight above 0.
        tasks: by name.
        mix: how they are mixed.
        stages: by name, in their order.

    Raises:
        ValueError: naming the place.
    """
    for name, task in tasks.items():
        _require_known(f"tasks.{name}.terms", task.terms, list(terms))
        idle = task.weight != 1 and mix.by != "weight"
        require(
            not idle, f"tasks.{name}.weight has no effect with mix.by = {mix.by!r}; say 'weight'"
        )
        some = not task.terms or any(terms[term] for term in task.terms)
        require(some, f"tasks.{name}: none of its terms has a weight above 0; leave the task out")
    require(len(tasks) > 1 or mix.by == "size", f"mix.by = {mix.by!r} needs two tasks or more")
    _check_stages(terms, tasks or {"": TaskRecipe()}, stages)


def _check_stages(
    terms: Mapping[str, bool],
    tasks: Mapping[str, TaskRecipe],
    stages: Mapping[str, StageRecipe],
) -> None:
    """Refuse stages without a term, and terms and tasks without a stage."""
    used_terms: set[str] = set()
    used_tasks: set[str] = set()
    for name, stage in stages.items():
        _require_known(f"stages.{name}.terms", stage.terms, list(terms))
        _require_known(f"stages.{name}.tasks", stage.tasks, list(filter(None, tasks)))
        for task_name in stage.tasks or tasks:
            common = common_terms(stage.terms, tasks[task_name].terms)
            computed = {term for term in (terms if common is None else common) if terms[term]}
            whose = f" on task {task_name!r}; give the stage its tasks" * bool(task_name)
            require(bool(computed), f"stages.{name}: none of its terms is computed{whose}")
            used_terms |= computed
            used_tasks.add(task_name)
    if not stages:
        return
    for term, computed_at_all in terms.items():
        idle = computed_at_all and term not in used_terms
        require(not idle, f"terms.{term}: no stage computes it; add it to one, or leave it out")
    for name in tasks:
        idle = name not in used_tasks
        require(not idle, f"tasks.{name}: no stage trains on it; add it to one, or leave it out")


def common_terms(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names in both, ``None`` for all; an empty sequence stands for all."""
    if not one or not other:
        return tuple(one or other) or None
    return tuple(name for name in one if name in other)


def _require_known(where: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        require(
            name in known,
            f"{where}: {name!r} is not there{nearest(name, known)} "
            f"(there is: {', '.join(known) or 'none'})",
        )
