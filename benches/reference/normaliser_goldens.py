"""Strings as OpenAI's normalisers write them: the goldens of tests/normaliser_goldens.rs.

    python benches/reference/normaliser_goldens.py --count 2000 --limit 200000 tests/data/goldens/normalisers.jsonl
    python benches/reference/normaliser_goldens.py --count 20000 --manifest SET.jsonl... big.jsonl
    AURIST_NORMALISER_GOLDENS=big.jsonl cargo test --test normaliser_goldens

Needs the PyPI packages `openai-whisper` (20250625; `pip install --no-deps` will do, for only its normalisers are
imported) and `whisper-normalizer` (0.1.15), which claims to be the same and replaces four more words. A line of the
output is `[text, basic, whisper-english, whisper-normalizer]`. Strings on which either raises an exception are left out
and counted. Characters that Python's Unicode tables do not know yet are not used: their categories differ between
versions.
"""

import argparse
import importlib.util
import json
import os
import random
import sys
import unicodedata

import whisper_normalizer.basic
import whisper_normalizer.english

# The package's own `__init__` would import PyTorch.
sys.path.insert(0, os.path.dirname(importlib.util.find_spec("whisper").origin))
import normalizers  # noqa: E402

ENGLISH, BASIC = normalizers.EnglishTextNormalizer(), normalizers.BasicTextNormalizer()
OTHER_ENGLISH, OTHER_BASIC = (
    whisper_normalizer.english.EnglishTextNormalizer(),
    whisper_normalizer.basic.BasicTextNormalizer(),
)
NUMBERS = ENGLISH.standardize_numbers
NUMBER_WORDS = sorted(NUMBERS.words | {"cent", "half", "a"})
COMMON = ["and", "point", "one", "two", "five", "oh", "o", "hundred", "thousand", "million", "twenty", "thirty", "a",
          "half", "double", "triple", "percent", "per", "cent", "dollars", "pounds", "minus", "negative", "third"]
WORDS = ["the", "colour", "house", "he", "said", "it", "we", "they", "about", "cause", "mr", "st", "first", "second",
         "um", "uh", "hmm", "mm", "grey", "theatre", "i", "is", "who", "x", "b2b", "mp3", "s", "th", "nd"]
CONTRACTED = ["won't", "can't", "let's", "ain't", "y'all", "wanna", "kinda", "sorta", "dunno", "gotta", "gonna", "i'ma",
              "imma", "woulda", "coulda", "shoulda", "ma'am", "Mr.", "Mrs.", "St.", "Dr.", "Prof.", "Capt.", "Gov.",
              "Ald.", "Gen.", "Sen.", "Rep.", "Pres.", "Rev.", "Hon.", "Asst.", "Assoc.", "Lt.", "Col.", "Jr.", "Sr.",
              "Esq.", "he'd been", "she's been", "it's gone", "they'd gone", "I'd done", "he's done", "who's got",
              "isn't", "we're", "it's", "I'd", "they'll", "'twasn't", "I've", "I'm", "it 's", "do n't", "rock 'n' roll",
              "the dogs' bone", "don\u2019t", "'em", "o'clock", "ol'", "mr's", "cause's", "i'ma'am"]
MARKS = list(".,;:!?-()[]<>{}\"'/\\@#%&*+=~^_|$\u00a3\u20ac\u00a2\u00b0\u2019\u201c\u201d\u2014\u2013\u2026") + ["...", "--", " '", ". ", " .", "\t", "\n", "  "]
RANGES = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x460), (0x5D0, 0x5EB), (0x600, 0x6FF),
          (0x900, 0x980), (0xE00, 0xE60), (0x1E00, 0x1F00), (0x2000, 0x2070), (0x2070, 0x20D0), (0x2100, 0x2190),
          (0x2460, 0x24FF), (0x3040, 0x3100), (0x4E00, 0x4E60), (0xAC00, 0xAC40), (0xFB00, 0xFB07), (0xFF01, 0xFF5F),
          (0x1D400, 0x1D440), (0x1D7CE, 0x1D800), (0x1F600, 0x1F640), (0x1C, 0x20), (0x85, 0x86), (0x966, 0x970),
          (0x660, 0x66A)]


def spelt_sequence(draw):
    vocabulary = draw.choice([NUMBER_WORDS, COMMON, COMMON + WORDS])
    return " ".join(draw.choice(vocabulary) for _ in range(draw.randint(1, 9)))


