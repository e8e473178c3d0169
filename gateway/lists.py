"""Settings of the gateway that are lists with a form of their own. Pure."""

from gateway.families import Family, forwarded
from gateway.guesses import Network, networks
from shared.settings import GatewaySettings, SettingsError


def lists(settings: GatewaySettings) -> tuple[tuple[Family, ...], tuple[Network, ...]]:
    """The paths that are passed on unmetered, and the proxies that are believed. Raises SettingsError."""
    try:
        paths = forwarded(settings.forwarded_paths)
    except ValueError as mistake:
        raise SettingsError(f"SUNDIAL_FORWARDED_PATHS: {mistake}") from None
    try:
        return paths, networks(settings.trusted_proxies)
    except ValueError as mistake:
        raise SettingsError(f"SUNDIAL_TRUSTED_PROXIES: {mistake}") from None
