#!/usr/bin/env python3
"""Measures aurist beside its PyTorch reference: same clips, same threads, in turns, each in a process of its own.

Every process hears the clip twice, under two names, and reports the second hearing's compute time, so both are warm;
reading the model and the file is counted in neither. Who goes first changes from pair to pair, the speed-up is the
median of each pair's ratio, so a machine that slows down during the run slows both. Peak memory is the whole
process's, as the kernel reports it: PyTorch's includes the interpreter and its libraries, and none can be seen below
this script's own, about 20 MiB.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RATE = 16_000
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Measurement:
    """One process's second hearing of a clip."""

    compute: float  # seconds
    wall: float  # seconds, of the whole process with both hearings
    peak: int  # bytes
    text: str
    pieces: int  # utterances the clip was cut into
    heard: float  # seconds of audio in them


def make_clips(manifest, seconds, paths):
    """16-bit wavs of `seconds`: the manifest's clips one after another, from the start again where they run out.

    They differ in the last sample's last bit, so that no program that knows a recording by its content skips one.
    """
    # Imported here, in a process that ends: the kernel counts a parent's size as its children's until they have grown.
    import numpy as np
    import soundfile

    lines = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
    wanted, parts, have = round(seconds * RATE), [], 0
    while have < wanted:
        for line in lines:
            samples, rate = soundfile.read(manifest.parent / line["audio_filepath"], dtype="float32", always_2d=True)
            if rate != RATE or not len(samples):
                sys.exit(f"{line['audio_filepath']}: wanted a recording of {RATE} Hz")
            parts.append(samples.mean(axis=1))
            have += len(samples)
            if have >= wanted:
                break
    samples = (np.concatenate(parts)[:wanted] * 32767).astype(np.int16)
    for number, path in enumerate(paths):
        samples[-1] = number
        soundfile.write(path, samples, RATE, subtype="PCM_16")


