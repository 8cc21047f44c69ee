"""The installed C and C++ package, as projects use it that are not this one."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import _build
from _build import ROOT, run

CONSUMER = ROOT / "tests" / "consumer"
EXAMPLES = ROOT / "cpp" / "examples"
HEADERS = ROOT / "cpp" / "include" / "bqq"

pytestmark = [
    pytest.mark.skipif(_build.cmake_command() is None, reason="cmake not found"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="no source tree"),
]


@pytest.fixture(scope="session")
def prefix(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed."""
    folder = tmp_path_factory.mktemp("bqq-prefix")
    _build.install(built, folder, "runtime", "dev")
    return folder


def shared_library(prefix: Path) -> Path:
    return next(prefix.glob("lib/libbqq.so.*.*"))


PROGRAMS = ("user_c", "user_cpp", "gemv", "compress", "serve")  # of bqq::bqq; others are of one kind by name


def use(build: Path, *arguments: str, targets: tuple[str, ...] = ()) -> None:
    """Builds the consumer with `arguments`, all of it or these targets, and runs every program of it."""
    _build.configure(CONSUMER, build, *arguments)
    _build.compile_all(build, *targets)
    programs = sorted(build.glob("user_c*"))
    assert {"user_c", "user_cpp"} <= {p.name for p in programs}
    for program in programs:
        assert run([program], build).strip() == "ok", program.name
    assert "relative error" in run([build / "compress", "w.safetensors", "0.5"], build)
    assert "weight: 96 x 64" in run([build / "gemv", "w.safetensors"], build)
    assert "96 x 64: 50 requests in" in run([build / "serve", "w.safetensors", "weight", "3", "50"], build)


def linked(program: Path) -> str:
    """What the dynamic linker would load for `program`."""
    return run(["ldd", program], program.parent) if sys.platform == "linux" else ""


