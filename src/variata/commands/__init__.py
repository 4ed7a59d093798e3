"""The commands of `variata`: parse, call, print."""
