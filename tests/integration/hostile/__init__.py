"""One running server against files and options that mean harm."""
