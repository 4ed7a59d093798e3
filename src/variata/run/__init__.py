"""One run: its directory, how it starts, what it writes down."""