def test_find_package_is_shared_by_default(prefix: Path, tmp_path: Path) -> None:
    use(tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    if sys.platform == "linux":
        assert "libbqq.so" in linked(tmp_path / "user_c")
        assert "libbqq.so" not in linked(tmp_path / "user_c_static")
    with pytest.raises(AssertionError, match="status 6: BQQ_ISA is 'abacus'"):
        run([tmp_path / "user_c"], tmp_path, {"BQQ_ISA": "abacus"})


@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_dlclose_leaves_the_code_of_sleeping_helpers(prefix: Path) -> None:
    assert "NODELETE" in run(["readelf", "--dynamic", shared_library(prefix)], prefix)


def test_find_package_static(prefix: Path, tmp_path: Path) -> None:
    use(tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}", "-DBQQ_USE_STATIC=ON")
    assert "libbqq.so" not in linked(tmp_path / "user_c")
    assert "libbqq.so" not in linked(tmp_path / "user_cpp")


@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sanitized_programs(prefix: Path, tmp_path: Path, compiler: str, static: bool) -> None:
    """The installed library with another compiler in the programs, and no leak or overrun in them."""
    cxx = {"gcc": "g++", "clang": "clang++"}[compiler]
    found = [name for name in (cxx, *(f"{cxx}-{version}" for version in range(30, 13, -1))) if shutil.which(name)]
    if not found:
        pytest.skip(f"{cxx} not found")
    cc = found[0].replace("clang++", "clang").replace("g++", "gcc")
    arguments = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_CXX_COMPILER={found[0]}", f"-DCMAKE_C_COMPILER={cc}"]
    use(tmp_path, *arguments, "-DBQQ_SANITIZE=address,undefined", f"-DBQQ_USE_STATIC={'ON' if static else 'OFF'}")


SUBDIRECTORY = (  # with little optimisation: it compiles the core once more
    f"-DBQQ_SOURCE_DIR={ROOT}",
    "-DBQQ_CUDA=OFF",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O0",
)


@pytest.fixture(scope="session")
def subdirectory() -> Path:
    """A kept tree of a project that has bqq as a part."""
    return _build.tree("subdirectory", *SUBDIRECTORY, source=CONSUMER)


def test_add_subdirectory(subdirectory: Path) -> None:
    use(subdirectory, *SUBDIRECTORY, "-DBQQ_USE_STATIC=OFF", targets=PROGRAMS)
    if sys.platform == "linux":
        assert "libbqq.so" in linked(subdirectory / "user_c")


@pytest.mark.slow
def test_add_subdirectory_static() -> None:
    build = _build.tree("subdirectory-static", *SUBDIRECTORY, source=CONSUMER)
    use(build, *SUBDIRECTORY, "-DBQQ_USE_STATIC=ON")
    assert "libbqq.so" not in linked(build / "user_c")


ALONE = [  # as on a fresh machine: headers that are installed are not seen
    "-DCMAKE_PREFIX_PATH=",
    "-DCMAKE_IGNORE_PATH=" + ";".join(f"{p}/include{q}" for p in ("/usr", "/usr/local") for q in ("", "/eigen3")),
    f"-DPython3_EXECUTABLE={sys.executable}",
    "-DBQQ_CUDA=OFF",
]


def pins() -> dict[str, str]:
    """Version of each pinned wheel."""
    text = (ROOT / "third_party" / "requirements.txt").read_text()
    found = dict(re.findall(r"^([\w-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE))
    assert len(found) == 2
    return found


def test_headers_come_from_pypi_by_their_pins(tmp_path: Path) -> None:
    try:
        printed = _build.configure(ROOT, tmp_path, *ALONE)
    except AssertionError as error:
        if "could not get it" in str(error):
            pytest.skip("pip reaches no package index")
        raise
    for name, header in (("Eigen", "eigen3/Eigen/Core"), ("nlohmann-json", "nlohmann/json.hpp")):
        assert re.search(rf"^-- {name}: {tmp_path}/third_party/", printed, re.MULTILINE), printed
        assert any((tmp_path / "third_party").rglob(header))
    found = {p.name.partition("-")[0]: p.name for p in (tmp_path / "third_party").glob("*.dist-info")}
    for package, version in pins().items():
        assert f"-{version}." in found[package.replace("-", "_")]


def test_headers_that_cannot_be_had(tmp_path: Path) -> None:
    cmake = _build.cmake_command()
    assert cmake is not None
    for folder, extra in (("off", ["-DBQQ_FETCH=OFF"]), ("offline", [])):
        build = tmp_path / folder
        command: list[str | Path] = [cmake, "-S", ROOT, "-B", build, *_build.generator(), *ALONE, *extra]
        with pytest.raises(AssertionError, match=r"Eigen 3\.4 or newer was not found") as caught:
            run(command, ROOT, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""})
        text = " ".join(str(caught.value).split())
        assert "'pip install cmeel-eigen' and pass its site-packages folder in CMAKE_PREFIX_PATH" in text
        assert "unpack it into third_party/eigen/" in text


def test_unpacked_headers_come_first(tmp_path: Path) -> None:
    """Those of third_party/, before wheels: shown on a copy of the project that has them."""
    source = tmp_path / "source"
    for folder in ("cpp", "cuda", "third_party"):
        shutil.copytree(ROOT / folder, source / folder)
    shutil.copy(ROOT / "CMakeLists.txt", source)
    eigen, json = source / "third_party" / "eigen", source / "third_party" / "json" / "include" / "nlohmann"
    (eigen / "Eigen").mkdir(parents=True, exist_ok=True)
    json.mkdir(parents=True, exist_ok=True)
    (eigen / "signature_of_eigen3_matrix_library").touch()
    (eigen / "Eigen" / "Version").write_text("#define EIGEN_WORLD_VERSION 3\n#define EIGEN_MAJOR_VERSION 4\n")
    header = "#define NLOHMANN_JSON_VERSION_MAJOR 3\n#define NLOHMANN_JSON_VERSION_MINOR {}\n"
    (json / "json.hpp").write_text(header.format(11))
    arguments = ["-DBQQ_CUDA=OFF", "-DBQQ_FETCH=OFF"]
    printed = _build.configure(source, tmp_path / "new", *arguments)
    assert f"Eigen: {eigen}" in printed
    assert f"nlohmann-json: {json.parent}" in printed
    (json / "json.hpp").write_text(header.format(10))
    with pytest.raises(AssertionError, match=r"nlohmann-json 3\.10 in\s+\S+\s+is too old, 3\.11 or newer is needed"):
        _build.configure(source, tmp_path / "old", *arguments)


def test_pins_agree() -> None:
    """The build requirements of the wheel and the test extra name the wheels of third_party/requirements.txt."""
    project = (ROOT / "pyproject.toml").read_text()
    for package, version in pins().items():
        assert project.count(f'"{package}=={version}"') == 2, package
        assert version in (ROOT / "third_party" / "README.md").read_text()


PROBE = """\
cmake_minimum_required(VERSION 3.18)
project(probe LANGUAGES {languages})
find_package(bqq {arguments})
if(NOT bqq_FOUND)
  message(FATAL_ERROR "not found: ${{bqq_NOT_FOUND_MESSAGE}}")
endif()
get_target_property(links bqq::bqq INTERFACE_LINK_LIBRARIES)
message(STATUS "picked ${{links}}")
file(WRITE "${{CMAKE_BINARY_DIR}}/main.c"
     "#include <bqq/bqq.h>\\nint main(void) {{ return bqq_abi_version() != 1; }}\\n")
add_executable(probe "${{CMAKE_BINARY_DIR}}/main.c")
target_link_libraries(probe PRIVATE bqq::bqq)
"""


def probe(prefix: Path, folder: Path, arguments: str, languages: str = "C CXX") -> str:
    """Output of a configure step with find_package(bqq <arguments>), then builds and runs."""
    source = folder / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROBE.format(arguments=arguments, languages=languages))
    cmake = _build.cmake_command()
    assert cmake is not None
    command: list[str | Path] = [cmake, "-S", source, "-B", folder / "build"]
    out = run([*command, f"-DCMAKE_PREFIX_PATH={prefix}", *_build.generator()], folder)
    _build.compile_all(folder / "build")
    run([folder / "build" / "probe"], folder)
    return out


@pytest.mark.parametrize(
    ("arguments", "picked"),
    [
        ("REQUIRED", "shared"),
        ("REQUIRED COMPONENTS shared", "shared"),
        ("REQUIRED COMPONENTS static", "static"),
        ("REQUIRED COMPONENTS shared static", "shared"),
    ],
)
def test_components_choose(prefix: Path, tmp_path: Path, arguments: str, picked: str) -> None:
    assert f"picked bqq::bqq_{picked}" in probe(prefix, tmp_path, arguments)


def test_a_project_in_c_alone_can_use_the_shared_library(prefix: Path, tmp_path: Path) -> None:
    assert "picked bqq::bqq_shared" in probe(prefix, tmp_path, "REQUIRED", "C")


@pytest.mark.parametrize(
    ("arguments", "languages", "reason"),
    [
        ("COMPONENTS telepathy", "C CXX", "telepathy"),
        ("COMPONENTS static", "C", "needs the language CXX"),
        ("99.0", "C CXX", "not found"),
    ],
)
def test_what_cannot_be_found_says_why(
    prefix: Path, tmp_path: Path, arguments: str, languages: str, reason: str
) -> None:
    with pytest.raises(AssertionError, match=reason):
        probe(prefix, tmp_path, arguments, languages)


def flags(prefix: Path, *arguments: str) -> list[str]:
    tool = shutil.which("pkg-config")
    if tool is None:
        pytest.skip("pkg-config not found")
    path = str(prefix / "lib" / "pkgconfig")
    return run([tool, *arguments, "bqq"], ROOT, {"PKG_CONFIG_PATH": path}).split()


def test_pkg_config(prefix: Path, tmp_path: Path) -> None:
    words = flags(prefix, "--cflags", "--libs")
    strict = ["cc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    run([*strict, CONSUMER / "main.c", "-o", "user_c", *words], tmp_path)
    env = {"LD_LIBRARY_PATH": str(prefix / "lib"), "DYLD_LIBRARY_PATH": str(prefix / "lib")}
    assert run([tmp_path / "user_c"], tmp_path, env).strip() == "ok"
    run(["c++", "-std=c++17", CONSUMER / "main.cpp", "-o", "user_cpp", *words], tmp_path)
    assert run([tmp_path / "user_cpp"], tmp_path, env).strip() == "ok"


def test_pkg_config_static(prefix: Path, tmp_path: Path) -> None:
    words = flags(prefix, "--static", "--cflags", "--libs")
    words = [str(prefix / "lib" / "libbqq.a") if w == "-lbqq" else w for w in words]
    run(["cc", "-std=c99", CONSUMER / "main.c", "-o", "user_c", *words], tmp_path)
    assert run([tmp_path / "user_c"], tmp_path).strip() == "ok"


@pytest.fixture
def moved(prefix: Path, tmp_path: Path) -> Iterator[Path]:
    """The installed tree at another place; the first one is out of reach meanwhile."""
    away = tmp_path / "another place"
    prefix.rename(away)
    yield away
    away.rename(prefix)


def test_relocatable(moved: Path, tmp_path: Path) -> None:
    use(tmp_path / "build", f"-DCMAKE_PREFIX_PATH={moved}")
    assert any("another" in word for word in flags(moved, "--cflags"))


def test_package_names_no_build_tree_and_no_private_dependency(prefix: Path, built: Path) -> None:
    texts = [*prefix.glob("lib/cmake/bqq/*.cmake"), prefix / "lib" / "pkgconfig" / "bqq.pc"]
    assert len(texts) > 4
    for path in texts:
        text = path.read_text()
        for word in (str(built), str(ROOT), str(prefix), "Eigen", "cmeel", "nlohmann"):
            assert word not in text, f"{path.name} names {word}"


def test_components_of_the_installation(built: Path, tmp_path: Path) -> None:
    _build.install(built, tmp_path / "runtime", "runtime")
    _build.install(built, tmp_path / "dev", "dev")

    def names(folder: str) -> set[str]:
        return {p.name for p in (tmp_path / folder).rglob("*") if not p.is_dir()}

    assert names("runtime")
    assert all(n.startswith("libbqq.") for n in names("runtime"))
    assert not {"libbqq.a", "libbqq.so"} & names("runtime")
    headers = {p.name for p in HEADERS.iterdir()}
    package = {"bqq.pc", "bqqConfig.cmake", "bqqConfigVersion.cmake", "libbqq.a"}
    assert headers | package <= names("dev")
    if sys.platform == "linux":
        soname = run(["readelf", "-d", next((tmp_path / "runtime").rglob("*.so.1"))], tmp_path)
        assert "libbqq.so.1]" in soname


def declared() -> tuple[set[str], set[str]]:
    """Names that the headers export: of the C interface, and of namespace bqq."""
    texts = [header.read_text() for header in HEADERS.glob("*.h")]
    c = {name for text in texts for name in re.findall(r"^BQQ_API [^;(]*?(bqq_\w+)\(", text, re.MULTILINE)}
    cpp: set[str] = set()
    for header in HEADERS.glob("*.hpp"):
        text = header.read_text()
        cpp |= set(re.findall(r"^BQQ_API [^;(]*?(\w+)\(", text, re.MULTILINE))
        cpp |= set(re.findall(r"^(?:class|struct) BQQ_API (\w+)", text, re.MULTILINE))
    return c, cpp


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_exported_symbols(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("nm") is None or shutil.which("c++filt") is None:
        pytest.skip("binutils not found")
    table = run(["nm", "-D", "--defined-only", shared_library(prefix)], ROOT)
    mangled = [line.split()[-1] for line in table.splitlines()]
    (tmp_path / "names").write_text("\n".join(mangled))
    names = run(["sh", "-c", "c++filt < names"], tmp_path).splitlines()
    c, cpp = declared()
    assert {"bqq_matmul", "bqq_index_search"} <= c
    assert {"decompose", "Error", "File"} <= cpp

    assert {n for n in mangled if not n.startswith("_Z")} == c
    cpp_names = [n for n, m in zip(names, mangled, strict=True) if m.startswith("_Z")]
    public = re.compile(rf"(?:(?:vtable|typeinfo|typeinfo name) for )?bqq::({'|'.join(cpp)})\b(.*)")
    strangers = [n for n in cpp_names if not public.fullmatch(n) or "detail" in n]
    assert not strangers
    assert cpp - {"Error"} <= {m[1] for n in cpp_names if (m := public.fullmatch(n))}


def test_headers_stand_alone(tmp_path: Path) -> None:
    for header in sorted(HEADERS.iterdir()):
        language = "c" if header.suffix == ".h" else "c++"
        standards = ["c99", "c11"] if language == "c" else ["c++17", "c++20"]
        if header.suffix == ".h":
            run(["c++", "-x", "c++", "-std=c++17", "-fsyntax-only", "-I", HEADERS.parent, header], tmp_path)
        for standard in standards:
            (tmp_path / "one").write_text(f"#include <bqq/{header.name}>\nint main(void);\n")
            command = ["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-pedantic"]
            run([*command, "-Werror", "-fsyntax-only", "-I", HEADERS.parent, "one"], tmp_path)