def arabic(draw):
    whole = draw.choice(["", "0", "00"]) + str(draw.choice([draw.randint(0, 9), draw.randint(0, 1100), draw.randint(0, 10**7)]))
    kind = draw.randrange(12)
    if kind == 0:
        return f"{int(whole):,}"
    if kind == 1:
        return f"{whole}.{draw.randint(0, 99):02d}"
    if kind == 2:
        return draw.choice("$\u00a3\u20ac\u00a2") + f"{int(whole):,}" + draw.choice(["", f".{draw.randint(0, 99):02d}", ".5", " million", " and \u00a27", f" \u00a2{draw.randint(0, 120)}"])
    if kind == 3:
        return f"{whole}%"
    if kind == 4:
        return whole + draw.choice(["st", "nd", "rd", "th", "s", " st", " nd", "  th", " s", "am", "pm", " am", "km", "x"])
    if kind == 5:
        return ".".join(str(draw.randint(0, 255)) for _ in range(draw.randint(2, 4)))
    if kind == 6:
        return f"{draw.randint(1, 12)}:{draw.randint(0, 59):02d}"
    if kind == 7:
        return draw.choice(["-", "+", "minus ", "plus "]) + whole
    if kind == 8:
        return draw.choice(["$0.", "\u00a30.", "\u20ac0,", "$0 "]) + str(draw.randint(0, 120))
    if kind == 9:
        return f"{draw.randint(0, 30)} {draw.choice(['and a half', 'point five', 'hundred', 'thousand', 'million', 'dollars', 'cents', 'per cent', 'percent', 'point', 'billion dollars'])}"
    if kind == 10:
        return f"{draw.randint(1, 9)}/{draw.randint(2, 9)}"
    return whole


def mixture(draw):
    parts = []
    for _ in range(draw.randint(1, 8)):
        kind = draw.randrange(6)
        if kind == 0:
            parts.append(arabic(draw))
        elif kind == 1:
            parts.append(draw.choice(CONTRACTED))
        elif kind == 2:
            parts.append(draw.choice(SPELLINGS))
        elif kind == 3:
            parts.append(draw.choice(NUMBER_WORDS))
        else:
            parts.append(draw.choice(WORDS))
        if draw.random() < 0.25:
            parts[-1] += draw.choice(MARKS)
    return disturb(draw, " ".join(parts))


def disturb(draw, text):
    style = draw.randrange(5)
    if style == 0:
        return text.upper()
    if style == 1:
        return text.title()
    if style == 2 and text:
        at = draw.randrange(len(text) + 1)
        return text[:at] + draw.choice(MARKS) + text[at:]
    return text


def money(draw):
    amount = " ".join(draw.choice(["twenty", "five", "a", "one", "two", "hundred", "thousand", "million", "oh", "and"])
                      for _ in range(draw.randint(1, 4)))
    return disturb(draw, f"{amount} {draw.choice(['dollars', 'pounds', 'euros', 'dollar'])} "
                         f"{draw.choice(['and ', ''])}{draw.choice(['seven', 'seventy', 'ten', '5', 'sixty five', 'one'])} "
                         f"{draw.choice(['cents', 'cent', 'percent', 'per cent'])}")


def characters(draw):
    text = ""
    while len(text) < draw.randint(1, 24):
        low, high = draw.choice(RANGES)
        c = chr(draw.randrange(low, high))
        if unicodedata.category(c) not in ("Cn", "Cs"):
            text += c
        if draw.random() < 0.3:
            text += draw.choice([" ", "one", "5", "'s", "mr", "%", ".", "1", " and a half"])
    return text


def ascii_soup(draw):
    return "".join(draw.choice("ab1s20 .$%\u00a2,'()[]<>-\u0663\u0301") for _ in range(draw.randint(1, 20)))


SPELLINGS = sorted(ENGLISH.standardize_spellings.mapping)
MAKERS = [spelt_sequence, spelt_sequence, arabic, mixture, mixture, money, characters, ascii_soup]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--limit", type=int, help="largest size of the output in bytes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--manifest", nargs="*", default=["tests/data/librivox.jsonl"], help="transcripts to add")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    texts = [json.loads(line)["text"] for path in arguments.manifest for line in open(path, encoding="utf-8")]
    texts += [disturb(draw, text) for text in texts]
    texts += SPELLINGS[::40] + CONTRACTED + NUMBER_WORDS
    seen, size, raised = set(), 0, 0
    with open(arguments.output, "w", encoding="utf-8") as output:
        while len(seen) < arguments.count:
            text = texts.pop(0) if texts else draw.choice(MAKERS)(draw)
            if text in seen:
                continue
            try:
                expected = [BASIC(text), ENGLISH(text), OTHER_ENGLISH(text)]
            except Exception:
                raised += 1
                continue
            assert OTHER_BASIC(text) == expected[0], text
            line = json.dumps([text, *expected], ensure_ascii=False, separators=(",", ":")) + "\n"
            size += len(line.encode())
            if arguments.limit and size > arguments.limit:
                break
            seen.add(text)
            output.write(line)
    print(f"{len(seen)} strings; {raised} on which Python raises left out; {sys.version.split()[0]}, Unicode {unicodedata.unidata_version}")


if __name__ == "__main__":
    main()
