"""What a run came to, for a person: figures, pictures and a page."""
