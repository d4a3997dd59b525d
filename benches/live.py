"""Live recognition measured: how long captions take, with several streams at once.

Plays a test set's clips, one after the other with pauses, to a running server (`aurist serve`) in real time over
WebSocket, each stream its own draw of clips, and prints a Markdown table, a row for each number of streams. Needs
`websockets`, `jiwer`, `numpy` and `soundfile`.

    python benches/live.py ws://127.0.0.1:8080/v1/stream set.jsonl --streams 1,4,16 --seconds 60

`set.jsonl` has `audio_filepath` (relative to it or to its parent) and `text` in each line.

An utterance's speech ends with its last loud moment, which is known because it is looked for in the clip itself: what the
model makes of it does not matter. Utterances cut at `longest` have no such end and are left out. A word's end is the
recogniser's own time for it in the final; its first partial is the first that has any word within 0.3 s of it, and, apart,
the first that has the same word there, which a model that hears it as another at first has later.
"""

import argparse
import asyncio
import json
import pathlib
import random
import re
import statistics
import time

import jiwer
import numpy as np
import soundfile
import websockets

RATE = 16000
PIECE = RATE // 25
# The energy of speech is looked at in steps of 10 ms.
STEP = RATE // 100


def recording(path, seconds, seed, pause):
    """Audio, the reference words, and when in it somebody speaks, of clips drawn from a set until they fill so many seconds."""
    path = pathlib.Path(path)
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    random.Random(seed).shuffle(lines)
    noise = np.random.default_rng(seed)
    parts, words, loud, total = [], [], [], 0
    for line in lines:
        if total >= seconds * RATE:
            break
        file = path.parent / line["audio_filepath"]
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        samples = samples.mean(axis=1)
        if rate != RATE:
            import scipy.signal

            samples = scipy.signal.resample_poly(samples, RATE, rate).astype("float32")
        samples = samples[: len(samples) // STEP * STEP]
        silence = np.zeros(round(pause * RATE) // STEP * STEP, "float32")
        parts += [samples, silence]
        loud += [speech(samples), np.zeros(len(silence) // STEP, bool)]
        total += len(samples) + len(silence)
        words += normal(line["text"])
    audio = np.concatenate(parts)
    return audio + noise.normal(0, 3e-4, len(audio)).astype("float32"), words, np.concatenate(loud)


def speech(samples):
    """Of each 10 ms of a clip, whether it is loud: within 35 dB of its loud moments, and well above its quiet ones."""
    power = 10 * np.log10(np.square(samples.reshape(-1, STEP)).mean(axis=1) + 1e-10)
    above = power > max(np.percentile(power, 95) - 35, np.percentile(power, 5) + 8)
    # A click is no speech: three of five.
    return above & (np.convolve(above, np.ones(5), "same") >= 3)


def normal(text):
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def errors(reference, hypothesis):
    """Word errors: substitutions, insertions and deletions of the best alignment."""
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return found.substitutions + found.insertions + found.deletions


def pcm16(samples):
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


async def stream(address, audio, method, on_event=None):
    """Plays audio in real time; gives the events, with the stream's clock at their arrival, and how late this process
    itself was at worst: by so much the delays may be too long."""
    events, late = [], 0.0
    async with websockets.connect(address, max_size=None) as socket:
        await socket.send(json.dumps({"type": "start", "adapt": {"method": method}}))
        ready = json.loads(await socket.recv())
        assert ready["type"] == "ready", ready
        begun = time.monotonic()

        async def play():
            nonlocal late
            for at in range(0, len(audio), PIECE):
                due = begun + (at + PIECE) / RATE
                late = max(late, time.monotonic() - due)
                await asyncio.sleep(max(0, due - time.monotonic()))
                await socket.send(pcm16(audio[at : at + PIECE]))
            await socket.send('{"type":"finish"}')

        playing = asyncio.create_task(play())
        async for message in socket:
            event = json.loads(message)
            event["at"] = time.monotonic() - begun
            events.append(event)
            if on_event:
                on_event(event)
        await playing
    assert events[-1]["type"] == "done", events[-1]
    return events, late


def speech_ends(events, loud):
    """When the speech of each utterance ended, of those that a silence ended."""
    finals = sorted((event for event in events if event["type"] == "final"), key=lambda event: event["utterance"])
    starts = [event["start"] for event in finals[1:]] + [float("inf")]
    ends = {}
    for event, following in zip(finals, starts):
        first, last = round(100 * event["start"]), round(100 * event["end"])
        spoken = np.flatnonzero(loud[first:last])
        if following - event["end"] > 0.05 and len(spoken):
            ends[event["utterance"]] = (first + spoken[-1] + 1) / 100
    return ends


KINDS = ("final", "revision", "place", "word")


def latencies(events, loud):
    """Seconds: from the end of speech to the final and to the revision, from each word's end to the first partial with a word
    there and to the first with that word; and how many of the finals' words no partial had."""
    ends = speech_ends(events, loud)
    partials, found, unseen = {}, {kind: [] for kind in KINDS}, 0
    for event in events:
        if event["type"] == "partial":
            partials.setdefault(event["utterance"], []).append(event)
        elif event["type"] in ("final", "revision") and event["utterance"] in ends:
            found[event["type"]].append(event["at"] - ends[event["utterance"]])
        if event["type"] == "final":
            for word in event["words"]:
                near = [
                    (partial["at"] - word["end"], {w["word"] for w in partial["words"] if abs(w["start"] - word["start"]) < 0.3})
                    for partial in partials.get(event["utterance"], [])
                ]
                found["place"] += [after for after, words in near if words][:1]
                found["word"] += (same := [after for after, words in near if word["word"] in words][:1])
                unseen += not same
    return found, unseen


def spread(values):
    """Median and 95th percentile."""
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return f"{cuts[9]:.1f}, {cuts[18]:.1f}"


def row(count, drawn, played):
    """A row of the table."""
    found, delays = {kind: [] for kind in KINDS}, {"final": [], "revision": []}
    wrong = {"final": 0, "revision": 0}
    words = unseen = behind = partials = 0
    seconds = 0.0
    for (audio, reference, loud), (events, _) in zip(drawn, played):
        new, missed = latencies(events, loud)
        for name, values in new.items():
            found[name] += values
        unseen += missed
        words += len(reference)
        seconds += sum(event["end"] - event["start"] for event in events if event["type"] == "final")
        for kind in ("final", "revision"):
            of_kind = sorted((e for e in events if e["type"] == kind), key=lambda e: e["utterance"])
            wrong[kind] += errors(reference, normal(" ".join(e["text"] for e in of_kind)))
            delays[kind] += [e["delay"] for e in of_kind]
        partials += sum(e["type"] == "partial" for e in events)
        behind += sum(e.get("skipped") == "behind" for e in events)
    missing = unseen / max(1, unseen + len(found["word"]))
    cells = [
        count, len(delays["final"]), spread(found["final"]), spread(found["revision"]), spread(found["place"]), spread(found["word"]),
        f"{100 * missing:.0f} %", f"{partials / seconds:.1f}", spread(delays["final"]), spread(delays["revision"]), behind,
        f"{100 * wrong['final'] / words:.1f}, {100 * wrong['revision'] / words:.1f}",
        f"{max(late for _, late in played):.2f}",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


HEAD = (
    "| streams | utterances | speech's end to final | to revision | word's end to a partial | with that word | words in no partial "
    "| partials a second of speech | `delay` of finals | of revisions | not adapted to | word error, finals and revisions "
    "| this client late by |\n" + "|---" * 13 + "|"
)


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("set")
    parser.add_argument("--seconds", type=float, default=60, help="of each stream (default 60)")
    parser.add_argument("--streams", default="1", metavar="N,N,…", help="at once (default 1)")
    parser.add_argument("--adapt", default="suta", metavar="METHOD")
    parser.add_argument("--pause", type=float, default=1.2, metavar="S", help="after each clip (default 1.2)")
    parser.add_argument("--events", metavar="FILE", help="keep every event, as JSON lines")
    typed = parser.parse_args()
    print("Seconds, median and 95th percentile.\n")
    print(HEAD, flush=True)
    for count in (int(count) for count in typed.streams.split(",")):
        drawn = [recording(typed.set, typed.seconds, seed, typed.pause) for seed in range(count)]
        played = await asyncio.gather(*(stream(typed.address, audio, typed.adapt) for audio, _, _ in drawn))
        print(row(count, drawn, played), flush=True)
        if typed.events:
            with open(typed.events, "a") as file:
                for seed, (events, _) in enumerate(played):
                    file.writelines(json.dumps({"streams": count, "stream": seed} | event) + "\n" for event in events)


if __name__ == "__main__":
    asyncio.run(main())
