"""Programs that our adapters plug into, as far as their documents describe them: used where the programs are not."""
