"""Builds tests/consumer over the package and runs its programs."""

from pathlib import Path

from conan import ConanFile
from conan.tools.cmake import CMake, cmake_layout


class Consumer(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeToolchain", "VirtualRunEnv"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def build(self):
        cmake = CMake(self)
        cmake.configure(build_script_folder=Path(self.recipe_folder).parents[2] / "tests" / "consumer")
        cmake.build()

    def test(self):
        for program in ("user_c", "user_cpp", "user_c_static", "user_cpp_static"):
            self.run(str(Path(self.build_folder, self.cpp.build.bindirs[0], program)), env="conanrun")
