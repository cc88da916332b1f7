"""What a person meets: commands and their parsers."""
