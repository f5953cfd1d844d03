"""What people look at: tables, the funnel, the page of a run, model cards."""
