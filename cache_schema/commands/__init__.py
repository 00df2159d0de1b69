"""What the commands of both stages share: recipes, what they print, processes they start."""
