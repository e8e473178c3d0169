"""Settings of the gateway that are lists, as it needs them. Pure."""

from gateway.families import Family, forwarded
from shared.listed import Network, networks
from shared.settings import GatewaySettings, SettingsError


def lists(settings: GatewaySettings) -> tuple[tuple[Family, ...], tuple[Network, ...]]:
    """The paths that are passed on unmetered, and the proxies that are believed. Both have their form, which the
    settings have checked. Raises SettingsError where a path is declared already: only the gateway knows which are."""
    try:
        return forwarded(settings.forwarded_paths), networks(settings.trusted_proxies)
    except ValueError as mistake:
        raise SettingsError(f"SUNDIAL_FORWARDED_PATHS: {mistake}") from None
