"""What pyproject.toml cannot say: in the wheel, the folders of the repository lie below `nmsat`.

The repository keeps `sim/`, `hw/` ... at its top, and `nmsat.py` finds them by its __path__. A wheel holds the same
files as one package: `nmsat.py` becomes `nmsat/__init__.py`, `sim/` becomes `nmsat/sim/`. Nothing else is installed, so
a user's own `sim` or `tb` never meets ours. An editable install needs none of this: it finds `nmsat.py` itself.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("algorithms", "dataflow", "sim", "hw", "tb", "reports")
DATA = ("*.c", "*.j2", "*.vlt", "*.tcl", "*.cpp", "*.v", "*.xdc")
RECORDS = "reports/tables/*.json"
PEERS = "requirements/peers.lock"  # of the environment that `nmsat compare --setup` makes
TYPED = "nmsat/py.typed"
MAIN = "nmsat/__main__.py"  # `python -m nmsat`; in the repository `nmsat.py` is itself what runs
START = "import sys\n\nfrom nmsat.reports.start import main\n\nsys.exit(main())\n"


class BuildPackage(build_py):
    """Copies `nmsat.py` and the folders as the package `nmsat`."""

    def _wanted(self) -> list[tuple[str, str]]:
        """Return (source, path in the wheel) of every file."""
        root = Path(__file__).resolve().parent
        found = [path for folder in FOLDERS for kind in ("*.py", *DATA) for path in sorted((root / folder).rglob(kind))]
        found += [*sorted(root.glob(RECORDS)), root / PEERS]
        return [("nmsat.py", "nmsat/__init__.py")] + [
            (str(path.relative_to(root)), f"nmsat/{path.relative_to(root).as_posix()}") for path in found
        ]

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        for source, place in self._wanted():
            target = Path(self.build_lib) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(source, str(target))
        (Path(self.build_lib) / TYPED).touch()
        (Path(self.build_lib) / MAIN).write_text(START, encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        if self.editable_mode:
            return super().get_outputs(include_bytecode)
        return [str(Path(self.build_lib) / place) for place in [TYPED, MAIN, *(place for _, place in self._wanted())]]

    def get_source_files(self) -> list[str]:
        if self.editable_mode:
            return super().get_source_files()
        return [source for source, _ in self._wanted()]


setup(cmdclass={"build_py": BuildPackage})
