"""Live recognition measured: streamed against batch word error rate, latencies, several streams at once.

Plays a test set's recordings, one after the other with pauses, to a running server (`aurist serve`) in real time over
WebSocket, and sends the same audio as one request. Needs `websockets`, `jiwer` and `soundfile`, and prints one JSON object.

    python benches/live.py ws://127.0.0.1:8080/v1/stream set.jsonl --seconds 180 --streams 4 --adapt suta

`set.jsonl` has `audio_filepath` (relative to it or to its parent) and `text` in each line.
"""

import argparse
import asyncio
import io
import json
import pathlib
import random
import re
import statistics
import time
import urllib.request

import jiwer
import numpy as np
import soundfile
import websockets

RATE = 16000
PIECE = RATE // 25


def recording(path, seconds, seed, pause):
    """Audio, and the reference words, of recordings drawn from a set until they fill so many seconds."""
    path = pathlib.Path(path)
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    random.Random(seed).shuffle(lines)
    noise = np.random.default_rng(seed)
    parts, words, total = [], [], 0
    for line in lines:
        if total >= seconds * RATE:
            break
        file = path.parent / line["audio_filepath"]
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        samples = samples.mean(axis=1)
        if rate != RATE:
            import scipy.signal

            samples = scipy.signal.resample_poly(samples, RATE, rate).astype("float32")
        parts += [samples, np.zeros(int(pause * RATE), "float32")]
        total += len(samples) + len(parts[-1])
        words += normal(line["text"])
    audio = np.concatenate(parts)
    return audio + noise.normal(0, 3e-4, len(audio)).astype("float32"), words


def normal(text):
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def errors(reference, hypothesis):
    """Word errors: substitutions, insertions and deletions of the best alignment."""
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return found.substitutions + found.insertions + found.deletions


def batch(address, audio, method):
    """The same audio as one request."""
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format="WAV", subtype="PCM_16")
    parts = [f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode()
             for n, v in (("model", "aurist"), ("adapt", method))]
    parts += [b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n', file.getvalue(), b"\r\n--b--\r\n"]
    address = re.sub("^ws", "http", address).replace("/v1/stream", "/v1/audio/transcriptions")
    request = urllib.request.Request(address, b"".join(parts), {"Content-Type": "multipart/form-data; boundary=b"})
    begun = time.monotonic()
    with urllib.request.urlopen(request) as answer:
        text = json.load(answer)["text"]
    return text, time.monotonic() - begun


def pcm16(samples):
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


async def stream(address, audio, method, speed=1.0):
    """Plays audio in real time; gives the events with the stream's clock at their arrival."""
    events, late = [], [0.0]
    async with websockets.connect(address, max_size=None) as socket:
        await socket.send(json.dumps({"type": "start", "adapt": {"method": method}}))
        assert json.loads(await socket.recv())["type"] == "ready"
        begun = time.monotonic()

        async def play():
            for at in range(0, len(audio), PIECE):
                due = begun + (at + PIECE) / RATE / speed
                late[0] = max(late[0], time.monotonic() - due)
                await asyncio.sleep(max(0, due - time.monotonic()))
                await socket.send(pcm16(audio[at : at + PIECE]))
            await socket.send('{"type":"finish"}')

        playing = asyncio.create_task(play())
        async for message in socket:
            event = json.loads(message)
            event["at"] = (time.monotonic() - begun) * speed
            events.append(event)
        await playing
    assert events[-1]["type"] == "done", events[-1]
    # Where this process itself was held up, the latencies say so much too much.
    events[-1]["client_late"] = late[0]
    return events


def latencies(events):
    """From the end of an utterance's last word to its final and to its revision, and from each final word's end to the
    first partial that has it there."""
    finals, revisions, words = [], [], []
    partials = {}
    ends = {}
    for event in events:
        if event["type"] == "partial":
            partials.setdefault(event["utterance"], []).append(event)
        elif event["type"] == "final" and event["words"]:
            ends[event["utterance"]] = event["words"][-1]["end"]
            finals.append(event["at"] - event["words"][-1]["end"])
            for word in event["words"]:
                for partial in partials.get(event["utterance"], []):
                    if any(w["word"] == word["word"] and abs(w["start"] - word["start"]) < 0.3 for w in partial["words"]):
                        words.append(partial["at"] - word["end"])
                        break
        elif event["type"] == "revision" and event["utterance"] in ends:
            revisions.append(event["at"] - ends[event["utterance"]])
    return finals, revisions, words


def summary(values):
    if len(values) < 2:
        return None
    cut = statistics.quantiles(values, n=20, method="inclusive")
    return {"n": len(values), "median": round(cut[9], 3), "p95": round(cut[18], 3), "max": round(max(values), 3)}


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("set")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--adapt", default="suta")
    parser.add_argument("--pause", type=float, default=1.2)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--no-batch", action="store_true")
    typed = parser.parse_args()
    drawn = [recording(typed.set, typed.seconds, seed, typed.pause) for seed in range(typed.streams)]
    all_events = await asyncio.gather(*(stream(typed.address, audio, typed.adapt, typed.speed) for audio, _ in drawn))
    report = {"streams": typed.streams, "adapt": typed.adapt, "seconds": round(sum(len(a) for a, _ in drawn) / RATE, 1)}
    wrong = {"final": 0, "revision": 0, "unadapted": 0}
    count, skipped, changed, utterances = 0, 0, 0, 0
    report["client_late"] = round(max(events[-1]["client_late"] for events in all_events), 3)
    gathered = [[], [], []]
    for (_, reference), events in zip(drawn, all_events):
        for into, values in zip(gathered, latencies(events)):
            into += values
        count += len(reference)
        revisions = sorted((e for e in events if e["type"] == "revision"), key=lambda e: e["utterance"])
        finals = [e for e in events if e["type"] == "final"]
        utterances += len(finals)
        skipped += sum(e.get("skipped") == "behind" for e in revisions)
        changed += sum(e["changed"] for e in revisions)
        for name, texts in (("final", [e["text"] for e in finals]), ("revision", [e["text"] for e in revisions]),
                            ("unadapted", [e["unadapted_text"] for e in revisions])):
            wrong[name] += errors(reference, normal(" ".join(texts)))
    report["utterances"], report["skipped"], report["changed"] = utterances, skipped, changed
    report["wer"] = {name: round(100 * value / count, 2) for name, value in wrong.items()}
    for name, values in zip(("speech_end_to_final", "speech_end_to_revision", "word_to_partial"), gathered):
        report[name] = summary(values)
    if not typed.no_batch:
        total, elapsed = 0, 0
        for audio, reference in drawn:
            text, seconds = await asyncio.to_thread(batch, typed.address, audio, typed.adapt)
            total += errors(reference, normal(text))
            elapsed += seconds
        report["wer"]["batch"] = round(100 * total / count, 2)
        report["batch_seconds"] = round(elapsed, 1)
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
