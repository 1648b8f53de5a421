"""What the columns, labels and files of OPPORTUNITY are.

Facts of the archive's own documents (opportunity_uci/) and of the preprocessing that Ordonez and Roggen released with
DeepConvLSTM (Sensors 16(1):115, 2016): 113 channels of 19 body-worn devices, of the 250 columns of a .dat file.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

NUM_COLUMNS = 250
TIME_COLUMN = 0  # milliseconds since the recording began; 30 samples a second
SAMPLES_PER_SECOND = 30

TRAINING_RUNS = tuple(f"S1-{r}" for r in ("Drill", "ADL1", "ADL2", "ADL3", "ADL4", "ADL5")) + tuple(
    f"S{s}-{r}" for s in (2, 3) for r in ("Drill", "ADL1", "ADL2", "ADL3")
)
TEST_RUNS = ("S2-ADL4", "S2-ADL5", "S3-ADL4", "S3-ADL5")
RUNS = TRAINING_RUNS + TEST_RUNS  # subject 4 is never used

# Task -> its label column (0-based) and its track in label_legend.txt.
TASKS = {"locomotion": (243, "Locomotion"), "gestures": (249, "ML_Both_Arms")}
LABEL_TRACKS = (
    "Locomotion",
    "HL_Activity",
    "LL_Left_Arm",
    "LL_Left_Arm_Object",
    "LL_Right_Arm",
    "LL_Right_Arm_Object",
    "ML_Both_Arms",
)  # of columns 243-249


@dataclass(frozen=True)
class Device:
    """One modality: `width` neighbouring columns from `first_column` (0-based); `thresholds` are its (min, max)."""

    name: str
    first_column: int
    thresholds: tuple[tuple[float, float], ...]

    @property
    def width(self) -> int:
        return len(self.thresholds)


_ACCELEROMETER = ((-3000.0, 3000.0),) * 3  # milli-g
_IMU = (*_ACCELEROMETER, *((-10000.0, 10000.0),) * 3, *((-1000.0, 1500.0),) * 3)  # then gyroscope and magnetometer
_SHOE = (
    *((-250.0, 250.0), (-100.0, 25.0), (-200.0, 200.0)),  # Euler angles, degrees
    *((-5000.0, 5000.0),) * 6,  # acceleration in the navigation and the body frame, milli-g
    *((-10000.0, 10000.0),) * 6,  # angular velocity in the body and the navigation frame
    (-250.0, 250.0),  # compass, degrees
)
# Body parts, in the archive's abbreviations: RKN right knee, LUA/RUA left and right upper arm, LLA/RLA lower arm, LH/RH
# hand, LWR/RWR wrist; "^" is upper, "_" lower. Each IMU also has a quaternion (4 columns), which nobody keeps.
_ACCELEROMETER_PLACES = (
    *("rkn_upper", "hip", "lua_upper", "rua_lower", "lh", "back"),
    *("rkn_lower", "rwr", "rua_upper", "lua_lower", "lwr", "rh"),
)
DEVICES = (
    *(Device(f"acc_{place}", 1 + 3 * i, _ACCELEROMETER) for i, place in enumerate(_ACCELEROMETER_PLACES)),
    *(Device(f"imu_{place}", 37 + 13 * i, _IMU) for i, place in enumerate(("back", "rua", "rla", "lua", "lla"))),
    Device("shoe_left", 102, _SHOE),
    Device("shoe_right", 118, _SHOE),
)
NUM_CHANNELS = sum(d.width for d in DEVICES)
CHANNEL_COLUMNS = tuple(d.first_column + i for d in DEVICES for i in range(d.width))


def channel_range(device: Device) -> tuple[int, int]:
    """First channel of a device, of the 113, and the one after its last."""
    first = CHANNEL_COLUMNS.index(device.first_column)
    return first, first + device.width


def thresholds() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimum and maximum (113,) that the released code maps to 0 and 1."""
    pairs = np.array([pair for d in DEVICES for pair in d.thresholds])
    return pairs[:, 0], pairs[:, 1]


def _document(name: str) -> list[str]:
    return (files(__package__) / "opportunity_uci" / name).read_text(encoding="ascii").splitlines()


@cache
def column_names() -> tuple[str, ...]:
    """The 250 names of column_names.txt, such as `Accelerometer RKN^ accX`."""
    lines = (line.removeprefix("Column: ") for line in _document("column_names.txt") if line.startswith("Column: "))
    return tuple(line.split(";")[0].split(" ", 1)[1] for line in lines)


@cache
def label_track(track: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Codes and names of a label column, class by class: 0 (Null), then the order of label_legend.txt."""
    rows = [[part.strip() for part in line.split("   -   ")] for line in _document("label_legend.txt")]
    labels = [(int(row[0]), row[2]) for row in rows if len(row) == 3 and row[1] == track]
    return (0, *(code for code, _ in labels)), ("Null", *(name for _, name in labels))


@dataclass(frozen=True)
class PublishedFile:
    size: int  # bytes
    sha256: str


@cache
def manifest() -> dict[str, PublishedFile]:
    """The published .dat file of each recording, subject 4's too."""
    rows = [line.split() for line in _document("dat_manifest.txt")]
    return {path.split("/")[-1].removesuffix(".dat"): PublishedFile(int(size), sha) for sha, size, _, path in rows}
