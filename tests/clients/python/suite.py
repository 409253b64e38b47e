"""The official Python SDK against a running Sidestep whose first backend throttles.

Environment: SIDESTEP_URL, and the names that the throttled and the serving backend have (SIDESTEP_THROTTLED,
SIDESTEP_SERVING). The calls are those of real apps: AzureOpenAI on deployment paths (the chat app until 2025),
OpenAI on /openai/v1 and on bare paths (the chat app since). No retries: a 429 that slips through is an exception.
Prints one line for each case and ends with "N passed, N failed".
"""

import asyncio
import inspect
import os
import sys
import traceback
import urllib.request

from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, NotFoundError, OpenAI

URL = os.environ["SIDESTEP_URL"]
SERVING = os.environ["SIDESTEP_SERVING"]
THROTTLED_URL = os.environ["SIDESTEP_THROTTLED_URL"]
CHAT = "gpt-4o"
EMBEDDINGS = "text-embedding-3-small"
MESSAGES = [{"role": "user", "content": "Why did the request take a side step?"}]
API_VERSION = "2024-10-21"

COMMON = {"api_key": "does-not-matter", "max_retries": 0, "timeout": 30}


def azure(kind):
    return kind(azure_endpoint=URL, api_version=API_VERSION, **COMMON)


CLIENTS = {
    "AzureOpenAI": lambda: azure(AzureOpenAI),
    "AsyncAzureOpenAI": lambda: azure(AsyncAzureOpenAI),
    "AzureOpenAI, responses API version": lambda: AzureOpenAI(
        azure_endpoint=URL, api_version="2025-04-01-preview", **COMMON
    ),
    "OpenAI at /openai/v1": lambda: OpenAI(base_url=f"{URL}/openai/v1/", **COMMON),
    "AsyncOpenAI at /openai/v1": lambda: AsyncOpenAI(base_url=f"{URL}/openai/v1/", **COMMON),
    "OpenAI at bare paths": lambda: OpenAI(base_url=URL, **COMMON),
    "AsyncOpenAI at bare paths": lambda: AsyncOpenAI(base_url=URL, **COMMON),
}


async def settled(value):
    """The sync and the async SDK through the same code."""
    return await value if inspect.isawaitable(value) else value


async def events_of(stream):
    if hasattr(stream, "__aiter__"):
        return [event async for event in stream]
    return list(stream)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def check_served(response):
    backend = response.headers.get("x-sidestep-backend")
    check(backend == SERVING, f"x-sidestep-backend is {backend!r}, expected {SERVING!r}")
    attempts = response.headers.get("x-sidestep-attempts")
    check(attempts == "2", f"x-sidestep-attempts is {attempts!r}: this call did not meet the throttled backend")
    sent = response.http_request.headers.get("x-stainless-retry-count")
    check(sent == "0", f"the SDK retried: x-stainless-retry-count {sent!r}")


async def chat(client):
    raw = await settled(client.chat.completions.with_raw_response.create(model=CHAT, messages=MESSAGES))
    check_served(raw)
    answer = await settled(raw.parse())
    check(answer.choices[0].message.content, "an answer without text")
    check(answer.choices[0].finish_reason in ("stop", "length"), f"finish_reason {answer.choices[0].finish_reason!r}")
    check(answer.usage.completion_tokens > 0, "no usage")


