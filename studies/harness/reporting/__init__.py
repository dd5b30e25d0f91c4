"""What a run says: claims, verdict, report, comparison, status."""
