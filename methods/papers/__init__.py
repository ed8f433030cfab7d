"""One module per paper, named by its key. Nothing else lives here."""
