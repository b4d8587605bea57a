"""What is measured: protocols and their figures as the field defines them; nothing here writes files."""
