#!/usr/bin/env python3
"""What continual adaptation makes of hours without the speech it is for, and how soon it is back.

    python benches/reference/collapse.py MANIFEST [--aurist target/release/aurist] [--minutes 60] [--methods guarded dsuta:...]

For each kind of disturbance (silence, white noise, chords of tones that glide, and French, German and Mandarin from
espeak-ng where that is on the PATH) one stream of so many minutes in utterances of five seconds, then MANIFEST's
utterances, goes through `aurist transcribe --adapt METHOD` in order. Printed per method: WER of the source model (the
`unadapted_text` of the same run) and of the method on the first 20 utterances after the disturbance, on the next 20, and so
on, and how often the method went back to the source model. A method is a name of --adapt, with options after a colon as
in `dsuta:reset=dynamic`. Needs numpy, and what whisper_ctc.py needs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from whisper_ctc import RATE, read_manifest, word_errors

SECONDS, WINDOW = 5, 20
FOREIGN = {
    "fr": "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient.",
    "de": "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett verwandelt.",
    "cmn": "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
}


def write(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def chords(generator):
    """Three tones with harmonics, each gliding by up to a third, faded in and out four times a second."""
    t = np.arange(SECONDS * RATE) / RATE
    sound = np.zeros_like(t)
    for base in generator.uniform(110, 880, 3):
        phase = 2 * np.pi * np.cumsum(base * (1 + generator.uniform(-0.2, 0.2) * t / SECONDS)) / RATE
        sound += sum(np.sin(k * phase) / k for k in (1, 2, 3))
    return 0.08 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))


def disturbances(directory, minutes):
    """{kind: the files of a stream}."""
    count, generator = round(minutes * 60 / SECONDS), np.random.default_rng(1)
    makers = {
        "silence": lambda: np.zeros(SECONDS * RATE),
        "noise": lambda: 0.1 * generator.standard_normal(SECONDS * RATE),
        "tones": lambda: chords(generator),
    }
    streams = {}
    for kind, make in makers.items():
        streams[kind] = [directory / f"{kind}-{n:04}.wav" for n in range(count)]
        for path in streams[kind]:
            write(path, make())
    if shutil.which("espeak-ng"):
        streams["foreign"] = [directory / f"foreign-{n:04}.wav" for n in range(count)]
        voices = list(FOREIGN.items())
        for n, path in enumerate(streams["foreign"]):
            voice, text = voices[n % len(voices)]
            speed, pitch = str(generator.integers(130, 200)), str(generator.integers(20, 80))
            subprocess.run(["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "-w", path, text], check=True)
    else:
        print("espeak-ng is not on the PATH: no foreign speech", file=sys.stderr)
    return streams


def run(aurist, method, files):
    name, _, options = method.partition(":")
    command = [aurist, "transcribe", "-m", "tiny.en-ctc", "--adapt", name, "-f", "json", "-j", "1", "--progress", "none"]
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        command += [f"--{key}{equals}{value}"]
    out = subprocess.run([*command, *map(str, files)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def rate(errors):
    return 100 * sum(e for e, _ in errors) / max(1, sum(words for _, words in errors))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--aurist", default="target/release/aurist")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--utterances", type=int, default=60, help="after the disturbance, the manifest's first ones")
    parser.add_argument("--kinds", nargs="*", default=["silence", "noise", "tones", "foreign"])
    parser.add_argument("--methods", nargs="*", default=["guarded", "csuta", "dsuta", "dsuta:reset=dynamic"])
    arguments = parser.parse_args()
    after = read_manifest(arguments.manifest)[: arguments.utterances]
    with tempfile.TemporaryDirectory() as directory:
        streams = disturbances(Path(directory), arguments.minutes)
        for kind in (kind for kind in arguments.kinds if kind in streams):
            for method in arguments.methods:
                files = [*streams[kind], *(line["audio_filepath"] for line in after)]
                documents = run(arguments.aurist, method, files)
                resets = [u["carried"]["reset"] for d in documents for u in d["utterances"] if u["carried"].get("reset")]
                cells = []
                for start in range(0, len(after), WINDOW):
                    part = documents[len(streams[kind]) + start :][:WINDOW]
                    texts = {key: [" ".join(u[key] for u in d["utterances"]) for d in part] for key in ("unadapted_text", "text")}
                    references = [line["text"] for line in after[start : start + WINDOW]]
                    none, adapted = ([word_errors(r, h) for r, h in zip(references, texts[key])] for key in texts)
                    cells.append(f"{rate(none):5.1f} {rate(adapted):5.1f}")
                print(f"{kind:8} {method:24} none, adapted by {WINDOW}: {' | '.join(cells)}   resets {len(resets)}", flush=True)


if __name__ == "__main__":
    main()
