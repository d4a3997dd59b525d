#!/usr/bin/env python3
"""What streaming costs in words: a set's clips one after another, heard by `aurist listen` and by `aurist transcribe`.

Both are unadapted. `finals` are the captions as they end, committed words kept; `wholes` the same utterances recognised as a
whole (the revisions); `transcribe` the file in one go. `--speed 0` skips nothing, so the result is the same on any machine.
Needs what live.py needs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from live import errors, normal

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000


def recording(manifest, limit, pause, path):
    """Writes the clips with pauses behind them; gives the reference and how many clips."""
    parts, words = [], []
    lines = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()][:limit]
    for line in lines:
        samples, rate = soundfile.read(manifest.parent / line["audio_filepath"], dtype="float32")
        if rate != RATE or samples.ndim != 1:
            sys.exit(f"{line['audio_filepath']}: wanted one channel of {RATE} Hz")
        parts += [samples, np.zeros(round(pause * RATE), "float32")]
        words += normal(line["text"])
    soundfile.write(path, np.concatenate(parts), RATE)
    return words, len(lines)


def heard(command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("manifests", nargs="+", type=Path, help="NeMo-style manifests of 16 kHz mono clips")
    add("--aurist", type=Path, default=ROOT / "target/release/aurist", metavar="PATH")
    add("--limit", type=int, metavar="N", help="clips of each")
    add("--pause", type=float, default=1.2, metavar="S", help="between clips (default 1.2)")
    settings = parser.parse_args()
    wrong, total = {}, 0
    print("| set | clips | words | finals | wholes | transcribe |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recording.wav"
        for manifest in settings.manifests:
            reference, clips = recording(manifest, settings.limit, settings.pause, path)
            listen = [settings.aurist, "listen", "--input", path, "--speed", "0", "--json", "--adapt", "none"]
            events = [json.loads(line) for line in heard(listen).splitlines()]
            texts = {
                kind: " ".join(event["text"] for event in events if event["type"] == kind)
                for kind in ("final", "revision")
            }
            texts["transcribe"] = heard([settings.aurist, "transcribe", path, "-m", "tiny.en-ctc", "--adapt", "none", "--progress", "none"])
            words, cells = len(reference), []
            total += words
            for kind, text in texts.items():
                found = errors(reference, normal(text))
                wrong[kind] = wrong.get(kind, 0) + found
                cells.append(f"{100 * found / words:.1f}")
            print(f"| {manifest.stem} | {clips} | {words} | {' | '.join(cells)} |", flush=True)
    print(f"| all | | {total} | {' | '.join(f'{100 * found / total:.1f}' for found in wrong.values())} |")


if __name__ == "__main__":
    main()
