"""Semantic Kernel for Python, its Azure services."""

import os
import sys
import tempfile
from importlib.metadata import version

from openai import AsyncAzureOpenAI
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    AzureAudioToText, AzureChatCompletion, AzureChatPromptExecutionSettings, AzureTextEmbedding, AzureTextToImage)
from semantic_kernel.contents import AudioContent, ChatHistory, ChatMessageContent, ImageContent, TextContent
from semantic_kernel.functions import kernel_function

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from matrix import *  # noqa: F403

once = AsyncAzureOpenAI(azure_endpoint=URL, api_version=API_VERSION, api_key=KEY, max_retries=0, timeout=30)
model = AzureChatCompletion(deployment_name=CHAT, async_client=once)


def history():
    asked = ChatHistory()
    asked.add_user_message("a")
    return asked


async def chat():
    answer = await model.get_chat_message_content(history(), AzureChatPromptExecutionSettings())
    check(str(answer), "no text")


async def chat_streamed():
    pieces = [p async for p in model.get_streaming_chat_message_content(history(), AzureChatPromptExecutionSettings())]
    check(sum(bool(str(piece)) for piece in pieces) > 2, "no pieces")


class Weather:
    @kernel_function(description="Tells the weather.")
    def weather(self) -> str:
        return "rain"


async def tools():
    kernel = Kernel()
    kernel.add_plugin(Weather(), "sky")
    settings = AzureChatPromptExecutionSettings(
        function_choice_behavior=FunctionChoiceBehavior.Required(auto_invoke=False))
    answer = await model.get_chat_message_content(history(), settings, kernel=kernel)
    check(answer.items and answer.items[0].function_name == "weather", "no call")


async def vision():
    asked = ChatHistory()
    asked.add_message(ChatMessageContent(
        role="user", items=[TextContent(text="What is this?"), ImageContent(data_uri=DOT)]))
    check(str(await model.get_chat_message_content(asked, AzureChatPromptExecutionSettings())), "no text")


async def embeddings():
    service = AzureTextEmbedding(deployment_name=EMBEDDINGS, async_client=once)
    check(len(await service.generate_embeddings([f"text {n}" for n in range(16)])) == 16, "vectors")


async def transcription():
    service = AzureAudioToText(deployment_name=AUDIO, async_client=once)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(SOUND)
        file.flush()
        check(str(await service.get_text_content(AudioContent.from_audio_file(file.name))) == "heard in west", "text")


async def images():
    service = AzureTextToImage(deployment_name=IMAGES, async_client=once)
    check(await service.generate_image("a dot", 1024, 1024), "no picture")


run("Semantic Kernel Python", version("semantic-kernel"), {
    "chat": chat, "chat, streamed": chat_streamed, "tools": tools, "vision, inline image": vision,
    "embeddings, 16 at once": embeddings, "transcription": transcription, "images": images})
