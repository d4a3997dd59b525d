#!/usr/bin/env python3
"""Measures aurist beside its PyTorch reference: same clips, same threads, in turns, each in a process of its own.

Every process first hears as much of the same speech (10 s at most) and then the clip, and reports the clip's compute time, so
both are warm, their memory too; reading the model and the file is counted in neither. Who goes first changes from pair to pair, the speed-up is the
median of each pair's ratio, so a machine that slows down during the run slows both. Peak memory is the whole
process's, as the kernel reports it: PyTorch's includes the interpreter and its libraries, and none can be seen below
this script's own, about 20 MiB.

The share of the sgemm rate is aurist's matrix operations (flops.py) a second, against the best rate at which PyTorch
multiplied matrices of 1024 x 1024 during the row, with the same threads.
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

import flops

RATE = 16_000
WARM_UP = 10  # seconds, at most
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Measurement:
    """One process's hearing of a clip."""

    compute: float  # seconds
    wall: float  # seconds, of the whole process
    peak: int  # bytes
    text: str
    pieces: int  # utterances the clip was cut into
    heard: float  # seconds of audio in them
    sgemm: float = 0.0  # GFLOP/s that PyTorch's process measured


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


def measure_aurist(settings, adapt, parameters, clips, scratch):
    out = Path(tempfile.mkdtemp(dir=scratch))
    command = [settings.aurist, "transcribe", "-m", settings.model, "-f", "json", "-o", out, "--jobs", 1]
    command += ["--progress", "none", "--adapt", adapt]
    if adapt == "suta":
        command += ["--steps", settings.steps, "--lr", settings.lr, "--parameters", parameters]
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


def measure_reference(settings, adapt, parameters, clips, scratch):
    out = Path(tempfile.mkdtemp(dir=scratch)) / "report.json"
    script = "suta.py" if read_config(settings.model)["model_type"] == "whisper" else "suta_family.py"
    command = [settings.python, ROOT / "benches/reference" / script, "--model", settings.model, "--adapt", adapt]
    command += ["--threads", settings.threads, "--json", out, "--loop", settings.loop]
    if adapt == "suta":
        command += ["--steps", settings.steps, "--lr", settings.lr, "--parameters", parameters]
    wall, peak = run([*command, *clips], settings.threads)
    report = json.loads(out.read_text())
    clip = report["clips"][1]
    return Measurement(clip["seconds"], wall, peak, clip["text"], 1, clip["duration"], report["sgemm_gflops"])


def read_config(model):
    """A model's config.json; what transformers leaves out there has wav2vec2-base's values."""
    defaults = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "vocab_size": 32}
    return defaults | json.loads((Path(model) / "config.json").read_text())


def add_arguments(parser):
    """The options of a paired measurement."""
    add = parser.add_argument
    add("--aurist", type=Path, default=ROOT / "target/release/aurist", metavar="PATH", help="the binary to measure")
    add("--python", default=sys.executable, metavar="PATH", help="the reference's Python (default: this one)")
    add("--manifest", type=Path, default=ROOT / "tests/data/librivox.jsonl", metavar="FILE", help="where speech comes from")
    # A little under 30 s: there aurist may cut, and the bundled model's positions end.
    add("--lengths", type=float, nargs="+", default=[2, 10, 29], metavar="S", help="seconds (default 2 10 29)")
    add("--steps", type=int, default=10)
    add("--loop", choices=["reference", "minimal"], default="reference", help="the PyTorch loop: the authors' or ours")
    add("--threads", type=int, default=os.cpu_count(), help="of each (default: as many as processors)")
    add("--repeats", type=int, default=5, metavar="N", help="pairs for each row (default 5)")
    add("--long-repeats", type=int, metavar="N", help="pairs for each row of more than 15 s (default: as many)")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "models/whisper-tiny.en-ctc", metavar="DIR")
    add("--lr", type=float, default=1e-3)
    add("--parameters", nargs="+", default=["none", "layer-norm"], metavar="SET",
        help="what moves: none, layer-norm, feature, layer-norm+feature; a row for each (default none layer-norm)")
    add("--json", type=Path, metavar="OUT", help="write every measurement here")
    return parser.parse_args()


