"""LiteLLM's SDK as a client (`azure/…`)."""

import io
import os
import sys
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from matrix import *  # noqa: F403

litellm.telemetry = False
AZURE = {"api_base": URL, "api_key": KEY, "api_version": API_VERSION, "timeout": 30}
ONCE = {"max_retries": 0, "num_retries": 0, **AZURE}
FILES = {"custom_llm_provider": "azure", **AZURE}


def chat():
    check(litellm.completion(model=f"azure/{CHAT}", messages=MESSAGES, **ONCE).choices[0].message.content, "no text")


def chat_streamed():
    chunks = list(litellm.completion(model=f"azure/{CHAT}", messages=MESSAGES, stream=True, **ONCE))
    check(sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 2, "no pieces")


def tools():
    answer = litellm.completion(model=f"azure/{CHAT}", messages=MESSAGES, tools=[TOOL], tool_choice=CHOICE, **ONCE)
    check(answer.choices[0].message.tool_calls[0].function.name == "weather", "no call")


def vision():
    check(litellm.completion(model=f"azure/{CHAT}", messages=VISION, **ONCE).choices[0].message.content, "no text")


def embeddings():
    answer = litellm.embedding(model=f"azure/{EMBEDDINGS}", input=[f"text {n}" for n in range(16)], **ONCE)
    check(len(answer.data) == 16, "vectors")


def responses():
    check(litellm.responses(model=f"azure/{CHAT}", input="a", store=False, **AZURE).output, "no output")


def responses_streamed():
    events = list(litellm.responses(model=f"azure/{CHAT}", input="a", store=False, stream=True, **AZURE))
    check(events[-1].type == "response.completed", events[-1].type)


def stored():
    first = litellm.responses(model=f"azure/{CHAT}", input="a", **AZURE)
    check(litellm.get_responses(first.id, **AZURE).id, "not there")
    check(litellm.responses(model=f"azure/{CHAT}", input="b", previous_response_id=first.id, **AZURE).output, "none")
    litellm.delete_responses(first.id, **AZURE)


def transcription():
    sound = io.BytesIO(SOUND)
    sound.name = "a.wav"
    check(litellm.transcription(model=f"azure/{AUDIO}", file=sound, **ONCE).text == "heard in west", "text")


def images():
    check(litellm.image_generation(model=f"azure/{IMAGES}", prompt="a dot", **AZURE).data[0].b64_json, "no picture")


def batches():
    file = litellm.create_file(file=("a.jsonl", BATCH_LINE), purpose="batch", **FILES)
    batch = litellm.create_batch(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **FILES)
    check(litellm.retrieve_batch(batch_id=batch.id, **FILES).id == batch.id, "another batch")


run("LiteLLM SDK", version("litellm"), {
    "chat": chat, "chat, streamed": chat_streamed, "tools": tools, "vision, inline image": vision,
    "embeddings, 16 at once": embeddings, "responses": responses, "responses, streamed": responses_streamed,
    "stored responses": stored, "transcription": transcription, "images": images, "batches": batches})
