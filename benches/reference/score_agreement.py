"""`aurist bench score` beside jiwer and sclite, on the same random files, digit by digit.

    cargo build && python benches/reference/score_agreement.py [--aurist target/debug/aurist] [--sets 200]
    python benches/reference/score_agreement.py --goldens tests/data/goldens/jiwer.json

Needs jiwer 4 (PyPI), numpy, and, for sclite's and sc_stats' part, Debian's package `sctk` (its programs are looked for
on the PATH and in /usr/lib/sctk/bin). Compared are hits, substitutions, deletions, insertions, WER, MER, WIL and WIP
pooled and per utterance, and the CER, with jiwer; the counts of every utterance with sclite (trn, and stm with ctm);
the MAPSSWE test's segments, mean, deviation and z with sc_stats; the bootstrap's intervals with numpy's percentiles of
draws of its own, within their Monte-Carlo error.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import jiwer
import numpy

SCTK = "/usr/lib/sctk/bin"


def words(draw, vocabulary, least, most):
    return [draw.choice(vocabulary) for _ in range(draw.randint(least, most))]


def disturbed(draw, reference, vocabulary, rate):
    heard = []
    for word in reference:
        kind = draw.random()
        if kind < rate / 2:
            heard.append(draw.choice(vocabulary))
        elif kind < 0.8 * rate:
            continue
        else:
            heard.append(word)
        if draw.random() < rate / 4:
            heard.append(draw.choice(vocabulary))
    return heard


def random_set(draw, never_empty=False):
    """Pairs of texts: related, unrelated, with few words so that ties abound, empty on one side or on both."""
    vocabulary = draw.choice([["a", "b"], ["a", "b", "c"], [f"w{i}" for i in range(40)], ["na\u00efve", "it's", "\u4e2d\u6587", "x", "one"]])
    pairs = []
    for _ in range(draw.randint(1, 40)):
        reference = words(draw, vocabulary, 1 if never_empty else 0, draw.choice([3, 10, 80]))
        hypothesis = draw.choice(
            [lambda: disturbed(draw, reference, vocabulary, 0.3), lambda: words(draw, vocabulary, 0, 12), lambda: list(reference)]
        )()
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def aurist(program, *arguments):
    done = subprocess.run([program, "bench", "score", *arguments, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"aurist {' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout)


def jiwer_numbers(references, hypotheses):
    output = jiwer.process_words(references, hypotheses)
    characters = jiwer.process_characters(references, hypotheses)
    return {
        "hits": output.hits, "substitutions": output.substitutions, "deletions": output.deletions,
        "insertions": output.insertions, "wer": float(output.wer), "mer": float(output.mer), "wil": float(output.wil),
        "wip": float(output.wip), "cer": float(characters.cer),
        "character_counts": [characters.hits, characters.substitutions, characters.deletions, characters.insertions],
    }


def our_numbers(system):
    characters = system["character_counts"]
    return {
        **system["counts"], **{name: system[name] for name in ("wer", "mer", "wil", "wip", "cer")},
        "character_counts": [characters[name] for name in ("hits", "substitutions", "deletions", "insertions")],
    }


def write(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def with_jiwer(program, directory, draw):
    pairs = random_set(draw)
    references, hypotheses = [list(texts) for texts in zip(*pairs)]
    write(f"{directory}/ref.txt", references)
    write(f"{directory}/hyp.txt", hypotheses)
    (system,) = aurist(program, f"{directory}/ref.txt", f"{directory}/hyp.txt", "--cer")["systems"]
    assert our_numbers(system) == jiwer_numbers(references, hypotheses), (pairs, our_numbers(system), jiwer_numbers(references, hypotheses))
    for (reference, hypothesis), ours in zip(pairs, system["per_utterance"], strict=True):
        output = jiwer.process_words(reference, hypothesis)
        theirs = (output.hits, output.substitutions, output.deletions, output.insertions, float(output.wer))
        counts = ours["counts"]
        numbers = (counts["hits"], counts["substitutions"], counts["deletions"], counts["insertions"], ours["wer"])
        assert numbers == theirs, (reference, hypothesis, numbers, theirs)
    return len(pairs)


def sclite(directory, reference, hypothesis, *more):
    command = ["sclite", "-s", "-r", *reference, "-h", *hypothesis, "-i", "rm", *more, "stdout"]
    done = subprocess.run(command, cwd=directory, capture_output=True)
    return done.stdout.decode("utf-8", "replace")


def counts_of(pralign):
    found = re.findall(r"id: \((\S+)\)(?:(?!id:).)*?Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", pralign, re.DOTALL)
    return {name: tuple(map(int, numbers)) for name, *numbers in found}


def ours_of(system):
    names = ("hits", "substitutions", "deletions", "insertions")
    return [(entry["id"], tuple(entry["counts"][name] for name in names)) for entry in system["per_utterance"]]


def with_sclite(program, directory, draw):
    # sclite leaves out utterances that are empty on both sides, and ASCII keeps its encodings out of the matter.
    pairs = [pair for pair in random_set(draw, True) if all(text.isascii() for text in pair)] or [("a b", "b")]
    write(f"{directory}/ref.trn", [f"{reference} (s_{i})" for i, (reference, _) in enumerate(pairs)])
    write(f"{directory}/hyp.trn", [f"{hypothesis} (s_{i})" for i, (_, hypothesis) in enumerate(pairs)])
    theirs = counts_of(sclite(directory, ["ref.trn", "trn"], ["hyp.trn", "trn"], "-o", "pralign"))
    (system,) = aurist(program, f"{directory}/ref.trn", f"{directory}/hyp.trn", "--alignment", "sclite")["systems"]
    for name, numbers in ours_of(system):
        assert numbers == theirs[name], (name, pairs, numbers, theirs[name])
    return len(pairs)


def with_sclite_in_time(program, directory, draw):
    """STM and CTM: words between the segments and after the last, several recordings."""
    segments, heard = [], []
    for recording in range(draw.randint(1, 3)):
        now = 0.0
        for _ in range(draw.randint(1, 6)):
            now += draw.choice([0.0, draw.uniform(0, 2)])
            end = now + draw.uniform(1, 4)
            segments.append(f"r{recording} 1 s{recording} {now:.2f} {end:.2f} <o,f0,male> {' '.join(words(draw, 'abcd', 1, 6))}")
            now = end
        when = 0.0
        while when < now + 0.5:
            # The middle never falls on a segment's end, where rounding would decide.
            duration = round(draw.uniform(0.02, 0.25), 2) * 2
            heard.append(f"r{recording} 1 {when:.2f}1 {duration:.2f} {draw.choice('abcd')}")
            when += duration + draw.uniform(0, 1)
    write(f"{directory}/ref.stm", segments)
    write(f"{directory}/hyp.ctm", heard)
    theirs = counts_of(sclite(directory, ["ref.stm", "stm"], ["hyp.ctm", "ctm"], "-o", "pralign"))
    (system,) = aurist(program, f"{directory}/ref.stm", f"{directory}/hyp.ctm", "--alignment", "sclite")["systems"]
    # sclite names segments by speaker and number; both keep the order.
    assert [numbers for _, numbers in ours_of(system)] == [theirs[name] for name in sorted(theirs)], (segments, heard, theirs, ours_of(system))
    return len(segments)


def with_sc_stats(program, directory, draw):
    vocabulary = [f"w{i}" for i in range(30)]
    references = [words(draw, vocabulary, 1, 30) for _ in range(60)]
    write(f"{directory}/ref.trn", [f"{' '.join(text)} (s_{i})" for i, text in enumerate(references)])
    piped = ""
    for name, rate in (("one", 0.3), ("two", 0.2)):
        texts = [disturbed(draw, text, vocabulary, rate) for text in references]
        write(f"{directory}/{name}.trn", [f"{' '.join(text)} (s_{i})" for i, text in enumerate(texts)])
        piped += sclite(directory, ["ref.trn", "trn"], [f"{name}.trn", "trn", name], "-o", "sgml")
    done = subprocess.run(["sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "-"], cwd=directory, input=piped, capture_output=True, text=True)
    result = re.search(r"# segs: (\d+)\).*\(mean: (\S+)\) \(std dev: (\S+)\) \(Z Stat: (\S+)\)", done.stdout)
    report = aurist(program, f"{directory}/ref.trn", f"{directory}/one.trn", f"{directory}/two.trn", "--alignment", "sclite")
    ours = report["comparisons"][0]["mapsswe"]
    numbers = (str(ours["segments"]), *(f"{ours[name]:.3f}" for name in ("mean", "deviation", "z")))
    assert numbers == result.groups(), (numbers, result.groups())
    return 60


def with_numpy(program, directory, draw):
    """Percentile intervals by speaker, single and paired, from numpy's own draws."""
    vocabulary = [f"w{i}" for i in range(30)]
    speakers = [f"s{i % 12}" for i in range(120)]
    references = [words(draw, vocabulary, 2, 20) for _ in speakers]
    systems = [[disturbed(draw, text, vocabulary, rate * (1 + int(name[1:]) / 6)) for text, name in zip(references, speakers)] for rate in (0.25, 0.2)]
    write(f"{directory}/ref.jsonl", [json.dumps({"id": str(i), "text": " ".join(text), "speaker": name}) for i, (text, name) in enumerate(zip(references, speakers))])
    for name, texts in zip(("one", "two"), systems):
        write(f"{directory}/{name}.jsonl", [json.dumps({"id": str(i), "text": " ".join(text)}) for i, text in enumerate(texts)])
    report = aurist(program, *(f"{directory}/{name}.jsonl" for name in ("ref", "one", "two")), "--intervals")
    assert report["bootstrap"]["unit"] == "speaker" and report["bootstrap"]["units"] == 12
    names = sorted(set(speakers))
    errors = numpy.zeros((2, 12))
    length = numpy.zeros(12)
    for index, (name, reference) in enumerate(zip(speakers, references)):
        length[names.index(name)] += len(reference)
        for system in range(2):
            output = jiwer.process_words(" ".join(reference), " ".join(systems[system][index]))
            errors[system, names.index(name)] += output.substitutions + output.deletions + output.insertions
    drawn = numpy.random.default_rng(draw.randrange(2**31)).integers(0, 12, (100_000, 12))
    rates = errors[:, drawn].sum(axis=2) / length[drawn].sum(axis=1)
    # The standard error of a 2.5 % percentile of 10,000 draws is about sd * 2.67 / sqrt(10,000).
    for system, sample in zip(report["systems"], rates):
        expected = numpy.percentile(sample, [2.5, 97.5])
        assert numpy.allclose(system["wer_interval"], expected, rtol=0, atol=5 * 2.67 * sample.std() / 100), (system["wer_interval"], expected)
    difference = rates[1] - rates[0]
    ours = report["comparisons"][0]["bootstrap"]
    expected = numpy.percentile(difference, [2.5, 97.5])
    got = [ours["interval"]["low"], ours["interval"]["high"]]
    assert numpy.allclose(got, expected, rtol=0, atol=5 * 2.67 * difference.std() / 100), (got, expected)
    assert abs(ours["probability_of_improvement"] - (difference < 0).mean()) < 0.025
    return 120