HEADER = ["adapts", "clip, s", "aurist RTF", "PyTorch RTF", "times as fast", "least", "most", "of sgemm",
          "aurist peak", "PyTorch peak", "same text"]


def repeats_of(settings, seconds):
    return settings.long_repeats if seconds > 15 and settings.long_repeats else settings.repeats


def row(settings, seconds, parameters, clips, scratch):
    """(cells, note, measurements) of one setting and one length."""
    adapt = "none" if parameters == "none" else "suta"
    pairs = []
    for repeat in range(repeats_of(settings, seconds)):
        turns = [("aurist", measure_aurist), ("reference", measure_reference)]
        if repeat % 2:
            turns.reverse()
        pairs.append({name: measure(settings, adapt, parameters, clips, scratch) for name, measure in turns})
    ours, theirs = ([pair[name] for pair in pairs] for name in ("aurist", "reference"))
    ratios = [b.compute / a.compute for a, b in zip(ours, theirs)]
    work = flops.utterance(read_config(settings.model), seconds, adapt, parameters, settings.steps)
    compute = statistics.median(m.compute for m in ours)
    share = work / compute / 1e9 / max(m.sgemm for m in theirs)
    cells = [parameters, f"{seconds:g}"]
    cells += [f"{statistics.median(m.compute for m in side) / seconds:.4f}" for side in (ours, theirs)]
    cells += [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}", f"{100 * share:.0f} %"]
    cells += [f"{statistics.median(m.peak for m in side) / 2**20:.0f}" for side in (ours, theirs)]
    cells += ["yes" if ours[0].text == theirs[0].text else "no"]
    note = None
    if ours[0].pieces != 1 or ours[0].heard < 0.95 * seconds:
        note = (f"At {seconds:g} s, {parameters}, aurist heard {ours[0].heard:.1f} s in {ours[0].pieces} utterances, "
                f"PyTorch the whole clip in one: the row is not like for like.")
    record = [{"engine": name, "adapts": parameters, "seconds": seconds} | vars(m)
              for pair in pairs for name, m in pair.items()]
    print(f"{parameters}, {seconds:g} s: {cells[4]} times as fast", file=sys.stderr, flush=True)
    return cells, note, record


def clips_of(manifest, seconds, scratch, names=("clip",)):
    """Paths of new clips of one length."""
    clips = [Path(scratch) / f"{name}-{seconds:g}s.wav" for name in names]
    maker = multiprocessing.Process(target=make_clips, args=(manifest, seconds, clips))
    maker.start()
    maker.join()
    if maker.exitcode:
        sys.exit("the clips could not be made")
    return clips


def table(settings):
    """(Markdown, measurements): a row for each length and set of parameters."""
    rows, notes, record = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for seconds in settings.lengths:
            # The second of two, so that it differs from the clip.
            clips = clips_of(settings.manifest, min(WARM_UP, seconds), scratch, ["unused", "warm-up"])[1:]
            clips += clips_of(settings.manifest, seconds, scratch)
            for parameters in settings.parameters:
                cells, note, measured = row(settings, seconds, parameters, clips, scratch)
                rows.append(cells)
                notes += [note] if note else []
                record += measured
    rates = [entry["sgemm"] for entry in record if entry["sgemm"]]
    pairs = f"{settings.repeats}"
    if settings.long_repeats:
        pairs += f" (of more than 15 s: {settings.long_repeats})"
    text = (f"Threads: {settings.threads}; medians of {pairs} pairs; SUTA: {settings.steps} steps, PyTorch's "
            f"loop: {settings.loop}; its matrix products: {statistics.median(rates):.0f} GFLOP/s (median), "
            f"{max(rates):.0f} (most). Memory in MiB.\n\n")
    text += markdown(HEADER, rows)
    return text + "".join(f"\n{note}\n" for note in notes), record


def markdown(header, rows):
    lines = [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines) + "\n"


def check_binary(settings):
    if not settings.aurist.exists():
        sys.exit(f"{settings.aurist} is not there: build it with `cargo build --release`, or give --aurist")


def main():
    settings = parse_arguments()
    check_binary(settings)
    text, record = table(settings)
    if settings.json:
        chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
        settings.json.write_text(json.dumps({"settings": chosen, "measurements": record}, indent=1) + "\n")
    print(text, end="")


if __name__ == "__main__":
    main()
