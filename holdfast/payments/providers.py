"""The payment providers that an installation has, by the names that requests call them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from engine.payments import PaymentProvider
from holdfast.payments.secrets import simulator_secrets, split_secrets
from holdfast.payments.simulated import SimulatedProvider
from holdfast.payments.stripe import StripeProvider
from holdfast.settings import Settings, SettingsError


@asynccontextmanager
async def open_providers(settings: Settings) -> AsyncIterator[dict[str, PaymentProvider]]:
    """Adapters to those of *settings*, until the context ends; nothing is connected yet.

    A simulator that nobody has said the whereabouts of is left out: only the ``serve`` that started it knows them.

    Raises:
        SettingsError: A provider lacks its secrets.
    """
    async with httpx2.AsyncClient(trust_env=False) as client:
        providers: dict[str, PaymentProvider] = {}
        if "simulator" in settings.payment_providers and settings.simulator_url is not None:
            secrets = simulator_secrets(settings)
            providers["simulator"] = SimulatedProvider(settings.simulator_url, client, secrets)
        if "stripe" in settings.payment_providers:
            if settings.stripe_api_key is None:
                raise SettingsError("HOLDFAST_STRIPE_API_KEY: required where HOLDFAST_PAYMENT_PROVIDERS names stripe")
            signers = split_secrets(settings.stripe_webhook_secrets)
            providers["stripe"] = StripeProvider(
                settings.stripe_url, settings.stripe_api_key, client, signers, return_url=settings.payment_return_url
            )
        yield providers
