"""What stored runs say: cells, tests of significance, findings below a table, provenance."""
