"""curl, as in the README."""

import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from matrix import *  # noqa: F403


def curl(path, *arguments, body=None):
    given = ["--json", "@-"] if body is not None else []
    ended = subprocess.run(
        ["curl", "-sSf", "--max-time", "30", URL + path, *given, *arguments],
        input=json.dumps(body) if body is not None else None, capture_output=True, text=True, check=False)
    check(ended.returncode == 0, f"curl: {ended.returncode} {ended.stderr}")
    return ended.stdout


def asked(path, **body):
    return json.loads(curl(path, body=body))


def upload(path, name, content, *fields):
    with tempfile.NamedTemporaryFile(suffix=name) as file:
        file.write(content)
        file.flush()
        forms = [part for field in fields for part in ("-F", field)]
        return json.loads(curl(path, *forms, "-F", f"file=@{file.name}"))


def chat():
    check(asked("/v1/chat/completions", model=CHAT, messages=MESSAGES)["choices"][0]["message"]["content"], "no text")


def chat_streamed():
    check(curl("/v1/chat/completions", "-N", body={"model": CHAT, "messages": MESSAGES, "stream": True})
          .endswith("data: [DONE]\n\n"), "no end")


def tools():
    answer = asked("/v1/chat/completions", model=CHAT, messages=MESSAGES, tools=[TOOL], tool_choice=CHOICE)
    check(answer["choices"][0]["message"]["tool_calls"], "no call")


def vision():
    check(asked("/v1/chat/completions", model=CHAT, messages=VISION)["choices"], "no text")


def embeddings():
    check(len(asked("/embeddings", model=EMBEDDINGS, input=[f"text {n}" for n in range(16)])["data"]) == 16, "vectors")


def responses():
    check(asked("/responses", model=CHAT, input="a", store=False)["status"] == "completed", "status")


def responses_streamed():
    check("event: response.completed" in curl("/responses", "-N", body={"model": CHAT, "input": "a", "stream": True}),
          "no end")


def stored():
    first = asked("/v1/responses", model=CHAT, input="a")["id"]
    check(json.loads(curl(f"/v1/responses/{first}"))["id"] == first, "another response")
    asked("/v1/responses", model=CHAT, input="b", previous_response_id=first)
    check(asked(f"/v1/responses/{first}/cancel")["status"] == "cancelled", "not cancelled")
    check(json.loads(curl(f"/v1/responses/{first}", "-X", "DELETE"))["deleted"], "not deleted")


def transcription():
    check(upload("/v1/audio/transcriptions", "a.wav", SOUND, f"model={AUDIO}")["text"] == "heard in west", "text")


def images():
    check(asked("/v1/images/generations", model=IMAGES, prompt="a dot")["data"][0]["b64_json"], "no picture")


def files():
    file = upload("/v1/files", "a.txt", b"text", "purpose=assistants")["id"]
    store = asked("/v1/vector_stores", file_ids=[file])["id"]
    search = [{"type": "file_search", "vector_store_ids": [store]}]
    check(asked("/v1/responses", model=CHAT, input="a", tools=search)["id"], "no response")


def batches():
    file = upload("/v1/files", "a.jsonl", BATCH_LINE, "purpose=batch")["id"]
    batch = asked("/v1/batches", input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")["id"]
    check(json.loads(curl(f"/v1/batches/{batch}"))["id"] == batch, "another batch")


run("curl", "", {
    "chat": chat, "chat, streamed": chat_streamed, "tools": tools, "vision, inline image": vision,
    "embeddings, 16 at once": embeddings, "responses": responses, "responses, streamed": responses_streamed,
    "stored responses": stored, "transcription": transcription, "images": images,
    "files, vector stores, file search": files, "batches": batches})
