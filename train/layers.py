"""Layer maps: which student layer learns from which teacher layer, chosen at training time.

Layer numbers as on the tape: 0 = embeddings, N = after block N.
"""

from __future__ import annotations

from collections.abc import Sequence

from cache_schema.errors import MissingSignalError, UsageError, nearest

Pairs = tuple[tuple[int, int], ...]

_FORMS = ("top", "proportional", "every")


def map_layers(
    spec: str, student_layers: int, teacher_layers: int, recorded: Sequence[int], where: str
) -> Pairs:
    """Return (student layer, teacher layer) pairs, ascending.

    ``proportional`` is arXiv 2509.18579's map: student layer s learns from teacher layer
    ``round(s * L_T / L_S)``, here for every s whose teacher layer the tape holds. ``every:N`` takes
    the same map for s = N, 2N, ... and the top layer. ``top`` pairs the last two. Other than with
    ``proportional``, every pair must be on the tape.

    Args:
        spec: ``top``, ``proportional``, ``every:N`` or pairs ``student:teacher,...``.
        student_layers: L_S, the student's blocks.
        teacher_layers: L_T, the teacher's blocks.
        recorded: teacher layers on the tape.
        where: the recipe line that asks, for messages.

    Raises:
        UsageError: the form is unknown or a student layer does not exist.
        MissingSignalError: the tape lacks a teacher layer, with what it has.
    """
    wanted = _parse(spec, student_layers, teacher_layers, where)
    missing = sorted({teacher for _, teacher in wanted} - set(recorded))
    kept = tuple(pair for pair in wanted if pair[1] in recorded)
    if missing and (spec != "proportional" or not kept):
        has = ", ".join(map(str, recorded)) or "none"
        raise MissingSignalError(
            f"{where} = {spec!r} pairs (student:teacher) "
            f"{','.join(f'{s}:{t}' for s, t in wanted)}, but of the teacher's {teacher_layers} "
            f"layers the tape holds {has}; choose pairs from these, or record layer "
            f"{', '.join(map(str, missing))} too"
        )
    return kept


def _parse(spec: str, student_layers: int, teacher_layers: int, where: str) -> Pairs:
    word, _, argument = spec.partition(":")
    top = (student_layers, teacher_layers)
    proportional = {
        s: round(teacher_layers * s / student_layers) for s in range(1, student_layers + 1)
    }
    if spec == "top":
        return (top,)
    if spec == "proportional":
        return tuple((s, t) for s, t in proportional.items() if t > 0)
    if word == "every":
        if not argument.isdecimal() or int(argument) < 1:
            raise UsageError(f"{where} = {spec!r}: every needs a number, as in 'every:4'")
        chosen = sorted({*range(int(argument), student_layers + 1, int(argument)), student_layers})
        return tuple((s, proportional[s]) for s in chosen if proportional[s] > 0)
    return _explicit(spec, student_layers, teacher_layers, where)


def _explicit(spec: str, student_layers: int, teacher_layers: int, where: str) -> Pairs:
    pairs = []
    for item in spec.split(","):
        student, colon, teacher = (part.strip() for part in item.partition(":"))
        if not (colon and student.isdecimal() and teacher.isdecimal()):
            raise UsageError(
                f"{where} = {spec!r}: expected top, proportional, every:N or pairs such as "
                f"'4:5,8:9'{nearest(spec, _FORMS)}"
            )
        if int(student) > student_layers or int(teacher) > teacher_layers:
            raise UsageError(
                f"{where} = {spec!r}: pair {item.strip()} is outside the student's layers "
                f"0-{student_layers} or the teacher's 0-{teacher_layers}"
            )
        pairs.append((int(student), int(teacher)))
    return tuple(sorted(set(pairs)))
