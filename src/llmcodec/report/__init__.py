"""Presentation of results: tables, verdict, figures, the HTML page."""
