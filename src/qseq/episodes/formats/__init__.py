"""Other people's formats, one module each; their libraries are imported when they are used."""
