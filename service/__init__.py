"""The REST service: embed, verify, enrol and search faces."""
