"""Tries the README's commands as a newcomer would: `make fresh`.

A clean Debian is made with debootstrap in a folder of its own. There the README's apt line is run, the commit is cloned
by a new user, and the README's commands run. What this machine needs to reach its package registries (settings of apt
and pip, certificates, folders of wheels) is read from the machine when it runs and given to that Debian.
Needs Linux, root and debootstrap, and says so where they are missing. Uses Python's own library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import fresh_host

ROOT = Path(__file__).resolve().parent.parent
USER = "newcomer"
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Caches of nmsat, which nmsat cache --clear removes.\n"


@dataclass(frozen=True)
class Step:
    """One command in the new Debian: how it ended, how long it took, and what it said at last."""

    name: str
    code: int
    seconds: float
    last: list[str]


def apt_line(readme: str) -> str:
    """Return the README's line that installs what Debian has; ValueError unless there is exactly one."""
    found = re.findall(r"`(apt(?:-get)? install [^`]+)`", readme)
    if len(found) != 1:
        raise ValueError(f"README.md names {len(found)} apt lines; it must be exactly one")
    return found[0]


def readme_commands(readme: str) -> list[str]:
    """Return the commands of the README's first block."""
    block = re.search(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError("README.md has no block of commands")
    return block[1].splitlines()


def missing() -> str:
    """Return what this machine lacks, '' if nothing."""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "needs root, for chroot"
    for program, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("git", "git")):
        if shutil.which(program) is None:
            return f"needs {program} (apt install {package})"
    return ""


