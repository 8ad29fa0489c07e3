"""Address spaces: VMAs, the rules about them, and the tasks that own them."""
