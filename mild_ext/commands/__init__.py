"""The commands of ``mild-ext``, a file each: what they do with their options, and what they print."""
