"""Runs CMake builds from tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _tool(name: str) -> str | None:
    """`name` as the Python package of that name installs it, else from PATH."""
    beside = shutil.which(name, path=sysconfig.get_path("scripts"))
    return beside or shutil.which(name)


def cmake_command() -> str | None:
    """The cmake to run, or None."""
    return _tool("cmake")


def generator() -> list[str]:
    """Arguments that choose the generator: Ninja where there is one, else CMake's default."""
    ninja = _tool("ninja")
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []


def _sites(package: str) -> list[Path]:
    """Folders in which wheels may lie, those that have the Python package `package` last."""
    sites = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations is not None:
        sites += [Path(folder).parent for folder in spec.submodule_search_locations]
    return sites


def _cuda_wheels() -> list[Path]:
    """The folders that the wheels nvidia-cuda-* share, the newest CUDA first."""
    found = {folder for site in _sites("nvidia") for folder in site.glob("nvidia/cu[0-9]*") if folder.is_dir()}
    return sorted(found, key=lambda folder: int(folder.name[2:]), reverse=True)


def nvcc_of_a_wheel() -> str | None:
    """The CUDA compiler of the wheels nvidia-cuda-nvcc and the like, or None."""
    return shutil.which("nvcc", path=os.pathsep.join(str(folder / "bin") for folder in _cuda_wheels()))


def nvcc_command() -> str | None:
    """The CUDA compiler to run, from PATH or a wheel, or None."""
    return shutil.which("nvcc") or nvcc_of_a_wheel()


def cuda_headers() -> Path | None:
    """The include folder of a CUDA toolkit, nvcc's own or that of the wheels, or None."""
    nvcc = shutil.which("nvcc")
    toolkits = [Path(nvcc).resolve().parents[1]] if nvcc else []
    for toolkit in [*toolkits, Path("/usr/local/cuda"), *_cuda_wheels()]:
        if all((toolkit / "include" / name).is_file() for name in ("cuda_runtime.h", "crt/host_defines.h")):
            return toolkit / "include"
    return None


def prefix_path() -> str:
    """CMAKE_PREFIX_PATH with the packages that Python wheels carry (Eigen of cmeel-eigen)."""
    sites = _sites("cmeel")
    found = [str(site / "cmeel.prefix") for site in sites if (site / "cmeel.prefix").is_dir()]
    found += filter(None, os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep))
    return ";".join(dict.fromkeys(found))


def run(cmd: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Standard output of `cmd`; on failure an AssertionError with everything it printed."""
    words = [str(word) for word in cmd]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}\nin {cwd} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def configure(source: Path, build: Path, *arguments: str) -> str:
    """Configures `source` into `build`, an optimised build that finds Eigen; returns what was printed."""
    cmake = cmake_command()
    assert cmake is not None, "cmake not found"
    command = [cmake, "-S", str(source), "-B", str(build), *generator()]
    command += ["-DCMAKE_BUILD_TYPE=Release", *arguments]
    if not any(a.startswith("-DCMAKE_PREFIX_PATH=") for a in arguments) and prefix_path():
        command.append(f"-DCMAKE_PREFIX_PATH={prefix_path()}")
    return run(command, ROOT)


def compile_all(build: Path, *targets: str) -> str:
    """Builds what was configured in `build`, or of that the named targets; returns what was printed."""
    cmake = cmake_command()
    assert cmake is not None, "cmake not found"
    command = [cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)]
    return run(command + [word for target in targets for word in ("--target", target)], ROOT)


def install(build: Path, prefix: Path, *components: str) -> None:
    """Installs the named components, or everything, below `prefix`."""
    cmake = cmake_command()
    assert cmake is not None, "cmake not found"
    command = [cmake, "--install", str(build), "--prefix", str(prefix)]
    for component in components or ("",):
        run(command + (["--component", component] if component else []), ROOT)
