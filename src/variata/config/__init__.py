"""From words of a command line to objects: names, types and ranges, and what may be built."""
