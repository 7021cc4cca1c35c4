"""The command line: a thin coat over the public functions, one module for each command."""
