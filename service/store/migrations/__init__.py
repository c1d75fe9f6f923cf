"""Migrations of the tables, the same for both databases; each changes one version into the next."""
