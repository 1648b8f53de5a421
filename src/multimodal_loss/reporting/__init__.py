"""Tables, figures and the page, from stored runs. Reads results, never trains."""
