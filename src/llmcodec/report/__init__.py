"""From results to what a person reads: tables, verdict, figures, the HTML page."""
