"""All words that the program prints: text, JSON, Markdown, a page."""
