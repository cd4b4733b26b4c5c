"""What runs, ladders and evaluations have recorded, as figures, model cards and self-contained HTML pages."""
