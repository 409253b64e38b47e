"""Every call of the official Python SDK; for the newest and for 1.x."""

import base64
import io
import os
import ssl
import sys

import openai
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from matrix import *  # noqa: F403

COMMON = {"api_key": KEY, "max_retries": 0, "timeout": 30}
azure = AzureOpenAI(azure_endpoint=URL, api_version=API_VERSION, **COMMON)
v1 = OpenAI(base_url=f"{URL}/openai/v1/", **COMMON)
BOTH = (azure, v1)


def chat():
    for client in BOTH:
        check(client.chat.completions.create(model=CHAT, messages=MESSAGES).choices[0].message.content, "no text")


def chat_streamed():
    for client in BOTH:
        chunks = list(client.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True))
        check(sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 2, "no pieces")


def tools():
    for client in BOTH:
        answer = client.chat.completions.create(model=CHAT, messages=MESSAGES, tools=[TOOL], tool_choice=CHOICE)
        check(answer.choices[0].message.tool_calls[0].function.name == "weather", "no call")


def vision():
    for client in BOTH:
        check(client.chat.completions.create(model=CHAT, messages=VISION).choices[0].message.content, "no text")


def embeddings():
    for client in BOTH:
        answer = client.embeddings.create(model=EMBEDDINGS, input=[f"text {n}" for n in range(16)])
        check(len(answer.data) == 16 and len(answer.data[15].embedding) == 1536, "vectors")


def responses():
    for client in BOTH:
        check(client.responses.create(model=CHAT, input="a", store=False).output_text, "no text")


def responses_streamed():
    for client in BOTH:
        events = list(client.responses.create(model=CHAT, input="a", store=False, stream=True))
        check(events[-1].type == "response.completed", events[-1].type)


def stored():
    for client in BOTH:
        first = client.responses.create(model=CHAT, input="a")
        check(client.responses.retrieve(first.id).id == first.id, "another response")
        check(client.responses.create(model=CHAT, input="b", previous_response_id=first.id).output_text, "no text")
        client.responses.input_items.list(first.id)
        work = client.responses.create(model=CHAT, input="a", background=True)
        check(client.responses.cancel(work.id).status == "cancelled", "not cancelled")
        client.responses.delete(first.id)
        try:
            client.responses.retrieve(first.id)
        except openai.NotFoundError:
            continue
        raise AssertionError("what was deleted is still there")


def transcription():
    for client in BOTH:
        answer = client.audio.transcriptions.create(model=AUDIO, file=("a.wav", io.BytesIO(SOUND)))
        check(answer.text == "heard in west", answer.text)


def images():
    for client in BOTH:
        answer = client.images.generate(model=IMAGES, prompt="a dot")
        check(base64.b64decode(answer.data[0].b64_json).startswith(b"\x89PNG"), "no picture")
        check(client.images.edit(model=IMAGES, prompt="a dot", image=("a.png", b"png")).data, "no picture")


def files():
    for client in BOTH:
        file = client.files.create(file=("a.txt", b"text"), purpose="assistants")
        store = client.vector_stores.create(file_ids=[file.id])
        client.vector_stores.files.create(vector_store_id=store.id, file_id=file.id)
        search = [{"type": "file_search", "vector_store_ids": [store.id]}]
        check(client.responses.create(model=CHAT, input="a", tools=search).output_text, "no text")
        check(file.id in [other.id for other in client.files.list()], "not in the list")
        check(client.files.content(file.id).read(), "no content")
        check(client.files.delete(file.id).deleted, "not deleted")


def batches():
    for client in BOTH:
        file = client.files.create(file=("a.jsonl", BATCH_LINE), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        check(client.batches.retrieve(batch.id).id == batch.id, "another batch")
        check(client.batches.cancel(batch.id).status == "cancelled", "not cancelled")


async def realtime():
    # The SDK asks for TLS unless told otherwise.
    socket = URL.replace("http:", "ws:") + "/openai"
    client = AsyncAzureOpenAI(azure_endpoint=URL, api_version=API_VERSION, websocket_base_url=socket, **COMMON)
    async with client.beta.realtime.connect(model=REALTIME) if openai.__version__.startswith("1.") \
            else client.realtime.connect(model=REALTIME) as connection:
        check((await connection.recv()).type == "session.created", "no session")
        await connection.response.create()
        check((await connection.recv()).type == "response.done", "no answer")


async def realtime_tls():
    context = ssl.create_default_context(cafile=TLS_AUTHORITY)
    # Of the test's own authority; the name is checked nevertheless.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    client = AsyncOpenAI(base_url=f"{TLS_URL}/openai/v1", **COMMON)
    options = {"ssl": context}
    async with client.realtime.connect(model=REALTIME, websocket_connection_options=options) as connection:
        check((await connection.recv()).type == "session.created", "no session")
        await connection.response.create()
        check((await connection.recv()).type == "response.done", "no answer")


async def responses_socket():
    # All that are asked must have it: the messages come too late to choose by.
    client = AsyncOpenAI(base_url=f"{URL}/v1", **COMMON)
    async with client.responses.connect(extra_query={"model": REALTIME}) as connection:
        for _ in range(2):
            await connection.send({"type": "response.create", "model": REALTIME, "input": "a"})
            event = await connection.recv()
            check(event.type == "response.completed", event.type)
            check(event.response.model == "gpt-realtime-voice", event.response.model)


if __name__ == "__main__":
    cells = {
        "chat": chat, "chat, streamed": chat_streamed, "tools": tools, "vision, inline image": vision,
        "embeddings, 16 at once": embeddings, "responses": responses, "responses, streamed": responses_streamed,
        "stored responses": stored, "transcription": transcription, "images": images,
        "files, vector stores, file search": files, "batches": batches, "realtime": realtime,
        "realtime, /openai/v1 over TLS": realtime_tls}
    if hasattr(v1.responses, "connect"):
        cells["responses over a WebSocket"] = responses_socket
    run("openai Python", openai.__version__, cells)
