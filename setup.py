"""Nothing beyond pyproject.toml but this: the catalogue database is built into the wheel."""

from setuptools import setup

setup()
