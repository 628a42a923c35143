"""Build the wheel, install it alone into an empty environment, and run its commands from another folder.

Usage: python scripts/check_wheel.py
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = ("scfm-prepare", "scfm-train", "scfm-finetune", "scfm-embed", "scfm-evaluate")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed.

    Raises:
        CalledProcessError: it failed; its output is on the screen.
    """
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
        done.check_returncode()
    return done.stdout


def main() -> None:
    """Exit with an error when any command of the installed wheel fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPOSITORY, cwd=folder)
        (wheel,) = folder.glob("*.whl")
        print(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
        venv.create(folder / "env", with_pip=True)
        binaries = folder / "env" / "bin"
        constraints = REPOSITORY / "constraints.txt"
        run(binaries / "python", "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=folder)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        assert "backbone" in run(binaries / "scfm-train", "--cfg", "job", cwd=elsewhere)
        for command in COMMANDS:
            assert "scfm" in run(binaries / command, "--help", cwd=elsewhere), command
            print(f"{command} --help answers from another folder")


if __name__ == "__main__":
    main()
