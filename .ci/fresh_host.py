"""What this machine needs to reach its package registries, found by asking apt, pip and the environment.

Nothing of it is written down in the project: it is read when `make fresh` runs and given to the Debian it makes.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

KEPT = re.compile(r"(PIP_\w+|SSL_CERT_\w+|\w*_CA_BUNDLE|(https?|no|all|ftp)_proxy)", re.IGNORECASE)
"""Variables that tell pip and apt how to reach their registries."""

AUTHORITIES = "/usr/local/share/ca-certificates"
"""Where Debian keeps certificates that the owner of a machine has added."""


def output(*command: str) -> str:
    """Return what a command says, '' if it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def mirror() -> str:
    """Return where apt gets this machine's own Debian from, '' if it is no Debian (debootstrap knows one then)."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE))
    if release.get("ID") != "debian":
        return ""
    targets = output("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages")
    suite = release.get("VERSION_CODENAME", "")
    found = [line.split()[0] for line in targets.splitlines() if len(line.split()) == 2 and suite == line.split()[1]]
    return (found or [""])[0].rstrip("/")


def apt_settings() -> str:
    """Return this machine's settings of how apt fetches: proxies, certificates, checks of dates."""
    lines = output("apt-config", "dump").splitlines()
    wanted = [line for line in lines if line.startswith("Acquire::") and "::Languages" not in line]
    return (
        "\n".join(line for line in wanted if not re.match(r"Acquire::(IndexTargets|CompressionTypes)\b", line)) + "\n"
    )


def pip_settings() -> dict[str, dict[str, str]]:
    """Return section -> name -> value of all files that configure pip here."""
    sections: dict[str, dict[str, str]] = {}
    for section, name, value in re.findall(r"^(\w+)\.([\w-]+)=(.*)$", output("pip", "config", "list"), re.MULTILINE):
        sections.setdefault(section, {})[name] = str(ast.literal_eval(value))
    return sections


def environment() -> dict[str, str]:
    """Return the variables that tell pip and apt how to reach their registries."""
    return {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}


def paths(values: list[str]) -> list[Path]:
    """Return the files and folders of this machine that some settings name, as they are or as file:// addresses."""
    words = {word.removeprefix("file://") for value in values for word in re.split(r"[\s,;]+", value)}
    return sorted(path for word in words if word.startswith("/") and (path := Path(word)).exists())


def hand_over(root: Path) -> dict[str, str]:
    """Give a Debian below `root` this machine's settings; return the variables its commands need."""
    (root / "etc/apt/apt.conf.d/80host").write_text(apt_settings(), encoding="utf-8")
    sections = pip_settings()
    text = [f"[{name}]\n" + "".join(f"{key} = {indented(v)}\n" for key, v in s.items()) for name, s in sections.items()]
    (root / "etc/pip.conf").write_text("\n".join(text), encoding="utf-8")
    variables = environment()
    if Path(AUTHORITIES).is_dir():
        shutil.copytree(AUTHORITIES, root / AUTHORITIES.lstrip("/"), dirs_exist_ok=True)
    values = [*variables.values(), *(value for section in sections.values() for value in section.values())]
    for path in whole_folders(paths(values)):
        show(path, root)
    return variables


def whole_folders(found: list[Path]) -> list[Path]:
    """Return the files and folders to show.

    A folder of links, as an index of wheels is, needs what lies beside it. Of folders that belong to Debian's packages
    only files are taken.
    """
    result: list[Path] = []
    for path in found:
        shown = path
        if path.is_dir():
            if is_systems(path):
                continue
            shown = path.parent if len(path.parts) > 3 else path
        if not any(shown.is_relative_to(other) for other in result):
            result.append(shown)
    return result


def is_systems(path: Path) -> bool:
    """Whether Debian's own packages may want to write there."""
    return path.parts[1] in ("etc", "usr", "var", "lib", "bin", "sbin")


def show(path: Path, root: Path) -> None:
    """Let a file or folder of this machine stand at the same place below `root`, to be read only, or as a copy."""
    target = root / str(path).lstrip("/")
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_systems(path):
        shutil.copy(path, target)
        return
    if path.is_dir():
        target.mkdir()
    else:
        target.touch()
    subprocess.run(["mount", "--bind", path, target], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)


def indented(value: str) -> str:
    """Return a value of several lines as a configuration file holds it."""
    return value.replace("\n", "\n    ")
