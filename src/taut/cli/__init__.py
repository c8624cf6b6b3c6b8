"""The command line. Read ``app`` first; ``terminal`` says what a person sees."""
