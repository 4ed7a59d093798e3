"""Runs side by side: read from their directories, grouped, judged, drawn. Nothing here imports torch."""
