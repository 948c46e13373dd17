"""From the operator's models to those of the library. Imports the library, so it is imported late."""

from __future__ import annotations

from typing import Any

import httpx2
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from dalang import tracing
from dalang.llm_models import COMPATIBLE, NamedModel
from dalang.nodes import InvalidInput

CONNECT_SECONDS = 10.0
CHAT, OPENAI = "openai-chat", ("openai", "openai-chat", "openai-responses")


class Providers:
    """Makes models, and keeps one pool of connections for all of them: their addresses are the operator's."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None

    def model(self, named: NamedModel, key: str | None) -> Model[Any]:
        """Return the model.

        Raises:
            InvalidInput: there is no such provider, or it needs something else.
        """
        try:
            if named.provider == COMPATIBLE:
                assert named.base_url is not None
                return OpenAIChatModel(
                    named.model,
                    provider=OpenAICompatibleProvider(
                        COMPATIBLE, base_url=named.base_url, api_key=key, http_client=self._pool()
                    ),
                )
            if named.provider in OPENAI:
                provider = OpenAIProvider(base_url=named.base_url, api_key=key, http_client=self._pool())
                kind = OpenAIChatModel if named.provider == CHAT else OpenAIResponsesModel
                return kind(named.model, provider=provider)
            return infer_model(f"{named.provider}:{named.model}", lambda name: _provider(name, named, key))
        except (UserError, ImportError, ValueError, TypeError) as error:
            message = f"the model {named.provider}:{named.model} cannot be used: {error}"
            raise InvalidInput(message, details={"reason": "UNKNOWN_MODEL"}, no_effect=True) from None

    async def close(self) -> None:
        """Close the pool."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _pool(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS), event_hooks={"request": [tracing.on_request]}
            )
        return self._client


def _provider(name: str, named: NamedModel, key: str | None) -> Provider[Any]:
    given = {"api_key": key, "base_url": named.base_url}
    return infer_provider_class(name)(**{option: value for option, value in given.items() if value is not None})
