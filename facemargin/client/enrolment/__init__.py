"""Bulk enrolment from a folder or a CSV: the command ``facemargin enrol`` and what it is made of."""