def cache() -> Path:
    """Return the folder that keeps the bare Debian and downloaded packages between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "nmsat" / "fresh"


def mark() -> None:
    """Make the folder of the caches as nmsat would, if there is none: `nmsat cache --clear` clears no other."""
    root = cache().parent
    if not root.exists():
        root.mkdir(parents=True)
        (root / "CACHEDIR.TAG").write_text(SIGNATURE, encoding="utf-8")


def bare(suite: str, place: Path, *, renew: bool) -> Path:
    """Return an archive of a Debian with nothing but its base system."""
    archive = cache() / f"{suite}.tar"
    if archive.exists() and not renew:
        return archive
    print(f"fresh: making a bare {suite}, kept in {archive}", flush=True)
    log = archive.with_suffix(".log")
    mirror = fresh_host.mirror()
    command = ["debootstrap", "--variant=minbase", suite, str(place / "bare"), *([mirror] if mirror else [])]
    with log.open("w", encoding="utf-8") as file, Clock("debootstrap"):
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            raise RuntimeError(f"debootstrap failed, see {log}")
    part = archive.with_suffix(".part")
    subprocess.run(["tar", "-C", place / "bare", "--one-file-system", "-cf", part, "."], check=True)
    part.replace(archive)
    return archive


class Debian:
    """An unpacked Debian. Parameters: root: its folder; log: file that takes all output."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self.log = log
        self.settings: dict[str, str] = {}

    def unpack(self, archive: Path) -> None:
        """Unpack the archive and give the system what every Linux has: /proc, /dev, name resolution."""
        subprocess.run(["tar", "-C", self.root, "-xpf", archive], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", self.root / "proc"], check=True)
        subprocess.run(["mount", "--rbind", "/dev", self.root / "dev"], check=True)
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", self.root / "etc" / name)

    def settle(self) -> None:
        """Hand over what this machine needs to reach its registries, and packages of earlier runs."""
        self.settings = fresh_host.hand_over(self.root)
        conf = self.root / "etc/apt/apt.conf.d"
        (conf / "90fresh").write_text('APT::Get::Assume-Yes "true";\nAPT::Keep-Downloaded-Packages "true";\n')
        self.share("debs", "/var/cache/apt/archives")
        self.run("user", ["useradd", "--create-home", "--shell", "/bin/bash", USER])
        self.share("pip", f"/home/{USER}/.cache/pip")
        self.run("owner", ["chown", "-R", f"{USER}:", f"/home/{USER}"])

    def share(self, name: str, inside: str) -> None:
        """Let a folder of the cache stand inside."""
        kept = cache() / name
        target = self.root / inside.lstrip("/")
        kept.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", kept, target], check=True)

    def clone(self, commit: str) -> None:
        """Clone the commit into the home of the new user, as `git clone` from a server would."""
        home = self.root / "home" / USER / "nmsat"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", "--no-checkout", ROOT, home], check=True)
        subprocess.run(["git", "-C", home, "checkout", "--quiet", "--detach", commit], check=True)
        self.run("owner", ["chown", "-R", f"{USER}:", f"/home/{USER}/nmsat"])

    def run(self, name: str, command: list[str], user: str = "root") -> Step:
        """Run a command and return how it went; all it says goes into the log."""
        home = "/root" if user == "root" else f"/home/{user}"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {"HOME": home, "PATH": path, "LANG": "C.UTF-8", "TERM": "dumb", **self.settings}
        if user == "root":
            env["DEBIAN_FRONTEND"] = "noninteractive"
        else:
            command = ["runuser", "-u", user, "--", *command]
        begin = time.monotonic()
        with self.log.open("ab") as log, Clock(name):
            start = log.tell()
            log.write(f"\n$ {shlex.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(
                ["chroot", self.root, *command], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        text = self.log.read_bytes()[start:].decode(errors="replace")
        lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        return Step(name, done.returncode, time.monotonic() - begin, lines)

    def megabytes(self, inside: str) -> float:
        """Return the size of a folder on disk."""
        done = subprocess.run(
            ["du", "-sBk", self.root / inside.lstrip("/")], capture_output=True, text=True, check=True
        )
        return int(done.stdout.split("K")[0]) / 1024


class Clock:
    """Says every ten seconds what is running and for how long: in one line on a terminal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._terminal = sys.stdout.isatty()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _tell(self) -> None:
        begin = time.monotonic()
        while not self._end.wait(10):
            text = f"fresh: {self._name}, {time.monotonic() - begin:.0f} s"
            print(f"\r{text}" if self._terminal else text, end="" if self._terminal else "\n", flush=True)
        if self._terminal:
            print("\r\033[K", end="", flush=True)


def last_lines(step: Step, count: int) -> list[str]:
    """Return what tells how a step went: of apt what it fetched, else the end."""
    if step.name.startswith("apt") and not step.code:
        return [line for line in step.last if line.startswith(("Need to get", "After this operation"))]
    return step.last[-count:]


def tried(options: argparse.Namespace, place: Path) -> int:
    """Make the Debian, run everything in it, print the summary; return an exit code."""
    readme = subprocess.run(
        ["git", "-C", ROOT, "show", f"{options.commit}:README.md"], capture_output=True, text=True, check=True
    ).stdout
    line = apt_line(readme)
    commands = [command for command in readme_commands(readme) if command.split()[-1] in options.steps]
    debian = Debian(place / "root", options.log)
    debian.root.mkdir()
    debian.unpack(bare(options.suite, place, renew=options.renew))
    debian.settle()
    debian.run("apt-get update", ["apt-get", "update"])
    steps = [debian.run(line, shlex.split(line))]
    debian.clone(options.commit)
    python = debian.run("python", ["python3", "--version"]).last[-1]
    for command in commands:
        if not steps[-1].code:
            steps.append(debian.run(command, ["bash", "-lc", f"cd ~/nmsat && {command}"], USER))
    system = (debian.root / "etc/debian_version").read_text(encoding="utf-8").strip()
    print(f"\nfresh: Debian {system} ({options.suite}), {python}, commit {options.commit[:12]}, log {options.log}")
    for step in steps:
        result = "ok" if not step.code else f"FAILED with exit code {step.code}"
        print(f"\n$ {step.name}    {result}, {step.seconds:.0f} s")
        print("\n".join(f"    {text}" for text in last_lines(step, 12 if not step.code else 40)))
    venv = f"/home/{USER}/nmsat/.venv"
    if (debian.root / venv.lstrip("/")).exists():
        print(f"\n.venv takes {debian.megabytes(venv):.0f} MB")
    failed = [step.name for step in steps if step.code]
    print(f"fresh: {'FAILED: ' + failed[0] if failed else 'passed: ' + ', '.join(s.name for s in steps)}", flush=True)
    return int(bool(failed))


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="bookworm", help="Debian to try (default: bookworm)")
    parser.add_argument("--steps", default="demo test", type=str.split, help="targets of make (default: demo test)")
    parser.add_argument("--commit", default="HEAD", help="what is cloned (default: HEAD)")
    parser.add_argument("--log", type=Path, default=cache() / "last.log", help="file for all output")
    parser.add_argument("--renew", action="store_true", help="make the bare Debian anew")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--verify", f"{options.commit}^{{commit}}"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return options


def main(arguments: list[str]) -> int:
    """Run in name spaces of its own: no mount and no process outlives them, so the folder can be removed safely."""
    options = parsed(arguments)
    if lack := missing():
        print(f"fresh: skipped: {lack}")
        return 0
    if options.inside:
        return tried(options, options.inside)
    mark()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.write_bytes(b"")
    place = Path(tempfile.mkdtemp(prefix="nmsat-fresh-", dir="/var/tmp"))
    names = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    try:
        place.chmod(0o755)
        words = [*names, sys.executable, str(Path(__file__).resolve()), *arguments, "--inside", str(place)]
        return subprocess.run(words, check=False).returncode
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"fresh: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("fresh: interrupted", file=sys.stderr)
        sys.exit(130)
