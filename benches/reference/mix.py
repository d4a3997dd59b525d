"""The mixture that `aurist bench --noise NOISE@SNR --write-mixed DIR` makes, in twenty lines.

    python benches/reference/mix.py CLEAN NOISE SNR OUT.wav      # 16 kHz mono recordings
    python benches/reference/mix.py CLEAN NOISE SNR --check MIXED.wav

The noise is tiled from its first sample, cut to the speech's length and scaled by RMS to the ratio; the sum is clipped.
"""

import sys

import numpy as np
import soundfile as sf


def mix(clean, noise, snr):
    noise = np.resize(noise, len(clean))
    rms = lambda x: np.sqrt(np.mean(np.square(x)))
    gain = rms(clean) / rms(noise) * 10 ** (-snr / 20)
    return np.clip(clean + gain * noise, -1, 1)


clean, noise = (sf.read(path)[0] for path in sys.argv[1:3])
mixed = mix(clean, noise, float(sys.argv[3]))
if sys.argv[4] == "--check":
    difference = np.abs(mixed - sf.read(sys.argv[5])[0]).max()
    print(f"largest difference {difference:.2e} (half a 16-bit step is {0.5 / 32768:.2e})")
    sys.exit(int(difference > 0.51 / 32768))
sf.write(sys.argv[4], np.minimum(np.round(mixed * 32768), 32767).astype(np.int16), 16000)
