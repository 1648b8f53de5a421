"""A filled table as text: Markdown, LaTeX, CSV, the terminal, the HTML page and the committed README files."""
