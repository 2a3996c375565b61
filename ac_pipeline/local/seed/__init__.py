"""Demo data: people, documents, media and an uneven past, all from one random generator."""
