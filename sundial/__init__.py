"""The command `sundial`: starts the programs and lets people read and order."""

__version__ = "0.1.0"
