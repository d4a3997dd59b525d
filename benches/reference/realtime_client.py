"""OpenAI's own client against aurist's `/v1/realtime`, and every event that comes checked against the client's types.

Plays a recording to a running server as a transcription session, in real time, once with the server finding utterances and
once committed by hand, and asks for what must be refused. Prints what came, one line an event, and fails where an event
does not have the fields that the client's types require, an item is not completed exactly once, or deltas come after it.
Needs `openai` with its `realtime` extra, `numpy` and `soundfile`.

    aurist serve --port 8080 &
    python benches/reference/realtime_client.py http://127.0.0.1:8080/v1 tests/data/librivox/*0880.wav
"""

import argparse
import asyncio
import base64
import json
import time
import typing

import numpy as np
import openai
import soundfile
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent

RATE = 24000
PIECE = RATE // 25
TRANSCRIPTION = "conversation.item.input_audio_transcription"
# By their `type`.
TYPES = {typing.get_args(event.model_fields["type"].annotation)[0]: event
         for event in typing.get_args(typing.get_args(RealtimeServerEvent)[0])}


def recording(path):
    """24 kHz mono with a second and a half of silence behind it."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = samples.mean(axis=1)
    at = np.arange(int(len(samples) * RATE / rate)) * rate / RATE
    samples = np.interp(at, np.arange(len(samples)), samples)
    return np.concatenate([samples, np.zeros(RATE * 3 // 2)])


def session(**audio_input):
    return {"type": "transcription", "audio": {"input": audio_input}, "include": ["item.input_audio_transcription.logprobs"]}


class Log:
    """The events of a connection, each checked."""

    def __init__(self, connection, begun):
        self.connection, self.begun, self.events = connection, begun, []

    async def next(self):
        raw = json.loads(await asyncio.wait_for(self.connection.recv_bytes(), 60))
        event = TYPES[raw["type"]].model_validate(raw)
        # Nothing that was sent is unknown to the client's type, but what a session says of aurist itself.
        known = event.to_dict()
        assert known == raw, (known, raw)
        assert not event.model_extra, event.model_extra
        shown = {k: v for k, v in raw.items() if k not in ("event_id", "type", "session", "item")}
        print(f"  {time.monotonic() - self.begun:6.2f}  {raw['type']}  {json.dumps(shown) if shown else ''}")
        self.events.append(event)
        return event

    async def until(self, kind):
        while (event := await self.next()).type != kind:
            assert event.type != "error", event
        return event

    def check(self):
        """Each item once: committed, then its deltas, then its text."""
        completed = set()
        for event in self.events:
            if event.type == TRANSCRIPTION + ".delta":
                assert event.item_id not in completed, "a delta after the end"
            elif event.type == TRANSCRIPTION + ".completed":
                assert event.item_id not in completed, "completed twice"
                completed.add(event.item_id)
        assert completed == {e.item_id for e in self.events if e.type == "input_audio_buffer.committed"}
        assert len({e.event_id for e in self.events}) == len(self.events)
        return completed


async def play(connection, samples, speed):
    begun = time.monotonic()
    for at in range(0, len(samples), PIECE):
        await asyncio.sleep(max(0, begun + at / RATE / speed - time.monotonic()))
        piece = (np.clip(samples[at : at + PIECE], -1, 1) * 32767).astype("<i2").tobytes()
        await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--key", default="none")
    parser.add_argument("--speed", type=float, default=1.0)
    typed = parser.parse_args()
    samples = np.concatenate([recording(path) for path in typed.recordings])
    client = AsyncOpenAI(base_url=typed.address, api_key=typed.key)
    print("openai", openai.__version__)
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        log = Log(connection, time.monotonic())
        assert (await log.next()).type == "session.created"
        print("the server finds utterances:")
        await connection.session.update(session=session(
            format={"type": "audio/pcm", "rate": RATE}, transcription={"model": "whisper-1", "language": "en"},
            turn_detection={"type": "server_vad", "silence_duration_ms": 500}))
        updated = await log.until("session.updated")
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 500
        playing = asyncio.create_task(play(connection, samples, typed.speed))
        while sum(e.type == TRANSCRIPTION + ".completed" for e in log.events) < len(typed.recordings):
            await log.next()
        await playing

        print("committed by hand:")
        await connection.session.update(session=session(turn_detection=None))
        await log.until("session.updated")
        await play(connection, samples, 4 * typed.speed)
        await connection.input_audio_buffer.commit()
        await log.until(TRANSCRIPTION + ".completed")
        print("completed:", len(log.check()), "items")

        print("refused:")
        await connection.input_audio_buffer.clear()
        await log.until("input_audio_buffer.cleared")
        await connection.input_audio_buffer.commit(event_id="nothing-to-commit")
        assert (await log.next()).error.event_id == "nothing-to-commit"
        await connection.session.update(session={"type": "realtime"}, event_id="no-conversation")
        assert (await log.next()).error.event_id == "no-conversation"
        await connection.response.create(event_id="no-answers")
        assert (await log.next()).error.event_id == "no-answers"
    try:
        async with client.realtime.connect(model="gpt-realtime"):
            raise AssertionError("another model was accepted")
    except Exception as error:
        assert "404" in str(error), error
        print("another model:", error)


if __name__ == "__main__":
    asyncio.run(main())
