"""Nothing beyond pyproject.toml but this: the catalogue database is built into the wheel."""

from __future__ import annotations

import os
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

DATABASE = os.path.join("eelit", "catalog", "catalogue.sqlite")


class BuildWithCatalogue(build_py):
    """Copy the packages, then build the database from the copied sources and with the copied code."""

    def run(self) -> None:
        """Build; an editable install needs no database, since a checkout keeps its own."""
        super().run()
        if self.editable_mode:
            return
        copied = os.path.abspath(self.build_lib)
        # The copy must be found before any installed eelit, and must not take itself for a checkout.
        environment = {name: value for name, value in os.environ.items() if name != "EELIT_ROOT"}
        environment["PYTHONPATH"] = os.pathsep.join([copied, environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        target = os.path.join(copied, DATABASE)
        words = [sys.executable, "-P", "-m", "eelit.catalog.database", target, "--shipped"]
        if subprocess.run(words, env=environment, check=False).returncode:
            raise ExecError("the catalogue database could not be built, for the reason given above")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Count the database among the files that were built."""
        return [*super().get_outputs(include_bytecode), os.path.join(self.build_lib, DATABASE)]


setup(cmdclass={"build_py": BuildWithCatalogue})
