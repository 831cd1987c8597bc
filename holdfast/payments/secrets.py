"""The secrets that payment providers sign their webhooks with."""

from holdfast.settings import Settings, resolve_secret


def simulator_secrets(settings: Settings) -> list[str]:
    """The simulator's: configured, or kept in the data directory. The first one signs, all are believed."""
    return split_secrets(settings.simulator_secrets) or [resolve_secret(settings.data_dir, "simulator-secret")]


def split_secrets(text: str | None) -> list[str]:
    """Secrets that stand side by side while one takes the other's place."""
    return [secret for part in (text or "").split(",") if (secret := part.strip())]
