"""A training step that distils from the tape against plain SFT: one student, the same batches.

All runs are the trainer's own (loader, objective, ``step_gradients``), in turns in one process and
without the optimizer's step, which would be the same for all. ``plain`` is the baseline of the
bars: the same loop with the term ``ce`` alone. ``textbook`` is the loop most trainers have: all
logits of the response at once, ``F.cross_entropy``, over the same loader.

Memory is what the allocator holds at most beyond what it held before: on CUDA its own count, on a
CPU that of torch's profiler, which sees every allocation of a tensor and no noise of the system.

The dense losses are measured apart from a student, as functions of the unembedding's inputs: the
teacher's log-probabilities of all tokens lie in memory, and are not counted.

On a CPU: a student of some 40 M parameters, float32, one thread for it, whose processor time is
taken, as that is what other work on the machine changes least (the wait for the loader, not in it,
has its own figure); and threads of the loader. On CUDA: a student of 0.7 B, bfloat16, time by the
clock; this was not run yet.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from acoustic import keep_memory
from figures import Figure, ratio
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from trainer_runs import CE, CPU, CUDA, TOP_K, Stepper, World

from audio_models.forward import forward_with_states
from train.losses import vocabulary
from train.losses.asked import Asked, Seen
from train.losses.divergences import forward_kl
from train.losses.fused import Fused
from train.losses.heads import LinearHead

ROUNDS = 7
ALONE = 8
STEP_BAR, WAIT_BAR, MEMORY_BAR = 1.05, 0.01, 1.10
DENSE = {151_936: 768, 262_144: 192}
"""Vocabulary -> positions."""

DENSE_WIDTH = 512


def textbook(stepper: Stepper) -> Callable[[], None]:
    """Return a step of plain SFT as it is commonly written, over a run's loader."""
    run = stepper.run
    device = run.accelerator.device

    def step() -> None:
        stepper.advance()
        count = sum(len(batch.target_ids) for batch in stepper.feed.load.micro)
        for batch in stepper.feed.load.micro:
            there = batch.to(device)
            with run.accelerator.autocast():
                output = forward_with_states(
                    run.lm.model, there.audio.inputs, (), there.audio.predict_positions
                )
            logits = output.logits_NV.float()
            (F.cross_entropy(logits, there.target_ids, reduction="sum") / count).backward()
        stepper.forget()

    return step


def chunked(stepper: Stepper) -> None:
    """Find the gradients of a step of SFT, the cross-entropy in chunks, logits computed twice."""
    run = stepper.run
    for batch in stepper.feed.load.micro:
        sums_M = run.objective(batch.to(run.accelerator.device))
        (sums_M / len(batch.target_ids)).sum().backward()


