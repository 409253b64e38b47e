"""Runs one client's cells and says for each whether it passed. A cell passes when the call succeeded and, where the
call may go anywhere, the throttled backend refused it first. A call without a cell is not offered by the client."""

import asyncio
import inspect
import json
import os
import traceback
import urllib.request

URL = os.environ["SIDESTEP_URL"]
THROTTLED_URL = os.environ["SIDESTEP_THROTTLED_URL"]
TLS_URL, TLS_AUTHORITY = os.environ["SIDESTEP_TLS_URL"], os.environ["SIDESTEP_TLS_AUTHORITY"]
API_VERSION = "2025-04-01-preview"
KEY = "does-not-matter"
CHAT, EMBEDDINGS, AUDIO, IMAGES, REALTIME = (
    "gpt-4o", "text-embedding-3-small", "whisper", "gpt-image-1", "gpt-realtime")
MESSAGES = [{"role": "user", "content": "Why did the request take a side step?"}]
DOT = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
       "RU5ErkJggg==")
VISION = [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                       {"type": "image_url", "image_url": {"url": DOT}}]}]
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells the weather.",
                                         "parameters": {"type": "object", "properties": {}}}}
CHOICE = {"type": "function", "function": {"name": "weather"}}
SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"
BATCH_LINE = b'{"custom_id":"1","method":"POST","url":"/chat/completions","body":{"model":"gpt-4o","messages":[]}}\n'
# These belong to the home backend, which is not the throttled one.
AT_HOME = {"files, vector stores, file search", "batches"}


def check(condition, what):
    if not condition:
        raise AssertionError(what)


async def settled(value):
    return await value if inspect.isawaitable(value) else value


def throttled():
    with urllib.request.urlopen(f"{THROTTLED_URL}/control/counters", timeout=10) as answer:
        return json.load(answer)["throttled"]


async def main(client, version, cells):
    for call, run in cells.items():
        # Longer than the throttled backend's cooldown of 10 ms, so that this call is throttled too.
        await asyncio.sleep(0.05)
        before = throttled()
        try:
            await settled(run())
            check(call in AT_HOME or throttled() > before, "the throttled backend was not asked: nothing was proven")
            verdict = "pass"
        except Exception:  # every failure is shown, then the run goes on
            print(f"FAILED {client} · {call}\n{traceback.format_exc()}")
            verdict = "FAIL"
        print(f"cell|{client}|{version}|{call}|{verdict}", flush=True)


def run(client, version, cells):
    asyncio.run(main(client, version, cells))
