"""Sound files to MFCC, as the released code of Chumachenko, Iosifidis and Gabbouj (ICPR 2022) has librosa 0.8.1 do it.

Two differences. A clip of exactly 3.6 s, of which nothing is left there, is kept. And the 16-bit file that it writes
between cutting and MFCC is left out: whether a filter's last trace in digital silence is rounded to 0 or to 1 moves the
MFCC of a silent window by tens of dB, and no two resamplers agree on it.
"""

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from multimodal_loss.datasets.ravdess_files import Recording
from multimodal_loss.errors import UserError

RATE = 22_050  # samples a second
SAMPLES = 79_380  # 3.6 s
COEFFICIENTS, STEPS = 10, 156
AT_ONCE = 64  # clips in one transform: 20 MB of samples
READERS = 2


def mfcc_of(recordings: Iterable[Recording]) -> Tensor:
    """(N, 10, 156) float32. Raises UserError, naming the file, for what is not sound or has none."""
    every = list(recordings)
    parts = []
    with ThreadPoolExecutor(READERS) as pool:  # decoding does not hold the GIL
        for start in range(0, len(every), AT_ONCE):
            parts.append(mfcc(torch.stack(list(pool.map(read_sound, every[start : start + AT_ONCE])))))
    return torch.cat(parts) if parts else torch.empty(0, COEFFICIENTS, STEPS)


def read_sound(recording: Recording) -> Tensor:
    """(79380,) float32 in [-1, 1]: channels averaged, then resampled to 22,050 Hz, then cut to 3.6 s.

    Raises UserError that names the file.
    """
    import soundfile

    content = recording.read()
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise UserError(f"{recording}: not a sound file ({error}); {recording.cure}") from error
    if not len(samples):
        raise UserError(f"{recording}: holds no sound; {recording.cure}")
    return cut(_resampler(rate)(torch.from_numpy(samples).mean(dim=1)))


def cut(sound: Tensor) -> Tensor:
    """(T,) to (79380,): zeros behind a shorter one, the middle of a longer one."""
    start = max(len(sound) - SAMPLES, 0) // 2
    kept = sound[start : start + SAMPLES]
    return torch.nn.functional.pad(kept, (0, SAMPLES - len(kept)))


def mfcc(sound: Tensor) -> Tensor:
    """(B, 79380) at 22,050 Hz to (B, 10, 156): librosa.feature.mfcc(n_mfcc=10) with what it defaulted to in 0.8.1.

    2048 samples a window (Hann, centred, reflected at the ends), 512 from one to the next; power in 128 mel bands of
    Slaney's scale and norm; dB down to 80 below the clip's loudest band; DCT-II, orthonormal.
    """
    # One channel each: of a tensor with three dimensions torchaudio would take the loudest band over all clips.
    values: Tensor = _transform()(sound[:, None])
    return values[:, 0]


@cache
def _resampler(rate: int) -> Callable[[Tensor], Tensor]:
    """To 22,050 Hz by the filter that librosa 0.8.1 calls kaiser_best (torchaudio's documentation has its numbers)."""
    from torchaudio.transforms import Resample

    return Resample(  # type: ignore[no-any-return]
        rate,
        RATE,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )


@cache
def _transform() -> Callable[[Tensor], Any]:
    from torchaudio.transforms import MFCC

    options = {"n_fft": 2048, "hop_length": 512, "n_mels": 128, "mel_scale": "slaney", "norm": "slaney"}
    return MFCC(RATE, COEFFICIENTS, melkwargs={**options, "power": 2.0, "center": True, "pad_mode": "reflect"})  # type: ignore[no-any-return]