def run(command, threads):
    """(wall seconds, peak bytes) of a command held to so many threads; its failure ends the run."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))}: exit status {process.returncode}\n{log.read()[-2000:]}")
    # The kernel counts kibibytes on Linux and bytes on macOS.
    return wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_aurist(settings, adapt, clips, scratch):
    out = Path(tempfile.mkdtemp(dir=scratch))
    command = [settings.aurist, "transcribe", "-m", settings.model, "-f", "json", "-o", out, "--jobs", 1]
    command += ["--progress", "none", "--adapt", adapt]
    if adapt == "suta":
        command += ["--steps", settings.steps, "--lr", settings.lr, "--parameters", settings.parameters]
    wall, peak = run([*command, *clips], settings.threads)
    (path,) = out.rglob(f"{clips[1].stem}*.json")
    utterances = json.loads(path.read_text())["utterances"]
    return Measurement(
        compute=sum(utterance["compute_seconds"] for utterance in utterances),
        wall=wall,
        peak=peak,
        text=" ".join(utterance["text"] for utterance in utterances if utterance["text"]),
        pieces=len(utterances),
        heard=sum(utterance["end"] - utterance["start"] for utterance in utterances),
    )


def measure_reference(settings, adapt, clips, scratch):
    out = Path(tempfile.mkdtemp(dir=scratch)) / "report.json"
    command = [settings.python, ROOT / "benches/reference/suta.py", "--model", settings.model, "--adapt", adapt]
    command += ["--threads", settings.threads, "--warm-up", "--json", out, "--loop", settings.loop]
    if adapt == "suta":
        command += ["--steps", settings.steps, "--lr", settings.lr, "--parameters", settings.parameters]
    wall, peak = run([*command, *clips], settings.threads)
    clip = json.loads(out.read_text())["clips"][1]
    return Measurement(clip["seconds"], wall, peak, clip["text"], 1, clip["duration"])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--aurist", type=Path, default=ROOT / "target/release/aurist", metavar="PATH", help="the binary to measure")
    add("--python", default=sys.executable, metavar="PATH", help="the reference's Python (default: this one)")
    add("--model", type=Path, default=ROOT / "models/whisper-tiny.en-ctc", metavar="DIR")
    add("--manifest", type=Path, default=ROOT / "tests/data/librivox.jsonl", metavar="FILE", help="where speech comes from")
    # A little under 30 s: there aurist may cut, and the model's positions end.
    add("--lengths", type=float, nargs="+", default=[2, 10, 29], metavar="S", help="seconds (default 2 10 29)")
    add("--adapt", nargs="+", choices=["none", "suta"], default=["none", "suta"])
    add("--steps", type=int, default=10)
    add("--lr", type=float, default=1e-3)
    add("--parameters", default="layer-norm", choices=["layer-norm", "feature", "layer-norm+feature", "bias"])
    add("--loop", choices=["reference", "minimal"], default="reference", help="the PyTorch loop: the authors' or ours")
    add("--threads", type=int, default=os.cpu_count(), help="of each (default: as many as processors)")
    add("--repeats", type=int, default=5, metavar="N", help="pairs for each row (default 5)")
    add("--json", type=Path, metavar="OUT", help="write every measurement here")
    return parser.parse_args()


def main():
    settings = parse_arguments()
    if not settings.aurist.exists():
        sys.exit(f"{settings.aurist} is not there: build it with `cargo build --release`, or give --aurist")
    rows, notes, record = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for seconds in settings.lengths:
            clips = [Path(scratch) / f"{name}-{seconds:g}s.wav" for name in ("first", "second")]
            maker = multiprocessing.Process(target=make_clips, args=(settings.manifest, seconds, clips))
            maker.start()
            maker.join()
            if maker.exitcode:
                sys.exit("the clips could not be made")
            for adapt in settings.adapt:
                pairs = []
                for repeat in range(settings.repeats):
                    turns = [("aurist", measure_aurist), ("reference", measure_reference)]
                    if repeat % 2:
                        turns.reverse()
                    pairs.append({name: measure(settings, adapt, clips, scratch) for name, measure in turns})
                ours, theirs = ([pair[name] for pair in pairs] for name in ("aurist", "reference"))
                ratio = statistics.median(b.compute / a.compute for a, b in zip(ours, theirs))
                cells = [adapt, f"{seconds:g}"]
                cells += [f"{statistics.median(m.compute for m in side) / seconds:.4f}" for side in (ours, theirs)]
                cells += [f"{ratio:.2f}"]
                cells += [f"{statistics.median(m.peak for m in side) / 2**20:.0f}" for side in (ours, theirs)]
                cells += ["yes" if ours[0].text == theirs[0].text else "no"]
                rows.append(cells)
                if ours[0].pieces != 1 or ours[0].heard < 0.95 * seconds:
                    notes.append(f"At {seconds:g} s, {adapt}, aurist heard {ours[0].heard:.1f} s in {ours[0].pieces} "
                                 f"utterances, PyTorch the whole clip in one: the row is not like for like.")
                for pair in pairs:
                    record += [{"engine": name, "adapt": adapt, "seconds": seconds} | vars(m) for name, m in pair.items()]
                print(f"{adapt}, {seconds:g} s: {ratio:.2f} times as fast", file=sys.stderr)

    if settings.json:
        chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
        settings.json.write_text(json.dumps({"settings": chosen, "measurements": record}, indent=1) + "\n")
    print(f"Threads: {settings.threads}; medians of {settings.repeats} pairs; SUTA: {settings.steps} steps, "
          f"{settings.parameters}, PyTorch's loop: {settings.loop}. Memory in MiB.\n")
    header = ["adapt", "clip, s", "aurist RTF", "PyTorch RTF", "times as fast", "aurist peak", "PyTorch peak", "same text"]
    for cells in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(cells)} |")
    for note in notes:
        print(f"\n{note}")


if __name__ == "__main__":
    main()
