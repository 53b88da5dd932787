"""The wheel: what is in it, and that it works away from the checkout. No network."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import sys
from pathlib import Path

import torch

import latune
from latune import paths

home = Path(sys.prefix).resolve()
assert Path(latune.__file__).resolve().is_relative_to(home), latune.__file__
assert paths.data_root() == Path(latune.__file__).resolve().parent / "_data", paths.data_root()
for folder in (paths.templates(), paths.search_spaces(), paths.shipped_cache()):
    assert any(folder.iterdir()), folder

q, k, v = (torch.randn(1, 2, 70, 16, requires_grad=True) for _ in range(3))
o = latune.lightning_attn(q, k, v, latune.slopes.alibi(2))
o.sum().backward()
assert o.shape == v.shape and bool(o.isfinite().all()) and bool(q.grad.isfinite().all())

problem = latune.Problem(
    direction="bwd", decay="constant", dtype="bf16", batch=1, num_heads=2, seqlen=70, head_dim_k=16, head_dim_v=16
)
resolution = latune.resolve(problem, "a100")
from latune.codegen.render import render

assert "def backward(" in render(problem, resolution.plan).text
print("works")
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment with the wheel in it; its dependencies are this environment's."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, system_site_packages=False, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=home)
    (site_packages,) = home.glob("lib/python*/site-packages")
    # Lines of a .pth file are not searched for further .pth files: an editable latune stays out of sight.
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    return python.parent


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def data_files(folder: str) -> set[str]:
    """What the folder holds, without the locks that writers leave, which git and the wheel pass over."""
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {f"latune/_data/{path.relative_to(ROOT)}" for path in files}


@pytest.mark.parametrize("folder", ["templates", "search_spaces", "cache"])
def test_the_wheel_has_the_data(wheel: Path, folder: str) -> None:
    expected = data_files(folder)
    assert expected
    assert {name for name in names(wheel) if name.startswith(f"latune/_data/{folder}/")} == expected


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "latune").rglob("*.py")}
    rest = {name for name in names(wheel) if not name.startswith("latune/_data/")}
    package = {name for name in rest if name.startswith("latune/")}
    assert package == modules
    (metadata,) = {name.split("/")[0] for name in rest - package}
    assert metadata.endswith(".dist-info")


def test_the_installed_package_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "python", "-c", SCRIPT, cwd=tmp_path) == "works\n"


def test_the_installed_command_works(installed: Path, tmp_path: Path) -> None:
    assert "a100" in run(installed / "latune", "gpus", cwd=tmp_path)
