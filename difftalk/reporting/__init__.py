"""Reporting: averages and tables, the funnel, the pages, the figures on them, and the model card."""
