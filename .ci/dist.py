"""Makes wheel and sdist, checks them, and uses the wheel where nothing else is installed: `make dist`.

- `build` writes both into out/dist, the wheel from the sdist, so that a file which the sdist lacks is missed;
- `twine check --strict` reads their metadata as the index would, `check-wheel-contents` what the wheel holds;
- `tried` installs the wheel into an empty environment, with what it asks for in the versions of requirements/run.lock,
  and runs commands there from a folder that is not the project's.

Runs in .venv-docs. Needs the package index for the environment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "dist"
SPELLED = {
    "--version": "nmsat ",
    "gemm 64 64 64 --pattern 2:8 --config tiny": "equal to the array's RTL",
    "model mlp --batch 8 --estimate": "estimate",
    "config check kv260": "fits",
}
"""Commands that need no extra -> what their answer holds."""


def constraints() -> str:
    """Return the versions of requirements/run.lock without hashes, which pip would then ask of the wheel too."""
    lock = (ROOT / "requirements" / "run.lock").read_text(encoding="utf-8")
    return "".join(f"{pin}\n" for pin in re.findall(r"^[\w.-]+==[^ \n]+", lock, re.MULTILINE))


def tried(wheel: Path, place: Path) -> list[str]:
    """Install a wheel into an empty environment in a folder and return what did not work there."""
    (place / "constraints.txt").write_text(constraints(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    pip = [place / "env/bin/pip", "install", "--quiet", "--only-binary", ":all:", "--constraint", "constraints.txt"]
    subprocess.run([*pip, wheel.resolve()], cwd=place, check=True)
    command = place / "env/bin/nmsat"
    wrong = []
    for line, part in SPELLED.items():
        done = run([command, *line.split()], place)
        if done.returncode or part not in done.stdout:
            wrong.append(f"nmsat {line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    done = run([place / "env/bin/python", "-m", "nmsat", "rtl", "--config", "tiny", "--out", "rtl"], place)
    if done.returncode != 2 or "pip install nmsat[rtl]" not in done.stderr:
        wrong.append(f"nmsat rtl does not name its extra: exit code {done.returncode}\n{done.stderr}")
    return wrong


def run(command: list[object], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a command there, in caches of its own, and return how it went."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(place), "NMSAT_BUILD_DIR": str(place / "caches")}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, check=False)


def main() -> int:
    """Make, check and try; return an exit code."""
    shutil.rmtree(OUT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", OUT, ROOT], check=True, stdout=2)
    files = sorted(OUT.iterdir())
    wheel = next(path for path in files if path.suffix == ".whl")
    tools = Path(sys.executable).parent
    subprocess.run([tools / "twine", "check", "--strict", *files], check=True)
    subprocess.run([tools / "check-wheel-contents", wheel], check=True)
    with tempfile.TemporaryDirectory(prefix="nmsat-dist-") as name:
        wrong = tried(wheel, Path(name))
    print("\n".join(wrong) if wrong else f"dist: passed: {', '.join(path.name for path in files)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