def in_turns(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return each job's seconds, round by round, after one unmeasured round."""
    clock = time.perf_counter if torch.cuda.is_available() else time.thread_time
    taken_s: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            began_s = clock()
            job()
            if number:
                taken_s[name].append(clock() - began_s)
    return taken_s


def peak_bytes(job: Callable[[], object]) -> int:
    """Return what a job holds at most beyond what was held before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        job()
    events = seen.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        held += change
        peak = max(peak, held)
    return peak


def steps(world: World) -> Iterator[Figure]:
    """Times of steps, in turns; the wait for the loader, of steps after one another."""
    hidden = world.hidden()
    recipes = {
        "plain": CE,
        "distilling": {**CE, "text_kl": {"weight": 1.0}, **hidden},
        "top-k": {**CE, "text_kl": {"weight": 1.0}},
        "acoustic": {**CE, "acoustic_kl": {"weight": 1.0}, "text_kl": {"weight": 1.0},
                     **world.hidden("acoustic_hidden")},
        "lens": {**CE, **world.hidden("text_lens")},
    }  # fmt: skip
    steppers = {name: Stepper(world.run(terms)) for name, terms in recipes.items()}
    steppers["textbook"] = Stepper(world.run(CE))
    jobs: dict[str, Callable[[], object]] = dict(steppers)
    jobs["textbook"] = textbook(steppers["textbook"])
    taken_s = in_turns(jobs, ROUNDS)
    for stepper in steppers.values():
        stepper.close()
    plain_s = statistics.median(taken_s["plain"])
    yield Figure(
        name="a step of plain SFT", value=plain_s, unit="s",
        note=f"the limit; {world.parameters / 1e6:.0f} M parameters, V = {world.size.vocabulary:,}",
    )  # fmt: skip
    named = [
        ("distilling", "top-k 64 KL + 4 pairs of layers", "plain", STEP_BAR),
        ("distilling", "the same, against the textbook's SFT", "textbook", STEP_BAR),
        ("top-k", "top-k 64 KL alone", "plain", None),
        ("acoustic", "two teachers' top-k, 4 pairs at audio", "plain", None),
        ("lens", "4 pairs of lenses (four unembeddings more)", "plain", None),
        ("textbook", "textbook SFT", "plain", None),
    ]
    for name, title, base, bar in named:
        yield Figure(
            name=f"step: {title}", value=1 / ratio(taken_s[base], taken_s[name]),
            unit=f"x the time of {base}", bar=bar, at_least=False, note=spread(taken_s, base, name),
        )  # fmt: skip
    with closing(Stepper(world.run(recipes["distilling"]))) as alone:
        alone()  # nothing was loaded ahead of the first
        waited = spent = 0.0
        for _ in range(ALONE):
            began_s = time.perf_counter()
            alone()
            spent += time.perf_counter() - began_s
            waited += alone.feed.waited_s
    yield Figure(
        name="wait for the loader, of the step", value=waited / spent, unit="of its time",
        bar=WAIT_BAR, at_least=False, note=f"{ALONE} steps after one another",
    )  # fmt: skip


def spread(taken_s: dict[str, list[float]], base: str, name: str) -> str:
    """Return the middle half of the rounds' ratios."""
    ratios = [m / b for b, m in zip(taken_s[base], taken_s[name], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"half of {len(ratios)} rounds: {low:.3f} to {high:.3f}"


def memory(world: World) -> Iterator[Figure]:
    """Peaks of a step, on the same batches."""
    terms = {**CE, "text_kl": {"weight": 1.0}, **world.hidden()}
    with closing(Stepper(world.run(CE))) as plain, closing(Stepper(world.run(terms))) as distils:
        for stepper in (plain, distils):
            stepper()  # buffers that stay, and two whole steps loaded ahead
            stepper.advance()
        baseline = peak_bytes(lambda: chunked(plain))
        plain.forget()
        own = peak_bytes(plain.gradients)
        peak = peak_bytes(distils.gradients)
    mib = f"{baseline / 2**20:.0f} MiB"
    yield Figure(
        name="peak memory of a step, distilling", value=peak / baseline, unit="x of chunked SFT",
        bar=MEMORY_BAR, at_least=False, note=f"{mib}: activations, gradients, a chunk of logits",
    )  # fmt: skip
    yield Figure(name="the same, plain SFT", value=own / baseline, unit="x of chunked SFT")


def fused_kl(
    layer: nn.Linear, inputs: Tensor, ids: Tensor, p_NB: Tensor, chunk: int
) -> Callable[[], None]:
    """Return the top-k KL's mean, forward and backward, its gradients forgotten.

    Args:
        layer: the unembedding.
        inputs: its inputs [N, D].
        ids: the teacher's tokens [N, k].
        p_NB: its probabilities of them and of the tail [N, k + 1].
        chunk: positions whose logits exist at one time.
    """
    scale_1 = torch.full((1,), 1 / len(inputs), device=inputs.device)

    def fused() -> None:
        def loss(seen: Seen, where: slice) -> Tensor:
            log_q_nB = seen.log_masses["t"] - seen.log_total_N[:, None]
            return forward_kl(p_NB[where], log_q_nB).sum()[None]

        summing = Fused(chunk)
        asked = Asked(buckets={"t": ids})
        sums_1 = summing.sums(inputs, LinearHead(layer), asked, loss, scale_1)
        summing.attach((sums_1 * scale_1).sum()).backward()
        layer.weight.grad = inputs.grad = None

    return fused


def dense(vocab_size: int, count: int) -> Iterator[Figure]:
    """The fused top-k KL against a KL over all tokens, as functions of the inputs."""
    generator = torch.Generator().manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = nn.Linear(DENSE_WIDTH, vocab_size, bias=False, device=device)
    inputs = torch.randn(count, DENSE_WIDTH, generator=generator).to(device).requires_grad_()
    said_NV = torch.randn(count, vocab_size, generator=generator).to(device).log_softmax(-1)
    logprobs, ids = said_NV.topk(TOP_K)
    p_NB = vocabulary.teacher_buckets(logprobs, 1 - logprobs.exp().sum(-1))

    def naive() -> None:
        log_q_NV = layer(inputs).log_softmax(-1)
        total = F.kl_div(log_q_NV, said_NV, reduction="sum", log_target=True) / count
        total.backward()
        layer.weight.grad = inputs.grad = None

    fused = fused_kl(layer, inputs, ids, p_NB, CPU.vocab_chunk)
    taken_s = in_turns({"naive": naive, "fused": fused}, 3)
    peaks = {"naive": peak_bytes(naive), "fused": peak_bytes(fused)}
    at = f"top-k 64 KL, V = {vocab_size:,}, {count} positions"
    yield Figure(
        name=f"{at}: memory", value=peaks["naive"] / peaks["fused"], unit="x less than dense",
        bar=1.0, note=f"dense {peaks['naive'] / 2**20:.0f} MiB, both with the weight's gradient",
    )  # fmt: skip
    yield Figure(
        name=f"{at}: time", value=ratio(taken_s["naive"], taken_s["fused"]),
        unit="x as fast as dense", bar=1.0,
        note=f"dense {statistics.median(taken_s['naive']):.2f} s",
    )  # fmt: skip


def measure() -> Iterator[Figure]:
    """Steps, memory, dense losses."""
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), CUDA if torch.cuda.is_available() else CPU)
        yield from steps(world)
        yield from memory(world)
    for vocab_size, count in DENSE.items():
        yield from dense(vocab_size, count)
