"""CMake builds of the tests. Trees are kept between runs and shared: the core is compiled once for each configuration.

They lie in build/tests/, or where BQQ_TEST_BUILD_DIR says, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> str | None:
    """`name` as the Python package of that name installs it, else from PATH."""
    beside = shutil.which(name, path=sysconfig.get_path("scripts"))
    return beside or shutil.which(name)


def cmake_command() -> str | None:
    """The cmake to run, or None."""
    return tool("cmake")


def generator() -> list[str]:
    """Arguments that choose the generator: Ninja where there is one, else CMake's default."""
    ninja = tool("ninja")
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
    """CMAKE_PREFIX_PATH with the packages that Python wheels carry (cmeel-eigen, nlohmann-json)."""
    found = [str(site) for site in _sites("cmeel") if (site / "cmeel.prefix").is_dir()]
    found += [str(site) for site in _sites("nlohmann_json") if (site / "nlohmann_json").is_dir()]
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


@cache
def compiler_macros() -> str:
    """What the C++ compiler predefines, its name and version among it; empty without one."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        return ""
    command = [compiler, "-dM", "-E", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def emulation() -> list[str]:
    """Options that add the emulated CUDA kernels, empty where they cannot be built."""
    gnu = "__GNUC__" in compiler_macros() and "__clang__" not in compiler_macros()
    headers = cuda_headers()
    if sys.platform != "linux" or not gnu or headers is None:
        return []
    return ["-DBQQ_CUDA_EMULATION=ON", f"-DBQQ_CUDA_INCLUDE_DIR={headers}"]


def python_module() -> list[str]:
    """Options that add the Python module, empty where it cannot be built."""
    spec = importlib.util.find_spec("pybind11")
    if spec is None or not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return []
    import pybind11

    found = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    return ["-DBQQ_BUILD_PYTHON=ON", *found]


@contextmanager
def alone(build: Path) -> Iterator[None]:
    """Runs of the tests, and the processes of one, beside each other build one after the other."""
    build.mkdir(parents=True, exist_ok=True)
    with open(build / ".lock", "w") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def tree(name: str, *options: str, source: Path = ROOT) -> Path:
    """The kept folder of these options and this compiler, configured."""
    key = hashlib.sha256(repr((options, source, sys.executable, sys.version, compiler_macros())).encode()).hexdigest()
    base = Path(os.environ.get("BQQ_TEST_BUILD_DIR") or ROOT / "build" / "tests")
    build = base.resolve() / f"{name}-{key[:10]}"
    with alone(build):
        configure(source, build, *options)
    return build


def shared_tree() -> Path:
    """The tree of everything that is compiled alike: both libraries, the C++ tests, emulated CUDA and its module."""
    options = ["-DBQQ_BUILD_TESTS=ON", "-DBQQ_BUILD_BENCH=ON", "-DBQQ_WERROR=ON", "-DBQQ_INSTALL=ON"]
    options += ["-DBQQ_CUDA=OFF"]
    return tree("release", *options, "-DCMAKE_INSTALL_LIBDIR=lib", *emulation(), *python_module())


def nvcc_tree(nvcc: str) -> Path:
    """The kernels by nvcc for two GPUs, with what ptxas says of them, and the Python module with them."""
    options = [
        "-DBQQ_BUILD_TESTS=ON",
        "-DBQQ_WERROR=ON",
        "-DBQQ_INSTALL=ON",
        "-DBQQ_CUDA=ON",
        "-DCMAKE_INSTALL_LIBDIR=lib",
    ]
    options += ["-DBQQ_CUDA_ARCHITECTURES=80-real;90-real", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    options += ["-DCMAKE_CXX_FLAGS_RELEASE=-O0"]  # the core is not what these tests are about
    return tree("nvcc", *options, "-DCMAKE_CUDA_FLAGS=-Xptxas -v", *python_module())


def sanitized_tree(*more: str) -> Path:
    """The core under AddressSanitizer and UndefinedBehaviorSanitizer, on the std::thread body of its loops."""
    options = [*more, "-DBQQ_BUILD_TESTS=ON", "-DBQQ_INSTALL=OFF", "-DBQQ_CUDA=OFF"]
    return tree("sanitize", *options, "-DBQQ_SANITIZE=address,undefined", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")


def configure(source: Path, build: Path, *arguments: str) -> str:
    """Configures `source` into `build`, an optimised build that finds Eigen; returns what was printed."""
    cmake = cmake_command()
    assert cmake is not None, "cmake not found"
    command = [cmake, "-S", str(source), "-B", str(build), *generator()]
    command += ["-DCMAKE_BUILD_TYPE=Release", *arguments]
    if not any(a.startswith("-DCMAKE_PREFIX_PATH=") for a in arguments) and prefix_path():
        command.append(f"-DCMAKE_PREFIX_PATH={prefix_path()}")
    return run(command, ROOT)


def compile_all(build: Path, *targets: str, anew: str | None = None) -> str:
    """Builds what was configured in `build`, or of that the named targets; returns what was printed.

    Objects that match `anew` are compiled even if they are there: what an earlier run compiled would be silent.
    """
    cmake = cmake_command()
    assert cmake is not None, "cmake not found"
    command = [cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)]
    with alone(build):
        for path in build.rglob(anew) if anew else ():
            path.unlink()
        return run(command + [word for target in targets for word in ("--target", target)], ROOT)


def install(build: Path, prefix: Path, *components: str) -> None:
    """Installs the named components, or everything, below `prefix`."""
    cmake = cmake_command()
    assert cmake is not None, "cmake not found"
    command = [cmake, "--install", str(build), "--prefix", str(prefix)]
    for component in components or ("",):
        run(command + (["--component", component] if component else []), ROOT)


@cache
def installed() -> Path:
    """A kept folder with the installed package: headers, both libraries, CMake files."""
    build = shared_tree()
    compile_all(build, "bqq_static", "bqq_shared")
    prefix = build / "installed"
    with alone(build):
        install(build, prefix, "runtime", "dev")
    return prefix
