"""Recipe for Conan 2, the C and C++ library: ``conan create integrations/conan``, then require ``bqq/<version>``.

``find_package(bqq)`` and ``bqq::bqq`` are those of an installation without Conan. Headers that the core is built with
come as in any other build: installed, or by their pins from PyPI.
"""

import re
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy


class Bqq(ConanFile):
    name = "bqq"
    description = "Real matrices as sums of products of binary matrices, multiplied without unpacking"
    license = "Apache-2.0"
    topics = ("quantization", "matrix", "simd", "vector-search")
    package_type = "shared-library"  # the static one is in the package, too: bqq::bqq_static
    settings = "os", "arch", "compiler", "build_type"

    @property
    def _root(self):
        return Path(self.recipe_folder).parents[1]

    def set_version(self):
        text = (self._root / "CMakeLists.txt").read_text("utf-8")
        self.version = re.search(r"project\(bqq VERSION ([\d.]+)", text)[1]

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cpp/*", "third_party/*"):
            copy(self, pattern, self._root, self.export_sources_folder)

    def validate(self):
        check_min_cppstd(self, 17)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeToolchain(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")
        CMake(self).install()

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")  # the package's own bqqConfig.cmake is there
        self.cpp_info.builddirs = ["lib/cmake/bqq"]
        self.cpp_info.libs = ["bqq"]
