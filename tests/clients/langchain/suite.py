"""LangChain: AzureChatOpenAI, AzureOpenAIEmbeddings and ChatOpenAI."""

import os
import sys
from importlib.metadata import version

from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from matrix import *  # noqa: F403

COMMON = {"api_key": KEY, "max_retries": 0, "timeout": 30}
azure = AzureChatOpenAI(azure_endpoint=URL, azure_deployment=CHAT, api_version=API_VERSION, **COMMON)
plain = ChatOpenAI(base_url=f"{URL}/openai/v1/", model=CHAT, **COMMON)
by_responses = ChatOpenAI(base_url=URL, model=CHAT, use_responses_api=True, **COMMON)


def chat():
    for model in (azure, plain):
        check(model.invoke("a").content, "no text")


def chat_streamed():
    for model in (azure, plain):
        check(sum(bool(chunk.content) for chunk in model.stream("a")) > 2, "no pieces")


def tools():
    for model in (azure, plain):
        answer = model.bind_tools([TOOL], tool_choice="weather").invoke("a")
        check(answer.tool_calls[0]["name"] == "weather", "no call")


def vision():
    for model in (azure, plain):
        check(model.invoke(VISION).content, "no text")


def embeddings():
    model = AzureOpenAIEmbeddings(
        azure_endpoint=URL, azure_deployment=EMBEDDINGS, api_version=API_VERSION, chunk_size=16,
        check_embedding_ctx_length=False, **COMMON)
    check(len(model.embed_documents([f"text {n}" for n in range(40)])) == 40, "vectors")


def responses():
    check(by_responses.invoke("a").text, "no text")


def responses_streamed():
    check(sum(bool(chunk.content) for chunk in by_responses.stream("a")) > 2, "no pieces")


def stored():
    first = by_responses.invoke("a")
    check(by_responses.invoke("b", previous_response_id=first.response_metadata["id"]).text, "no text")


run("LangChain Python", version("langchain-openai"), {
    "chat": chat, "chat, streamed": chat_streamed, "tools": tools, "vision, inline image": vision,
    "embeddings, 16 at once": embeddings, "responses": responses, "responses, streamed": responses_streamed,
    "stored responses": stored})
