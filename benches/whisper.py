#!/usr/bin/env python3
"""aurist's Whisper against faster-whisper (CTranslate2) and whisper.cpp on two threads: the time and the peak memory of both on the same
recordings, in alternating runs.

    whisper.py MODEL MANIFEST... [--clips N] [--minutes N] [--beam-size N ...] [--compute-type T ...] [--ggml FILE] [--runs N]

MODEL is a CTranslate2 directory (`reference/ctranslate2_encoder.py` fetches tiny.en's), a MANIFEST NeMo's JSON lines. Short
clips are taken in turn from the manifests; one long file is clips joined with half a second of silence between. Every run
is a process of its own, their time without imports and loading, aurist's with everything. None falls
back to other temperatures, whose draws are random. whisper.cpp is measured where --ggml names the same weights in its format
(`reference/ggml.py` makes them), as PyPI's `pywhispercpp` builds it. Whether text and times are the same is for
`reference/whisper_decoder.py`, which also has the word error rates. Needs `pip install faster-whisper pywhispercpp soundfile`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000


def theirs(arguments):
    """In a process of its own: transcribes and prints the seconds that took."""
    import soundfile

    if arguments["compute_type"].startswith("whisper.cpp"):
        return whisper_cpp(arguments)
    from faster_whisper import WhisperModel

    model = WhisperModel(arguments["model"], device="cpu", compute_type=arguments["compute_type"], cpu_threads=2)
    begin = time.perf_counter()
    for path in arguments["paths"]:
        segments, _ = model.transcribe(soundfile.read(path, dtype="float32")[0], language="en", beam_size=arguments["beam_size"], temperature=0.0)
        for _ in segments:
            pass
    print(time.perf_counter() - begin)


def whisper_cpp(arguments):
    """The same by whisper.cpp."""
    import soundfile
    from pywhispercpp.model import Model

    strategy = 0 if arguments["beam_size"] == 1 else 1
    model = Model(arguments["ggml"], params_sampling_strategy=strategy, n_threads=2, temperature_inc=0.0, print_progress=False,
                  greedy={"best_of": 1}, beam_search={"beam_size": arguments["beam_size"], "patience": -1.0})
    begin = time.perf_counter()
    for path in arguments["paths"]:
        model.transcribe(soundfile.read(path, dtype="float32")[0], language="en")
    print(time.perf_counter() - begin)


def measured(command, **options):
    """Standard output, wall-clock seconds and peak resident MB of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return output, time.perf_counter() - begin, usage.ru_maxrss / 1024


def run_theirs(model, paths, beam_size, compute_type, ggml):
    job = json.dumps({"model": str(model), "ggml": str(ggml), "paths": paths, "beam_size": beam_size, "compute_type": compute_type})
    output, _, memory = measured([sys.executable, __file__, "--theirs", job])
    return float(output.split()[-1]), memory


def run_ours(binary, model, paths, beam_size):
    command = [str(binary), "transcribe", *paths, "-m", str(model), "-f", "json", "--beam-size", str(beam_size), "--jobs", "1",
               "--temperature-fallback", "0", "--progress", "none"]
    _, seconds, memory = measured(command)
    return seconds, memory


def join(paths, minutes, folder):
    """One file of so many minutes."""
    import numpy as np
    import soundfile

    parts, length = [], 0
    for path in paths:
        if length >= minutes * 60 * RATE:
            break
        parts += [soundfile.read(path, dtype="float32")[0], np.zeros(RATE // 2, np.float32)]
        length += len(parts[-2]) + len(parts[-1])
    path = str(Path(folder) / "long.wav")
    soundfile.write(path, np.concatenate(parts)[: int(minutes * 60 * RATE)], RATE, subtype="FLOAT")
    return path, min(length, minutes * 60 * RATE) / RATE


def main():
    if sys.argv[1:2] == ["--theirs"]:
        return theirs(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=20, help="short clips; 0 leaves them out")
    parser.add_argument("--minutes", type=float, default=10, help="of the long file; 0 leaves it out")
    parser.add_argument("--beam-size", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--compute-type", nargs="+", default=["float32", "int8"])
    parser.add_argument("--ggml", type=Path, metavar="FILE", help="the model in whisper.cpp's format")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/aurist")
    arguments = parser.parse_args()
    lists = []
    for manifest in arguments.manifests:
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        lists.append([(str(manifest.parent / line["audio_filepath"]), line["duration"]) for line in lines])
    clips = [clip for group in zip(*lists) for clip in group]
    with tempfile.TemporaryDirectory() as folder:
        works = []
        if arguments.clips:
            chosen = clips[: arguments.clips]
            works.append((f"{len(chosen)} clips", [path for path, _ in chosen], sum(seconds for _, seconds in chosen)))
        if arguments.minutes:
            path, seconds = join([path for path, _ in clips], arguments.minutes, folder)
            works.append(("one file", [path], seconds))
        print("| recordings | beam | theirs | s | ours, s | theirs/ours, pair by pair | MB | ours, MB |")
        print("|---|---|---|---|---|---|---|---|")
        for name, paths, seconds in works:
            for beam_size in arguments.beam_size:
                for compute_type in arguments.compute_type + (["whisper.cpp"] if arguments.ggml else []):
                    pairs = []
                    for _ in range(arguments.runs):
                        their_side = run_theirs(arguments.model, paths, beam_size, compute_type, arguments.ggml)
                        pairs.append((their_side, run_ours(arguments.binary, arguments.model, paths, beam_size)))
                    times = [[side[0] for side in pair] for pair in pairs]
                    memory = [max(pair[side][1] for pair in pairs) for side in (0, 1)]
                    ratios = [a / b for a, b in times]
                    median = [statistics.median(pair[side] for pair in times) for side in (0, 1)]
                    print(f"| {name}, {seconds / 60:.1f} min | {beam_size} | {compute_type} | {median[0]:.1f} | {median[1]:.1f} | "
                          f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {memory[0]:.0f} | {memory[1]:.0f} |",
                          flush=True)


if __name__ == "__main__":
    sys.exit(main())
