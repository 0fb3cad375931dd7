"""What a command said, however its lines were broken."""


def words(text):
    """Return the text with single spaces between its words."""
    return " ".join(text.split())
