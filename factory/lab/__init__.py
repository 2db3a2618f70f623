"""Made here, off a round's path: the home world, the embedded model, comparisons of coders."""
