#!/usr/bin/env python3
"""aurist's Whisper against faster-whisper: the same weights, the same recordings, text and times compared segment by
segment, and the word error rates of both.

    whisper_decoder.py MODEL MANIFEST... [--limit N] [--beam-size N] [--word-timestamps] [--binary aurist]

MODEL is a CTranslate2 directory (`ctranslate2_encoder.py` fetches tiny.en's), a MANIFEST NeMo's JSON lines. faster-whisper
computes in float32, with no temperature fallback on either side unless --fallback is given (its draws are random).
Needs `pip install faster-whisper jiwer whisper-normalizer`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from whisper_ctc import read_audio, read_manifest

ROOT = Path(__file__).resolve().parents[2]


def reference(arguments, clips):
    """faster-whisper's segments of each clip, and the seconds it took."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(arguments.model), device="cpu", compute_type=arguments.compute_type, cpu_threads=arguments.threads)
    options = {"beam_size": arguments.beam_size, "word_timestamps": arguments.word_timestamps, "language": "en"}
    if not arguments.fallback:
        options["temperature"] = 0.0
    results, begin = [], time.perf_counter()
    for clip in clips:
        segments, _ = model.transcribe(read_audio(clip["audio_filepath"]), **options)
        results.append([
            {"start": s.start, "end": s.end, "text": s.text.strip(), "avg_logprob": s.avg_logprob,
             "no_speech_prob": s.no_speech_prob, "compression_ratio": s.compression_ratio,
             "words": [[w.word.strip(), w.start, w.end, w.probability] for w in s.words or []]}
            for s in segments
        ])
    # As JSON gives them back.
    return json.loads(json.dumps(results)), time.perf_counter() - begin


def aurist(arguments, clips):
    """aurist's segments of each clip, and the seconds it took, start included."""
    command = [str(arguments.binary), "transcribe", *(clip["audio_filepath"] for clip in clips), "-m", str(arguments.model),
               "-f", "json", "--beam-size", str(arguments.beam_size), "--jobs", "1", "--progress", "none"]
    if arguments.word_timestamps:
        command.append("--word-timestamps")
    if not arguments.fallback:
        command += ["--temperature-fallback", "0"]
    begin = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - begin
    # One clip's JSON is an object over many lines, several clips' one a line.
    documents = [json.loads(output)] if len(clips) == 1 else [json.loads(line) for line in output.splitlines()]
    return [
        [{key: u[key] for key in ("start", "end", "text", "avg_logprob", "no_speech_prob", "compression_ratio")}
         | {"words": [[w["word"].strip(), w["start"], w["end"], w["confidence"]] for w in u["words"]]}
         for u in document["utterances"]]
        for document in documents
    ], seconds


def error_rate(references, results):
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normalise = EnglishTextNormalizer()
    hypotheses = [normalise(" ".join(s["text"] for s in segments)) for segments in results]
    return 100 * jiwer.wer([normalise(reference) for reference in references], hypotheses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--word-timestamps", action="store_true")
    parser.add_argument("--fallback", action="store_true")
    parser.add_argument("--compute-type", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="directory of faster-whisper's results, read where they are there")
    parser.add_argument("--show", type=int, default=10, help="differences to print")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/aurist")
    arguments = parser.parse_args()
    failed = False
    for manifest in arguments.manifests:
        clips = read_manifest(manifest)[: arguments.limit]
        kept = arguments.keep and arguments.keep / (
            f"{manifest.stem}-{len(clips)}-{arguments.beam_size}-{arguments.compute_type}"
            f"{'-words' * arguments.word_timestamps}{'-fallback' * arguments.fallback}.json")
        if kept and kept.exists():
            expected, reference_seconds = json.loads(kept.read_text())
        else:
            expected, reference_seconds = reference(arguments, clips)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps([expected, reference_seconds]))
        found, seconds = aurist(arguments, clips)
        texts = times = words = shown = 0
        largest = {"avg_logprob": 0.0, "no_speech_prob": 0.0, "compression_ratio": 0.0, "word_probability": 0.0}
        for clip, theirs, ours in zip(clips, expected, found, strict=True):
            spans = [[(round(s["start"], 2), round(s["end"], 2)) for s in side] for side in (theirs, ours)]
            same_text = [s["text"] for s in theirs] == [s["text"] for s in ours]
            same_times = spans[0] == spans[1]
            texts, times = texts + same_text, times + same_times
            if same_text:
                for a, b in zip(theirs, ours):
                    for key in ("avg_logprob", "no_speech_prob", "compression_ratio"):
                        largest[key] = max(largest[key], abs(a[key] - b[key]))
                    same_words = [(w[0], round(w[1], 2), round(w[2], 2)) for w in a["words"]] == [
                        (w[0], round(w[1], 2), round(w[2], 2)) for w in b["words"]]
                    words += same_words
                    if same_words:
                        for w, v in zip(a["words"], b["words"]):
                            largest["word_probability"] = max(largest["word_probability"], abs(w[3] - v[3]))
                    elif shown < arguments.show and arguments.word_timestamps:
                        shown += 1
                        print(f"  words {[(x, y) for x, y in zip(a['words'], b['words']) if x[:3] != y[:3]]}")
            if not (same_text and same_times) and shown < arguments.show:
                shown += 1
                print(f"  {Path(clip['audio_filepath']).name}")
                for side, segments in (("theirs", theirs), ("ours", ours)):
                    for s in segments:
                        print(f"    {side:6} {s['start']:7.2f} {s['end']:7.2f} {s['text']}  [{s['avg_logprob']:.4f}]")
        rates = [error_rate([clip["text"] for clip in clips], side) for side in (expected, found)]
        segments = sum(len(theirs) for theirs in expected)
        line = f"{manifest.stem}: {len(clips)} clips, the same text in {texts}, the same times in {times}"
        if arguments.word_timestamps:
            line += f", the same words and times in {words} of {segments} segments"
        print(f"{line}; WER {rates[0]:.2f} theirs, {rates[1]:.2f} ours; {reference_seconds:.1f} s theirs, {seconds:.1f} s ours")
        print("  largest difference: " + ", ".join(f"{key} {value:.2e}" for key, value in largest.items()))
        failed |= texts < len(clips) or times < len(clips)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
