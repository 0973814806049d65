"""Runs the tests against the newest releases, in an environment of its own, and lists what breaks: `make newest`.

The pins are a choice, made where the newest Unsloth holds them; this tells what moving them would cost. Unsloth is left
out. `--keep torch` leaves a pin as it is (the newest torch may be several GB).
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
ENVIRONMENT = PROJECT / ".venv-newest"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", nargs="*", default=[], metavar="PACKAGE")
    parser.add_argument("tests", nargs="*", help="for pytest; all where none is named")
    asked = parser.parse_args()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = dict(
        one.split("==")
        for one in [
            *project["dependencies"],
            *extras["test"],
            *extras["compare"],
            *extras["serve"],
            *extras["math"],
            *extras["tensorboard"],
            *extras["wandb"],
        ]
    )
    python = ENVIRONMENT / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    wanted = [f"{name}=={version}" if name in asked.keep else name for name, version in pinned.items()]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", *wanted], check=True)
    subprocess.run([*pip, "--no-deps", "-e", PROJECT], check=True)
    tests = subprocess.run([python, "-m", "pytest", *asked.tests], cwd=PROJECT, capture_output=True, text=True)
    print(tests.stdout[-20_000:])
    said = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    newest = subprocess.check_output([python, "-c", said, *pinned], text=True).split()
    for (name, pin), now in zip(pinned.items(), newest, strict=True):
        print(f"{name:<20} {pin:<12} {'' if now == pin else now}".rstrip())
    broken = re.findall(r"^(?:FAILED|ERROR) (\S+)", tests.stdout, re.MULTILINE)
    print(f"\n{len(broken)} tests break with these:" if broken else "\nNothing breaks with these.")
    print("\n".join(broken))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
