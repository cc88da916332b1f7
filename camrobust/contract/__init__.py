"""What every room agrees on: configuration, columns, the record of a run, registries, errors. Imports no other room."""
