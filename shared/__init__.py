"""What gateway, meter and command share: units, names, messages, keys and scripts. Imports nothing of the others."""
