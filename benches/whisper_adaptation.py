#!/usr/bin/env python3
"""Word error rates of an adapted Whisper, with and without its guard, from one run of `aurist bench`.

    aurist bench SET -o RUN -m MODEL --method suta:half=decoder,no-guard ...
    whisper_adaptation.py SET RUN

SET is NeMo's JSON lines. The methods ran without the guard (`no-guard`): the journal keeps the adapted text, the unadapted
one, and the verdict of the evidence, so what the guard would have kept is known. Utterances that not every method has in
every condition are left out. Rates are after Whisper's English normaliser; differences from no adaptation are paired, with
95 % percentile intervals of 2000 bootstrap draws over utterances, all conditions of an utterance drawn together.
Needs `pip install jiwer whisper-normalizer numpy`.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

DRAWS = 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    normalise, references = EnglishTextNormalizer(), {}
    for line in arguments.set.read_text().splitlines():
        line = json.loads(line)
        references[Path(line["audio_filepath"]).stem] = normalise(line["text"])

    def errors(utterance, text):
        counts = jiwer.process_words(references[utterance], normalise(text))
        return counts.substitutions + counts.deletions + counts.insertions

    # method, condition, utterance -> errors of the unadapted, the adapted and the guarded text
    found, kept = defaultdict(dict), defaultdict(lambda: [0, 0])
    seconds = defaultdict(list)
    for line in (arguments.run / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        result, utterance = entry["result"], Path(entry["utterance"]).stem
        evidence = result.get("evidence")
        stands = evidence is None or evidence["favours_adapted"]
        guarded = result["text"] if stands else result["unadapted_text"]
        texts = (result["unadapted_text"], result["text"], guarded)
        found[entry["method"], entry["condition"]][utterance] = [errors(utterance, text) for text in texts]
        kept[entry["method"]][0] += evidence is not None
        kept[entry["method"]][1] += evidence is not None and stands
        seconds[entry["method"]].append(entry["seconds"]["compute"])
    methods, conditions = (list(dict.fromkeys(key[index] for key in found)) for index in (0, 1))
    common = set.intersection(*(set(found[method, condition]) for method in methods for condition in conditions))
    utterances = sorted(common)
    words = np.array([len(references[utterance].split()) for utterance in utterances])
    draws = np.random.default_rng(1).integers(0, len(utterances), (DRAWS, len(utterances)))

    def table(method, condition):
        """`[utterances, 3]`"""
        return np.array([found[method, condition][utterance] for utterance in utterances], float)

    def change(rows, column):
        """Points gained or lost, with the interval; `rows` is summed over conditions already."""
        rows, weights = rows
        difference = rows[:, column] - rows[:, 0]
        sampled = 100 * difference[draws].sum(1) / weights[draws].sum(1)
        low, high = np.percentile(sampled, [2.5, 97.5])
        return f"{100 * difference.sum() / weights.sum():+.2f} ({low:+.2f} to {high:+.2f})"

    print(f"{len(utterances)} utterances, {int(words.sum())} words, {len(conditions)} conditions")
    print("| condition | none | " + " | ".join(f"{method} | guarded" for method in methods) + " |")
    print("|---|---|" + "---|---|" * len(methods))
    for condition in conditions:
        tables = [table(method, condition) for method in methods]
        rates = [f"{100 * tables[0][:, 0].sum() / words.sum():.1f}"]
        for rows in tables:
            rates += [f"{100 * rows[:, column].sum() / words.sum():.1f}" for column in (1, 2)]
        print(f"| {condition} | " + " | ".join(rates) + " |")
    for method in methods:
        total = sum(table(method, condition) for condition in conditions), words * len(conditions)
        changed, stood = kept[method]
        print(f"{method}: pooled {100 * total[0][:, 0].sum() / total[1].sum():.1f} without; adapted {change(total, 1)}, "
              f"guarded {change(total, 2)}; {changed} of {len(seconds[method])} texts changed, the guard kept {stood}; "
              f"{np.median(seconds[method]):.1f} s an utterance (median, one thread)")


if __name__ == "__main__":
    main()