def goldens(path, draw):
    """Sets of texts with jiwer's numbers, for the tests."""
    sets = [[("", "")], [("", "a b")], [("a", "")], [("", "x"), ("a b", "a")], [("", ""), ("a", "a")], [("a  b ", " a b")]]
    sets += [random_set(draw) for _ in range(60)]
    entries = []
    for pairs in sets:
        references, hypotheses = [list(texts) for texts in zip(*pairs[:12])]
        entries.append({"references": references, "hypotheses": hypotheses, "jiwer": jiwer_numbers(references, hypotheses)})
    write(path, [json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in entries])
    print(f"{len(entries)} sets, jiwer {importlib_version('jiwer')}, rapidfuzz {importlib_version('rapidfuzz')}")


def importlib_version(package):
    import importlib.metadata

    return importlib.metadata.version(package)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aurist", default="target/debug/aurist")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--goldens", metavar="FILE", help="write the tests' goldens instead")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    if arguments.goldens:
        return goldens(arguments.goldens, draw)
    os.environ["PATH"] += os.pathsep + SCTK
    program = os.path.abspath(arguments.aurist)
    parts = [("jiwer", with_jiwer, arguments.sets), ("numpy", with_numpy, max(1, arguments.sets // 40))]
    if shutil.which("sclite"):
        parts += [("sclite, trn", with_sclite, arguments.sets), ("sclite, stm and ctm", with_sclite_in_time, arguments.sets),
                  ("sc_stats", with_sc_stats, arguments.sets // 10)]
    else:
        print("sclite is not there (Debian: sctk): left out")
    for name, compare, sets in parts:
        with tempfile.TemporaryDirectory() as directory:
            utterances = sum(compare(program, directory, draw) for _ in range(sets))
        print(f"{name}: {sets} sets, {utterances} utterances, no difference")


if __name__ == "__main__":
    main()
