"""Load tests run from the command line or a stage: start a server where none is given, drive it, measure, stop it."""
