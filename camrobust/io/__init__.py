"""The only room that knows where bytes live."""
