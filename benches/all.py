#!/usr/bin/env python3
"""Every measurement that the documentation shows, in one go, as Markdown.

Sections, all by default: `bundled` and `wav2vec2`, speed and memory beside PyTorch (see paired.py; wav2vec2-base's
architecture with random weights, made on first use); `lengths`, cost against a clip's length; `files`, cost against the
number of files; `directory`, 300 files with one and with two at a time; `start`, from starting the program to its first
byte of text; `growth`, memory over 10,000 utterances. The machine should do nothing else meanwhile.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import paired
from paired import ROOT, clips_of, markdown, run

SECTIONS = ["bundled", "wav2vec2", "lengths", "files", "directory", "start", "growth"]
FAMILY = ["none", "layer-norm", "layer-norm+feature"]
BUNDLED = ROOT / "models/whisper-tiny.en-ctc"


def pairs(settings, model, parameters, lr):
    chosen = vars(settings) | {"model": model, "parameters": parameters, "lr": lr}
    return paired.table(Namespace(**chosen))[0]


def bundled(settings):
    return "The bundled CTC model beside PyTorch", pairs(settings, BUNDLED, ["none", "layer-norm"], 1e-3)


def wav2vec2(settings):
    model = settings.wav2vec2
    if not (model / "model.safetensors").exists():
        script = ROOT / "benches/reference/full_size.py"
        subprocess.run([settings.python, script, "--model-only", "--out", model], check=True)
    return "wav2vec2-base's architecture beside PyTorch", pairs(settings, model, FAMILY, 2e-5)


def transcribe(settings, paths, *options, jobs=1):
    """(wall seconds, peak bytes) of a run into a new directory."""
    with tempfile.TemporaryDirectory() as out:
        command = [settings.aurist, "transcribe", "-m", BUNDLED, "-o", out, "--progress", "none", "--jobs", jobs, *options, *paths]
        return run(command, settings.threads)


def lengths(settings):
    """Several clips of each length a run, so that starting weighs little: its time is taken off."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seconds in (1, 2, 5, 10, 20, 29):
            count = max(2, round(40 / seconds))
            clips = clips_of(settings.manifest, seconds, scratch, [f"clip{n}" for n in range(count)])
            cells = [f"{seconds}"]
            for adapt in ("none", "suta"):
                spent = []
                for _ in range(settings.repeats):
                    (all_of_them, _), (one, _) = (transcribe(settings, part, "--adapt", adapt) for part in (clips, clips[:1]))
                    spent.append((all_of_them - one) / (count - 1))
                middle = statistics.median(spent)
                cells += [f"{middle:.3f}", f"{middle / seconds:.4f}"]
            rows.append(cells)
    header = ["clip, s", "no adaptation, s a clip", "RTF", "SUTA, s a clip", "RTF"]
    return "Cost against length (bundled CTC model)", markdown(header, rows)


def files(settings):
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        clips = clips_of(settings.manifest, 2, scratch, [f"clip{n:03}" for n in range(settings.files)])
        count = settings.files
        counts = []
        while count >= 10:
            counts.append(count)
            count //= 3
        for count in sorted(counts):
            spent = [transcribe(settings, clips[:count], "--steps", 2)[0] for _ in range(settings.repeats)]
            middle = statistics.median(spent)
            rows.append([f"{count}", f"{middle:.2f}", f"{1000 * middle / count:.1f}"])
    text = "Clips of 2 s, 2 steps, one at a time.\n\n" + markdown(["files", "s", "ms a file"], rows)
    return "Cost against the number of files (bundled CTC model)", text


def directory(settings):
    """Whether several at a time pay: each job has its share of the threads."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        seconds = settings.directory_seconds
        clips = clips_of(settings.manifest, seconds, scratch, [f"clip{n:03}" for n in range(settings.files)])
        for adapt in ("none", "suta"):
            turns = {jobs: [] for jobs in (1, 2)}
            for _ in range(settings.directory_repeats):
                for jobs, measured in turns.items():
                    measured.append(transcribe(settings, clips, "--adapt", adapt, jobs=jobs))
            for jobs, measured in turns.items():
                wall = statistics.median(wall for wall, _ in measured)
                heard = settings.files * seconds
                peak = statistics.median(peak for _, peak in measured)
                rows.append([adapt, f"{jobs}", f"{wall:.1f}", f"{heard / wall:.1f}", f"{peak / 2**20:.0f}"])
    text = f"{settings.files} clips of {seconds:g} s, {settings.threads} threads in all.\n\n"
    text += markdown(["adapt", "--jobs", "s", "hours of audio an hour", "peak MiB"], rows)
    return "A directory (bundled CTC model)", text


def start(settings):
    """From starting the program to the first byte on its standard output."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        (clip,) = clips_of(settings.manifest, 2, scratch)
        models = [("tiny.en (Whisper), bundled", []), ("tiny.en-ctc, bundled", ["--model", BUNDLED])]
        if (settings.wav2vec2 / "model.safetensors").exists():
            models.append(("wav2vec2-base", ["--model", settings.wav2vec2]))
        for name, options in models:
            for adapt in ("none", "suta")[: 2 if options else 1]:
                spent = []
                for _ in range(2 * settings.repeats):
                    command = [settings.aurist, "transcribe", clip, "--adapt", adapt, "--progress", "none", *options]
                    begun = time.perf_counter()
                    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE) as process:
                        first = process.stdout.read(1)
                        spent.append(time.perf_counter() - begun)
                        process.stdout.read()
                    if process.returncode or not first:
                        sys.exit(f"{name}, {adapt}: exit status {process.returncode}")
                rows.append([name, adapt, f"{1000 * statistics.median(spent):.0f}", f"{1000 * min(spent):.0f}"])
    text = "A clip of 2 s, files in the system's cache.\n\n" + markdown(["model", "adapt", "ms", "least"], rows)
    return "From start to the first text", text


def growth(settings):
    command = ["cargo", "bench", "--quiet", "--bench", "growth", "--", "--utterances", str(settings.utterances)]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return "Memory over many utterances (bundled CTC model, one thread)", out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paired.add_arguments(parser)
    add = parser.add_argument
    add("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    add("--wav2vec2", type=Path, default=ROOT / "target/full-size", metavar="DIR", help="made there if it is not there")
    add("--files", type=int, default=300, metavar="N", help="of the directory (default 300)")
    add("--directory-seconds", type=float, default=4, metavar="S", help="length of its clips (default 4)")
    add("--directory-repeats", type=int, default=1, metavar="N", help="runs over the directory (default 1)")
    add("--utterances", type=int, default=10_000, metavar="N", help="of the growth (default 10000)")
    add("--out", type=Path, metavar="FILE", help="write the Markdown here as well, section by section")
    settings = parser.parse_args()
    paired.check_binary(settings)
    doctor = subprocess.run([settings.aurist, "doctor"], stdout=subprocess.PIPE, text=True).stdout
    wanted = ("aurist", "processor", "instructions", "threads", "matrix")
    about = [line for line in doctor.splitlines() if line.startswith(wanted)]
    document = "# Measurements\n\n```text\n" + "\n".join(about) + "\n```\n"
    print(document, flush=True)
    for name in settings.sections:
        begun = time.perf_counter()
        title, text = globals()[name](settings)
        section = f"## {title}\n\n{text}\nMeasured in {time.perf_counter() - begun:.0f} s.\n"
        document += f"\n{section}"
        print(section, flush=True)
        if settings.out:
            settings.out.parent.mkdir(parents=True, exist_ok=True)
            settings.out.write_text(document)


if __name__ == "__main__":
    main()