async def chat_streamed(client):
    raw = await settled(
        client.chat.completions.with_raw_response.create(
            model=CHAT, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    check_served(raw)
    chunks = await events_of(await settled(raw.parse()))
    parts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    check(len(parts) > 2, f"only {len(parts)} pieces of text")
    check(any(c.usage for c in chunks), "no usage chunk")
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    check(len(reasons) == 1, f"finish reasons {reasons}")


async def responses(client):
    raw = await settled(
        client.responses.with_raw_response.create(model=CHAT, input=MESSAGES, store=False, max_output_tokens=1024)
    )
    check_served(raw)
    answer = await settled(raw.parse())
    check(answer.status == "completed", f"status {answer.status!r}")
    check(answer.output_text, "an answer without text")


async def responses_streamed(client):
    raw = await settled(
        client.responses.with_raw_response.create(model=CHAT, input=MESSAGES, store=False, stream=True)
    )
    check_served(raw)
    events = await events_of(await settled(raw.parse()))
    kinds = [event.type for event in events]
    check(kinds[0] == "response.created" and kinds[-1] == "response.completed", f"events {kinds[0]} … {kinds[-1]}")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    check(len(deltas) > 2, f"only {len(deltas)} deltas")
    check("".join(deltas) == events[-1].response.output_text, "the deltas are not the final text")
    numbers = [event.sequence_number for event in events]
    check(numbers == sorted(set(numbers)), f"sequence numbers {numbers}")


async def embeddings(client):
    raw = await settled(client.embeddings.with_raw_response.create(model=EMBEDDINGS, input=["one", "two"]))
    check_served(raw)
    answer = await settled(raw.parse())
    check(len(answer.data) == 2, f"{len(answer.data)} vectors")
    check(len(answer.data[0].embedding) > 8, "a vector that is none")


async def stored(client):
    """A response that only the backend which made it has: read, continued, deleted, and then not found."""
    raw = await settled(client.responses.with_raw_response.create(model=CHAT, input=MESSAGES))
    check_served(raw)
    first = await settled(raw.parse())
    read = await settled(client.responses.retrieve(first.id))
    check(read.id == first.id, f"read {read.id!r}")
    second = await settled(client.responses.create(model=CHAT, input="And then?", previous_response_id=first.id))
    check(second.status == "completed", f"status {second.status!r}")
    stream = await settled(
        client.responses.create(model=CHAT, input="And then?", previous_response_id=second.id, stream=True)
    )
    events = await events_of(stream)
    third = await settled(client.responses.retrieve(events[0].response.id))
    check(third.id == events[0].response.id, f"read {third.id!r}")
    items = await settled(client.responses.input_items.list(first.id))
    check(items.object == "list", f"items {items.object!r}")
    await settled(client.responses.delete(first.id))
    try:
        await settled(client.responses.retrieve(first.id))
    except NotFoundError:
        return
    raise AssertionError("what was deleted can still be read")


async def files(client):
    """A file, a store of it, a response that searches the store: all at the home backend."""
    file = await settled(client.files.create(file=("a.txt", b"text"), purpose="assistants"))
    store = await settled(client.vector_stores.create(name="books", file_ids=[file.id]))
    raw = await settled(
        client.responses.with_raw_response.create(
            model=CHAT, input=MESSAGES, tools=[{"type": "file_search", "vector_store_ids": [store.id]}]
        )
    )
    backend = raw.headers.get("x-sidestep-backend")
    check(backend == SERVING, f"x-sidestep-backend is {backend!r}, expected {SERVING!r}")
    listed = await settled(client.files.list())
    check(file.id in [known.id for known in listed.data], "the file is not listed")
    batch = await settled(
        client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    )
    check((await settled(client.batches.retrieve(batch.id))).id == batch.id, "another batch")
    deleted = await settled(client.files.delete(file.id))
    check(deleted.deleted, "the file is still there")


OPERATIONS = [chat, chat_streamed, responses, responses_streamed, embeddings, stored, files]


def throttled_counters():
    """What the throttled backend saw, for the log of a failed run."""
    with urllib.request.urlopen(f"{THROTTLED_URL}/control/counters", timeout=10) as answer:
        return answer.read().decode()


async def run():
    passed, failed = 0, 0
    for name, make in CLIENTS.items():
        client = make()
        for operation in OPERATIONS:
            case = f"python · {name} · {operation.__name__}"
            # Longer than the throttled backend's cooldown of 10 ms, so that this call is throttled too.
            await asyncio.sleep(0.05)
            try:
                await operation(client)
                print(f"ok      {case}")
                passed += 1
            except Exception:  # every failure is shown, then the run goes on
                print(f"FAILED  {case}\n{traceback.format_exc()}")
                failed += 1
        await settled(client.close())
    print(f"throttled backend: {throttled_counters()}")
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed else 1


sys.exit(asyncio.run(run()))
