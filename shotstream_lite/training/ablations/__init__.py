"""What the paper compares its choices with: Tables 3 and 4, trained and measured."""
