"""The command line. `launch` is light and composes; what imports torch comes after the configuration is known good."""
