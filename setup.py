"""What pyproject.toml cannot say: the recipes, and the data of the embedded default, go into the wheel."""

from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("recipes", "data/tiny")  # pipeline/recipe/shipped.py finds them again


class BuildWithRecipes(build_py):
    """Also copies what lies beside the package. An editable install needs no copy: it runs in the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder in SHIPPED:
                to = Path(self.build_lib, "pipeline", "shipped", folder)
                copytree(folder, to, dirs_exist_ok=True, ignore=ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithRecipes})
